"""`jobs-grpc watch`: follows a job until it finishes."""

import argparse
import random
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, connect
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.formatting import execution_counts, format_summary, is_active, utc_now
from jobs_grpc.cli.output import print_json, print_note
from jobs_grpc.client.channel import KEEPALIVE
from jobs_grpc.client.status_text import status_text

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers

# Seconds between the connections to an unavailable server.
_FIRST_DELAY = 0.2
_MAX_DELAY = 5.0

_DESCRIPTION = """\
Follow a job until it finishes. On a terminal, show a progress bar; otherwise print
a line for each change. Reconnects while the server is unavailable.
"""
_EXIT_CODES_HELP = """\
exit codes:
  0    the job is COMPLETED and every device SUCCEEDED
  3    job not found, or deleted
  4    the job finished with another result
  5    the job did not finish within --timeout
  130  interrupted
"""


def add_command(commands: "Subparsers") -> None:
    """Add `watch`."""
    parser = add_client_command(
        commands,
        "watch",
        _watch,
        usage="JOB",
        summary="follow a job until it finishes",
        json_help="print each state of the job as one line of JSON",
        timeout=None,
        timeout_help="exit with code 5 if the job does not finish in time (default: no timeout)",
    )
    parser.description = _DESCRIPTION
    parser.epilog = _EXIT_CODES_HELP
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")


class View(Protocol):
    """Shows the states of a job."""

    def show(self, job: pb.Job) -> None:
        """Show a new state of the job."""

    def show_unavailable(self, reason: str) -> None:
        """Show that the server is unavailable."""

    def close(self) -> None:
        """Leave the last state on the screen."""


class LineView:
    """Prints each state of a job with `print_line`."""

    def __init__(self, print_line: Callable[[pb.Job], None]) -> None:
        self._print_line = print_line
        self._unavailable = False

    def show(self, job: pb.Job) -> None:
        self._unavailable = False
        self._print_line(job)

    def show_unavailable(self, reason: str) -> None:
        if not self._unavailable:
            self._unavailable = True
            print_note(f"server unavailable, retrying: {reason}")

    def close(self) -> None: ...


def _watch(args: argparse.Namespace) -> None:
    view = _choose_view(args)
    last: pb.Job | None = None
    try:
        with closing(_follow(args, view.show_unavailable)) as jobs:
            for job in jobs:
                # After a reconnect, the server sends the current state again.
                if job != last:
                    last = job
                    view.show(job)
    except KeyboardInterrupt:
        view.close()
        if last:
            print_note(format_summary(last))
        raise
    finally:
        view.close()
    assert last  # noqa: S101 - _follow yields at least the finished job
    if last.status != pb.Job.COMPLETED or last.succeeded_count != last.total_executions:
        raise CliError(format_summary(last), ExitCode.WRONG_STATE)
    if not isinstance(view, LineView):
        print(format_summary(last))


def _follow(
    args: argparse.Namespace, on_unavailable: Callable[[str], None]
) -> Generator[pb.Job, None, None]:
    """Yield the states of the job up to the finished one; reconnect after a lost connection."""
    request = pb.WatchJobRequest(job_id=args.job_id)
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    delay = _FIRST_DELAY
    while True:
        try:
            # A new channel each time, because a failed channel has a backoff of its own.
            with connect(args, *KEEPALIVE) as connection:
                options = connection.call_options | {"timeout": _remaining(deadline)}
                responses: Any = connection.stub.WatchJob(request, **options)
                for response in responses:
                    delay = _FIRST_DELAY
                    yield response.job
                    if not is_active(response.job):
                        return
        except grpc.RpcError as e:
            remaining = _remaining(deadline)
            if remaining is not None and remaining <= 0:
                raise CliError(
                    f"{args.job_id} did not finish within {args.timeout:g} seconds",
                    ExitCode.UNAVAILABLE,
                ) from None
            if e.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            on_unavailable(status_text(e.code(), e.details()))
        remaining = _remaining(deadline)
        time.sleep(min(delay, remaining) if remaining is not None else delay)
        # At random, so that clients do not retry in step.
        delay = min(delay * random.uniform(1.5, 2), _MAX_DELAY)  # noqa: S311 - not for security


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _choose_view(args: argparse.Namespace) -> View:
    if args.json:
        return LineView(lambda job: print_json(job, indent=None))
    if sys.stdout.isatty():
        try:
            from jobs_grpc.cli.live import LiveView
        except ImportError:
            pass  # rich is not installed
        else:
            return LiveView()
    return LineView(_print_line)


def _print_line(job: pb.Job) -> None:
    counts = [f"{status}={count}" for status, count in execution_counts(job).items()]
    status = pb.Job.Status.Name(job.status)
    print(utc_now("milliseconds"), status, *counts, f"total={job.total_executions}", flush=True)
