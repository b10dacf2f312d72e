"""Completes arguments in the shell: names of contexts, and ids that the server knows."""

import argparse
import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.connection import connect
from jobs_grpc.cli.contexts import load_contexts
from jobs_grpc.client import JobsClient, RetryPolicy

# A key press must not hang: if the server does not respond in this time, nothing is completed.
_SECONDS = 1.0

# One call returns at most this many, which are enough to choose from.
_JOBS = 200
_EXECUTIONS = 1000
_JOBS_WITH_DEVICES = 5

_ACTIVE = (pb.Job.IN_PROGRESS, pb.Job.PAUSED)

# The statuses of the jobs that a command is for; others are for any job.
_STATUSES = {
    "pause": (pb.Job.IN_PROGRESS,),
    "resume": (pb.Job.PAUSED,),
    "delete": (pb.Job.COMPLETED, pb.Job.CANCELED),
    **dict.fromkeys(("advance", "approve", "cancel", "update"), _ACTIVE),
}

# The fields of a job that have the values of other arguments, by the name of the argument.
_FIELDS = {
    "type": "document_type",
    "created_by": "created_by",
    "group": "target_group_id",
    "target_group": "target_group_id",
}


def complete_argument(
    prefix: str,
    action: argparse.Action,
    parser: argparse.ArgumentParser,
    parsed_args: argparse.Namespace,
    **_: Any,
) -> Iterable[str]:
    """Return the values of an argument that has no completer of its own, for argcomplete.

    Fails silently: an error message would be printed into the line that the user types.
    """

    try:
        if action.dest in ("context", "name"):
            return load_contexts().by_name
        find = _find(action, parser.prog.rpartition(" ")[2], parsed_args)
        if find is None:
            from argcomplete.completers import FilesCompleter

            return FilesCompleter()(prefix)
        return [value for value in dict.fromkeys(asyncio.run(_ask(parsed_args, find))) if value]
    except Exception:
        return []


async def _ask(
    args: argparse.Namespace, find: Callable[[JobsClient], Awaitable[Iterable[str]]]
) -> Iterable[str]:
    async with asyncio.timeout(_SECONDS), connect(args, RetryPolicy(max_attempts=1)) as jobs:
        return await find(jobs)


def _find(
    action: argparse.Action, command: str, args: argparse.Namespace
) -> Callable[[JobsClient], Awaitable[Iterable[str]]] | None:
    """Return how to find the values of an argument; None if the server does not know them."""
    match action.dest:
        case "job_id" | "job_ids" if not action.option_strings:
            statuses = _STATUSES.get(command, ())
            return lambda jobs: _list(jobs.list(statuses=statuses, limit=_JOBS), "job_id")
        case "device" | "device_id" | "target_device":
            return lambda jobs: _device_ids(jobs, args)
        case "failure_code":
            return lambda jobs: _failure_codes(jobs, args.job_id)
        case name if field := _FIELDS.get(name):
            return lambda jobs: _list(jobs.list(limit=_JOBS), field)
    return None


async def _device_ids(jobs: JobsClient, args: argparse.Namespace) -> Iterable[str]:
    """Return the devices of the job in the command, or of the newest jobs."""
    job_id = getattr(args, "job_id", None)
    given = [job_id] if job_id else getattr(args, "job_ids", None)
    ids = given or await _list(jobs.list(limit=_JOBS_WITH_DEVICES), "job_id")
    found = await asyncio.gather(
        *(_list(jobs.executions(i, limit=_EXECUTIONS), "device_id") for i in ids)
    )
    return [device_id for of_job in found for device_id in of_job]


async def _failure_codes(jobs: JobsClient, job_id: str) -> Iterable[str]:
    return [failure.failure_code for failure in (await jobs.failures(job_id)).failures]


async def _list(items: AsyncIterable[Any], field: str) -> list[str]:
    return [getattr(item, field) for item in [item async for item in items]]
