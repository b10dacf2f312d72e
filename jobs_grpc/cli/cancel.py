"""`jobs-grpc cancel`: cancels a job or one of its executions."""

import argparse
from typing import TYPE_CHECKING

from jobs_grpc.cli import arguments, completers
from jobs_grpc.cli.connection import add_client_command
from jobs_grpc.cli.output import print_message
from jobs_grpc.client import JobsClient
from jobs_grpc.text import escape_unprintable

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from jobs_grpc.cli.arguments import Subparsers


def add_command(commands: "Subparsers") -> None:
    """Add `cancel`."""
    parser = add_client_command(
        commands, "cancel", _cancel, usage="JOB", summary="cancel a job or one of its executions"
    )
    arguments.add_job(parser, *completers.ACTIVE)
    completers.attach(
        parser.add_argument(
            "--device",
            type=arguments.text,
            metavar="ID",
            help="cancel only the execution of this device",
        ),
        completers.device_ids,
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


async def _cancel(args: argparse.Namespace, jobs: JobsClient) -> None:
    canceled: Message
    if args.device is None:
        canceled = await jobs.cancel(args.job_id, reason=args.reason, force=args.force)
        done = f"canceled {args.job_id}"
    else:
        canceled = await jobs.cancel_execution(
            args.job_id, args.device, reason=args.reason, force=args.force
        )
        done = f"canceled {args.job_id} on {args.device}"
    if args.output == "text":
        print(escape_unprintable(done))
    else:
        print_message(canceled, args.output)
