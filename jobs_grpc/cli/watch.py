"""`jobs-grpc watch`: follow a job until it is over."""

import argparse
import random
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import errors
from jobs_grpc.cli.connection import add_client_command, connected
from jobs_grpc.cli.errors import Failed
from jobs_grpc.cli.output import note, print_json
from jobs_grpc.client.channel import KEEPALIVE
from jobs_grpc.client.status_text import call_text

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands

# Seconds between attempts to reach a server that is away.
_FIRST_DELAY = 0.2
_MAX_DELAY = 5.0

_EXIT_CODES = """\
exit codes:
  0    the job is COMPLETED, and all of its devices SUCCEEDED
  4    the job is over, but not so
  3    no such job, or it has been deleted
  5    the job was not over within --timeout
  130  Ctrl-C
"""


def add_commands(commands: "Commands") -> None:
    """Add `watch`."""
    parser = add_client_command(commands, "watch", _watch, "follow a job until it is over")
    parser.description = (
        "Follow a job until it is over: on a terminal with a bar, elsewhere with a line a\n"
        "change. While the server is away, it is tried again."
    )
    parser.epilog = _EXIT_CODES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("job_id", metavar="JOB")
    for action in parser._actions:
        if action.dest == "timeout":
            action.default, action.help = None, "follow it that long at most [for ever]"
        elif action.dest == "json":
            action.help = "each state as a line of JSON"


class View(Protocol):
    """Where the states of a job are shown."""

    def show(self, job: pb.Job) -> None:
        """The job has changed."""

    def lost(self, reason: str) -> None:
        """The server is away; it will be tried again."""

    def close(self) -> None:
        """Nothing follows."""


class Lines:
    """A line a change, printed by `print_line`."""

    def __init__(self, print_line: Callable[[pb.Job], None]) -> None:
        self._print_line = print_line
        self._away = False

    def show(self, job: pb.Job) -> None:
        self._away = False
        self._print_line(job)

    def lost(self, reason: str) -> None:
        if not self._away:
            self._away = True
            note(f"the server is away, trying again: {reason}")

    def close(self) -> None: ...


def _watch(args: argparse.Namespace) -> None:
    view = _view(args)
    last: pb.Job | None = None
    try:
        with closing(_follow(args, view.lost)) as jobs:
            for job in jobs:
                # After a reconnection, the first answer is often known already.
                if job != last:
                    last = job
                    view.show(job)
    except KeyboardInterrupt:
        view.close()
        if last:
            note(summary(last))
        raise
    finally:
        view.close()
    assert last  # noqa: S101 - the last answer is the job that is over
    if last.status != pb.Job.COMPLETED or last.succeeded_count != last.total_executions:
        raise Failed(summary(last), errors.REFUSED)
    if isinstance(view, Lines):
        return  # The last line says it all.
    print(summary(last))


def _follow(args: argparse.Namespace, lost: Callable[[str], None]) -> Generator[pb.Job, None, None]:
    request = pb.WatchJobRequest(job_id=args.job_id)
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    delay = _FIRST_DELAY
    while True:
        try:
            # A channel an attempt: one that failed would wait ever longer by itself.
            with connected(args, *KEEPALIVE) as client:
                options = client.with_caller | {"timeout": _left(deadline)}
                responses: Any = client.stub.WatchJob(request, **options)
                for response in responses:
                    delay = _FIRST_DELAY
                    yield response.job
                    if response.job.status != pb.Job.IN_PROGRESS:
                        return
        except grpc.RpcError as e:
            left = _left(deadline)
            if left is not None and left <= 0:
                raise Failed(
                    f"{args.job_id} was not over within {args.timeout:g} seconds",
                    errors.UNAVAILABLE,
                ) from None
            if e.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            lost(call_text(e.code(), e.details()))
        left = _left(deadline)
        time.sleep(min(delay, left) if left is not None else delay)
        delay = min(delay * random.uniform(1.5, 2), _MAX_DELAY)  # noqa: S311 - spreads clients


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _view(args: argparse.Namespace) -> View:
    if args.json:
        return Lines(_print_json_line)
    if sys.stdout.isatty():
        try:
            from jobs_grpc.cli.live import LiveJob
        except ImportError:
            pass  # without rich
        else:
            return LiveJob()
    return Lines(_print_line)


def counts(job: pb.Job) -> dict[str, int]:
    """How many devices are in each state, in the order of a device's life."""
    fields = job.execution_counts.DESCRIPTOR.fields
    return {field.name: getattr(job.execution_counts, field.name) for field in fields}


def age(job: pb.Job) -> timedelta:
    """How long it has been going on, or went on until it was over."""
    if job.status == pb.Job.IN_PROGRESS:
        end = datetime.now(UTC)
    else:
        end = (job.completed_at if job.HasField("completed_at") else job.updated_at).ToDatetime(UTC)
    return max(end - job.created_at.ToDatetime(UTC), timedelta())


def clock(time: timedelta) -> str:
    """The time in whole seconds: 0:01:30."""
    return str(timedelta(seconds=int(time.total_seconds())))


def summary(job: pb.Job) -> str:
    """Where a job stands, in one line."""
    states = [f"{count} {state.upper()}" for state, count in counts(job).items() if count]
    status = pb.Job.Status.Name(job.status)
    return f"{job.job_id} is {status} after {clock(age(job))}: {', '.join(states)}"


def _print_line(job: pb.Job) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    numbers = [f"{state}={count}" for state, count in counts(job).items()]
    status = pb.Job.Status.Name(job.status)
    print(now, status, *numbers, f"total={job.total_executions}", flush=True)


def _print_json_line(job: pb.Job) -> None:
    print_json(job, indent=None)
