"""What `cancel` and `delete` share: one call for each job, and a question before large jobs."""

import argparse
from collections.abc import Awaitable, Callable

import grpc

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import resolve_target
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.questions import ask, can_ask
from jobs_grpc.client import JobsClient, JobsError

# Commands ask before jobs that have more devices in total.
_MAX_DEVICES_WITHOUT_QUESTION = 1000


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add one or more arguments JOB, and --yes."""
    parser.add_argument(
        "job_ids", type=arguments.text, nargs="+", metavar="JOB", help="IDs of the jobs"
    )
    arguments.add_yes(
        parser,
        "do not ask; without it, a terminal asks before jobs of more than "
        f"{_MAX_DEVICES_WITHOUT_QUESTION:,} devices",
    )
    arguments.add_etag(parser)


async def confirm(args: argparse.Namespace, jobs: JobsClient, verb: str) -> None:
    """On a terminal, ask before large jobs are ended by `verb`. Raises CliError after a "no".

    Raises CliError, too, if several jobs must have one etag.

    Without a terminal, it does not ask, because scripts cannot answer.
    """
    if args.etag and len(args.job_ids) > 1:
        raise CliError("--etag is of one job: name only one", ExitCode.USAGE)
    if args.yes or not can_ask():
        return
    devices = sum([await _count_devices(jobs, job_id) for job_id in args.job_ids])
    if devices <= _MAX_DEVICES_WITHOUT_QUESTION:
        return
    count = len(args.job_ids)
    what = args.job_ids[0] if count == 1 else f"{count} jobs"
    if not await ask(f"{verb} {what} ({devices:,} devices)?"):
        raise CliError(f"nothing was changed; to {verb} without this question, add --yes")


async def _count_devices(jobs: JobsClient, job_id: str) -> int:
    try:
        return (await jobs.get(job_id)).total_executions
    except JobsError as e:
        if e.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
            return 0  # The call that follows reports the error.
        raise  # That call may succeed.


async def for_each_job(args: argparse.Namespace, call: Callable[[str], Awaitable[None]]) -> None:
    """Make a call for each job. Continue after an error, unless the server is unavailable.

    Raises CliError, or an exception group of several.
    """
    errors: list[CliError] = []
    for job_id in args.job_ids:
        try:
            await call(job_id)
        except JobsError as e:
            error = resolve_target(args).call_error(e)
            if len(args.job_ids) > 1 and job_id not in str(error):
                error.args = (f"{job_id}: {error}",)
            errors.append(error)
            if error.exit_code is ExitCode.UNAVAILABLE:
                break
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup("several jobs failed", errors)
