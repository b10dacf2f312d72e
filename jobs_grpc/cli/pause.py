"""`jobs-grpc pause` and `jobs-grpc resume`: stop and continue the starts of a job."""

import argparse
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, connect
from jobs_grpc.cli.formatting import format_counts, format_expiry, format_pause
from jobs_grpc.cli.output import print_json
from jobs_grpc.text import escape_unprintable

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers


def add_command(commands: "Subparsers") -> None:
    """Add `pause` and `resume`."""
    parser = add_client_command(
        commands,
        "pause",
        _pause,
        usage="JOB",
        summary="pause a job, so that no device starts it",
    )
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")
    parser.add_argument(
        "--reason",
        type=arguments.text,
        default="",
        metavar="TEXT",
        help="reason to store (default: paused by operator)",
    )
    parser = add_client_command(
        commands, "resume", _resume, usage="JOB", summary="end the pause of a job"
    )
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")
    parser.add_argument(
        "--etag",
        type=arguments.text,
        default="",
        metavar="ETAG",
        help="do nothing if the job has another etag (see get --json)",
    )


def _pause(args: argparse.Namespace) -> None:
    request = pb.PauseJobRequest(job_id=args.job_id, reason=args.reason)
    with connect(args) as connection:
        response: pb.PauseJobResponse = connection.call("PauseJob", request)
    if args.json:
        print_json(response)
        return
    job = response.job
    print(escape_unprintable(f"{job.job_id} is paused {format_pause(job)}"))
    print(f"{format_counts(job)}, expires: {format_expiry(job)}")


def _resume(args: argparse.Namespace) -> None:
    request = pb.ResumeJobRequest(job_id=args.job_id, etag=args.etag)
    with connect(args) as connection:
        response: pb.ResumeJobResponse = connection.call("ResumeJob", request)
    if args.json:
        print_json(response)
    else:
        print(f"resumed {escape_unprintable(response.job.job_id)}: {format_counts(response.job)}")
