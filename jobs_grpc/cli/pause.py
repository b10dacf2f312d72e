"""`jobs-grpc pause` and `jobs-grpc resume`: stop and continue the starts of a job."""

import argparse

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.changes import is_unchanged, read_before
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.formatting import format_counts, format_expiry, format_pause
from jobs_grpc.cli.output import print_message
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import JobsClient
from jobs_grpc.text import escape_unprintable


def add_command(commands: Subparsers) -> None:
    """Add `pause` and `resume`."""
    parser = add_client_command(
        commands,
        "pause",
        _pause,
        usage="JOB",
        summary="pause a job, so that no device starts it",
    )
    arguments.add_job(parser, pb.Job.IN_PROGRESS)
    arguments.add_text(parser, "--reason", "reason to store (default: paused by operator)")
    arguments.add_etag(parser)
    parser = add_client_command(
        commands, "resume", _resume, usage="JOB", summary="end the pause of a job"
    )
    arguments.add_job(parser, pb.Job.PAUSED)
    arguments.add_etag(parser)


async def _pause(args: argparse.Namespace, jobs: JobsClient) -> None:
    before = await read_before(args, jobs)
    job = await jobs.pause(args.job_id, reason=args.reason, etag=args.etag)
    if args.output != "text":
        print_message(job, args.output)
        return
    paused = "was already paused, so nothing changed:" if is_unchanged(job, before) else "is paused"
    print(escape_unprintable(f"{job.job_id} {paused} {format_pause(job, args.utc)}"))
    if is_unchanged(job, before) and args.reason not in ("", job.pause.reason):
        print("to change the reason, resume the job and pause it again")
    print(f"{format_counts(job)}, expires: {format_expiry(job, args.utc)}")


async def _resume(args: argparse.Namespace, jobs: JobsClient) -> None:
    before = await read_before(args, jobs)
    job = await jobs.resume(args.job_id, etag=args.etag)
    if args.output != "text":
        print_message(job, args.output)
        return
    job_id = escape_unprintable(job.job_id)
    if is_unchanged(job, before):
        print(f"{job_id} was not paused, so nothing changed: {format_counts(job)}")
    else:
        print(f"resumed {job_id}: {format_counts(job)}")
