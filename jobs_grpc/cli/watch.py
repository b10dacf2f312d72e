"""`jobs-grpc watch`: follows a job until it finishes."""

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.command import Subparsers, add_server_command
from jobs_grpc.cli.connection import connect, resolve_target
from jobs_grpc.cli.errors import CliError, ExitCode, retry_note
from jobs_grpc.cli.formatting import counts_by_status, format_summary, format_time, utc_now
from jobs_grpc.cli.output import print_message, print_note
from jobs_grpc.cli.rollout_text import describe_wait, next_steps
from jobs_grpc.cli.watch_reads import last_events, stalled_devices
from jobs_grpc.client import RetryPolicy, job_status_name

if TYPE_CHECKING:
    from jobs_grpc.cli.live import LiveView

_EXIT_CODES_HELP = """\
exit codes:
  0    the job is COMPLETED and every device SUCCEEDED
  3    job not found, or deleted
  4    the job finished with another result
  5    the job did not finish within --timeout
  130  interrupted
"""


def add_command(commands: Subparsers) -> None:
    timeout = (None, "exit with code 5 if the job does not finish in time (default: no timeout)")
    parser = add_server_command(
        commands, "watch JOB", _watch, pb.WatchJobRequest, own_timeout=timeout
    )
    parser.epilog = _EXIT_CODES_HELP
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


class LineView:
    """Prints each state of a job with `print_line`, and notes on stderr."""

    def __init__(self, print_line: Callable[[pb.Job], None], *, explains: bool = False) -> None:
        """If it `explains`, the notes say what the job waits for and how it can continue."""
        self._print_line = print_line
        self._explains = explains
        self._explanation: list[str] = []
        self._note_shown = False
        self._stalled: list[str] = []

    def show(self, job: pb.Job) -> None:
        self._note_shown = False
        self._print_line(job)
        if not self._explains:
            return
        wait = describe_wait(job, lambda until: f"at {format_time(until)}")
        explanation = [wait, *next_steps(job)] if wait else []
        if explanation != self._explanation:
            print_note(*explanation)
        self._explanation = explanation

    def show_stalled(self, lines: list[str]) -> None:
        if lines != self._stalled:
            print_note(*lines)
        self._stalled = lines

    def show_retry(self, note: str) -> None:
        if not self._note_shown:
            self._note_shown = True
            print_note(note)

    def close(self) -> None: ...


def _watch(args: argparse.Namespace) -> None:
    """Follow a job until it finishes.

    On a terminal, show a progress bar and the last events; otherwise print a line
    for each change. Reconnects while the server is unavailable. A continuous job
    finishes only after `update JOB --no-continuous`, a cancel or its expiry.

    jobs-grpc watch update-1
    jobs-grpc watch update-1 --json --timeout 3600
    """
    asyncio.run(_follow(args))


async def _follow(args: argparse.Namespace) -> None:
    server = resolve_target(args).server
    view = _choose_view(args)
    retry = RetryPolicy(on_retry=lambda error: view.show_retry(retry_note(error, server)))
    last: pb.Job | None = None
    try:
        async with (
            asyncio.timeout(args.timeout),
            connect(args, retry) as jobs,
            nullcontext()
            if isinstance(view, LineView)
            else last_events(args, view.show_events) as read_events,
            stalled_devices(jobs, view.show_stalled)
            if args.output == "text"
            else nullcontext() as look_for_stalled,
        ):
            async for last in jobs.watch(args.job_id):
                view.show(last)
                if look_for_stalled:
                    look_for_stalled(last)
                if read_events:
                    read_events()
    except asyncio.CancelledError:
        view.close()
        if last:
            print_note(format_summary(last))
        raise
    except TimeoutError:
        raise CliError(
            f"{args.job_id} did not finish within {args.timeout:g} seconds", ExitCode.UNAVAILABLE
        ) from None
    finally:
        view.close()
    if last is None:
        raise CliError("the watch ended without a state of the job", ExitCode.UNAVAILABLE)
    if last.status != pb.Job.COMPLETED or last.succeeded_count != last.total_executions:
        raise CliError(format_summary(last), ExitCode.WRONG_STATE)
    if not isinstance(view, LineView):
        print(format_summary(last))


def _choose_view(args: argparse.Namespace) -> "LineView | LiveView":
    if args.output != "text":
        return LineView(_print_json_line)
    if sys.stdout.isatty():
        try:
            from jobs_grpc.cli.live import LiveView
        except ImportError:
            pass  # rich is not installed
        else:
            return LiveView()
    return LineView(_print_line, explains=True)


def _print_json_line(job: pb.Job) -> None:
    print_message(job, "jsonl")
    sys.stdout.flush()


def _print_line(job: pb.Job) -> None:
    numbers = {**counts_by_status(job.execution_counts), "total": job.total_executions}
    counts = [f"{name}={number}" for name, number in numbers.items()]
    print(utc_now("milliseconds"), job_status_name(job.status), *counts, flush=True)
