"""`jobs-grpc retry`: queues unsuccessful executions of a job again."""

import argparse
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, connect
from jobs_grpc.cli.formatting import format_expiry
from jobs_grpc.cli.output import print_json
from jobs_grpc.text import escape_unprintable

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers


def add_command(commands: "Subparsers") -> None:
    """Add `retry`."""
    parser = add_client_command(
        commands,
        "retry",
        _retry,
        usage="JOB --status STATUS [STATUS ...]",
        summary="queue unsuccessful executions of a job again",
    )
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")
    parser.add_argument(
        "--status",
        choices=("FAILED", "TIMED_OUT", "REJECTED"),
        action="extend",
        nargs="+",
        required=True,
        metavar="STATUS",
        help="retry executions with this status: FAILED, TIMED_OUT or REJECTED",
    )
    parser.add_argument(
        "--failure-code",
        type=arguments.text,
        action="extend",
        nargs="+",
        default=[],
        metavar="CODE",
        help="retry only executions that failed with this code; '' selects those without a code",
    )
    parser.add_argument(
        "--device",
        type=arguments.text,
        action="extend",
        nargs="+",
        default=[],
        metavar="ID",
        help="retry only the executions of these devices",
    )
    expiry = parser.add_mutually_exclusive_group()
    expiry.add_argument(
        "--expires-in-hours",
        type=arguments.expiry_hours,
        metavar="N",
        help="hours from now until the job expires, 1–720 (default: unchanged)",
    )
    expiry.add_argument("--never-expires", action="store_true", help="do not let the job expire")


def _retry(args: argparse.Namespace) -> None:
    request = pb.RetryExecutionsRequest(
        job_id=args.job_id,
        statuses=args.status,
        expires_in_hours=args.expires_in_hours,
        never_expires=args.never_expires,
        failure_codes=args.failure_code,
        device_ids=args.device,
    )
    with connect(args) as connection:
        response: pb.RetryExecutionsResponse = connection.call("RetryExecutions", request)
    if args.json:
        print_json(response)
        return
    job_id = escape_unprintable(args.job_id)
    count = response.retried_count
    executions = f"{count} execution{'' if count == 1 else 's'}"
    print(f"queued {executions} of {job_id} again, expires: {format_expiry(response)}")
