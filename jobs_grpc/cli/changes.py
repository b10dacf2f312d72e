"""Asks before a change, and tells what a call has changed.

A call that is safe to repeat also succeeds if it changes nothing, with the same response. A call
that is interrupted, or whose response is lost, may have changed something.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.connection import resolve_target
from jobs_grpc.cli.errors import CliError
from jobs_grpc.cli.output import print_note
from jobs_grpc.client import JobsClient, JobsError, errors
from jobs_grpc.text import escape_unprintable

LOST_RESPONSE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Codes of errors after which the server may have carried out the call."""


async def read_before(args: argparse.Namespace, jobs: JobsClient) -> pb.Job | None:
    """Return the job before the call; None if it does not exist, or for output without text."""
    if args.output == "text" and args.job_id:
        with suppress(errors.JobNotFound):
            return await jobs.get(args.job_id)
    return None


def is_unchanged(job: pb.Job, before: pb.Job | None) -> bool:
    """Return whether no call has changed the job since it was read."""
    return before is not None and job.etag == before.etag


@contextmanager
def explaining_failures(
    args: argparse.Namespace,
    explain: Callable[[], str],
    codes: frozenset[grpc.StatusCode] = frozenset(grpc.StatusCode),
) -> Iterator[None]:
    """Say how to go on if the block is interrupted, or a call in it fails with one of the codes.

    `explain` returns the text, or "" if there is nothing to say. It is added to the error.
    """
    try:
        yield
    except asyncio.CancelledError:
        if text := explain():
            print_note(f"interrupted; {text}")
        raise
    except JobsError as e:
        if e.code not in codes or not (text := explain()):
            raise
        error = resolve_target(args).call_error(e)
        error.args = (f"{error}; {text}",)
        raise error from None


def can_ask() -> bool:
    """Return whether a person can answer: scripts have no terminal."""
    return all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr))


async def confirm(question: str, *, yes: bool, verb: str) -> None:
    """Ask a person on a terminal, unless --yes is given. Raises CliError after a "no"."""
    if not yes and can_ask() and not await ask(question):
        raise CliError(f"nothing was changed; to {verb} without this question, add --yes")


async def ask(question: str) -> bool:
    """Ask a question that has the answers yes and no. Ctrl-C ends the wait."""
    print(f"{escape_unprintable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline().strip().lower() in ("y", "yes")
