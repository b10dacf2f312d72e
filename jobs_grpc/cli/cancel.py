"""`jobs-grpc cancel`: cancels a job or one of its executions."""

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
    """Add `cancel`."""
    parser = add_client_command(
        commands, "cancel", _cancel, usage="JOB", summary="cancel a job or one of its executions"
    )
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")
    parser.add_argument(
        "--device",
        type=arguments.text,
        metavar="ID",
        help="cancel only the execution of this device",
    )
    parser.add_argument(
        "--reason",
        type=arguments.text,
        default="",
        metavar="TEXT",
        help="reason to store (default: canceled by operator)",
    )
    parser.add_argument(
        "--force", action="store_true", help="also cancel executions that are IN_PROGRESS"
    )


def _cancel(args: argparse.Namespace) -> None:
    if args.device is not None:
        _cancel_execution(args)
        return
    request = pb.CancelJobRequest(job_id=args.job_id, reason=args.reason, force=args.force)
    with connect(args) as connection:
        response: pb.CancelJobResponse = connection.call("CancelJob", request)
    if args.json:
        print_json(response)
    else:
        print(f"canceled {escape_unprintable(response.job_id)}")


def _cancel_execution(args: argparse.Namespace) -> None:
    request = pb.CancelExecutionRequest(
        job_id=args.job_id, device_id=args.device, reason=args.reason, force=args.force
    )
    with connect(args) as connection:
        response: pb.CancelExecutionResponse = connection.call("CancelExecution", request)
    if args.json:
        print_json(response)
    else:
        device_id = escape_unprintable(response.execution.device_id)
        print(f"canceled {escape_unprintable(args.job_id)} on {device_id}")
