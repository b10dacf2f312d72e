"""`jobs-grpc delete`: deletes a finished job."""

import argparse
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments, completers
from jobs_grpc.cli.connection import add_client_command
from jobs_grpc.cli.output import print_message
from jobs_grpc.client import JobsClient
from jobs_grpc.text import escape_unprintable

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers


def add_command(commands: "Subparsers") -> None:
    """Add `delete`."""
    parser = add_client_command(
        commands, "delete", _delete, usage="JOB", summary="delete a finished job"
    )
    arguments.add_job(parser, *completers.FINISHED)


async def _delete(args: argparse.Namespace, jobs: JobsClient) -> None:
    await jobs.delete(args.job_id)
    if args.output == "text":
        print(f"deleted {escape_unprintable(args.job_id)}")
    else:
        print_message(pb.DeleteJobResponse(), args.output)
