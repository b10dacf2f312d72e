"""Completes arguments in the shell: names of contexts, and ids that the server knows.

argcomplete calls these functions with the arguments that the user has typed.
"""

import argparse
import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.connection import connect
from jobs_grpc.cli.contexts import load_contexts
from jobs_grpc.client import JobsClient, RetryPolicy

Completer: TypeAlias = Callable[..., Iterable[str]]

# A key press must not hang: if the server does not respond in this time, nothing is completed.
_SECONDS = 1.0

# One call returns at most this many, which are enough to choose from.
_JOBS = 200
_EXECUTIONS = 1000
_JOBS_WITH_DEVICES = 5

ACTIVE = (pb.Job.IN_PROGRESS, pb.Job.PAUSED)
FINISHED = (pb.Job.COMPLETED, pb.Job.CANCELED)


def attach(action: argparse.Action, completer: Completer) -> None:
    """Let argcomplete complete an argument."""
    action.completer = completer  # type: ignore[attr-defined]


def context_names(**_: Any) -> Iterable[str]:
    """Complete the name of a context."""
    try:
        return load_contexts().by_name
    except Exception:
        return []


def job_ids(*statuses: pb.Job.Status.ValueType) -> Completer:
    """Complete the id of a recent job in one of the statuses, or in any."""

    def complete(parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
        return _ask(
            parsed_args, lambda jobs: _list(jobs.list(statuses=statuses, limit=_JOBS), "job_id")
        )

    return complete


def job_values(field: str) -> Completer:
    """Complete a value that this field of a recent job has."""

    def complete(parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
        return _ask(parsed_args, lambda jobs: _list(jobs.list(limit=_JOBS), field))

    return complete


def device_ids(parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """Complete the id of a device of the job, or of the newest jobs."""

    async def find(jobs: JobsClient) -> Iterable[str]:
        job_id = getattr(parsed_args, "job_id", None)
        given = [job_id] if job_id else getattr(parsed_args, "job_ids", None)
        ids = given or await _list(jobs.list(limit=_JOBS_WITH_DEVICES), "job_id")
        found = await asyncio.gather(
            *(_list(jobs.executions(i, limit=_EXECUTIONS), "device_id") for i in ids)
        )
        return [device_id for of_job in found for device_id in of_job]

    return _ask(parsed_args, find)


def failure_codes(parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """Complete a failure code of the job."""

    async def find(jobs: JobsClient) -> Iterable[str]:
        summary = await jobs.failures(parsed_args.job_id)
        return [failure.failure_code for failure in summary.failures]

    return _ask(parsed_args, find)


async def _list(items: AsyncIterable[Any], field: str) -> list[str]:
    return [getattr(item, field) for item in [item async for item in items]]


def _ask(
    args: argparse.Namespace, question: Callable[[JobsClient], Awaitable[Iterable[str]]]
) -> list[str]:
    """Ask the server that the arguments, the environment and the context name.

    Fails silently: an error message would be printed into the line that the user types.
    """

    async def ask() -> Iterable[str]:
        async with (
            asyncio.timeout(_SECONDS),
            connect(args, RetryPolicy(max_attempts=1)) as jobs,
        ):
            return await question(jobs)

    try:
        return [value for value in dict.fromkeys(asyncio.run(ask())) if value]
    except Exception:
        return []
