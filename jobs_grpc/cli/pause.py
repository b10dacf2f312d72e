"""`jobs-grpc pause` and `jobs-grpc resume`: stop and continue the starts of a job."""

import argparse

from jobs_grpc.cli import arguments
from jobs_grpc.cli.changes import is_unchanged, read_before
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.formatting import format_counts, format_expiry, format_pause
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import JobsClient


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "pause JOB", _pause)
    arguments.add_job(parser)
    help_text = "reason to store (default: paused by operator)"
    arguments.add_options(parser, {"--reason TEXT": help_text}, default="")
    arguments.add_etag(parser)
    parser = add_client_command(commands, "resume JOB", _resume)
    arguments.add_job(parser)
    arguments.add_etag(parser)


async def _pause(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Pause a job, so that no device starts it.

    jobs-grpc pause update-1 --reason 'too many failures'
    jobs-grpc pause update-1 --etag 5
    """
    before = await read_before(args, jobs)
    job = await jobs.pause(args.job_id, reason=args.reason, etag=args.etag)
    paused = "was already paused, so nothing changed:" if is_unchanged(job, before) else "is paused"
    lines = [f"{job.job_id} {paused} {format_pause(job, args.utc)}"]
    if is_unchanged(job, before) and args.reason not in ("", job.pause.reason):
        lines.append("to change the reason, resume the job and pause it again")
    lines.append(f"{format_counts(job.execution_counts)}, expires: {format_expiry(job, args.utc)}")
    print_result(args, job, *lines)


async def _resume(args: argparse.Namespace, jobs: JobsClient) -> None:
    """End the pause of a job.

    jobs-grpc resume update-1
    jobs-grpc resume update-1 --etag 5
    """
    before = await read_before(args, jobs)
    job = await jobs.resume(args.job_id, etag=args.etag)
    unchanged = f"{job.job_id} was not paused, so nothing changed"
    done = unchanged if is_unchanged(job, before) else f"resumed {job.job_id}"
    print_result(args, job, f"{done}: {format_counts(job.execution_counts)}")
