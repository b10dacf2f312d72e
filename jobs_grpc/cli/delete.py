"""`jobs-grpc delete`: deletes a finished job."""

import argparse
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, connect
from jobs_grpc.cli.output import print_json
from jobs_grpc.text import escape_unprintable

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers


def add_command(commands: "Subparsers") -> None:
    """Add `delete`."""
    parser = add_client_command(
        commands, "delete", _delete, usage="JOB", summary="delete a finished job"
    )
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")


def _delete(args: argparse.Namespace) -> None:
    request = pb.DeleteJobRequest(job_id=args.job_id)
    with connect(args) as connection:
        response: pb.DeleteJobResponse = connection.call("DeleteJob", request)
    if args.json:
        print_json(response)
    else:
        print(f"deleted {escape_unprintable(args.job_id)}")
