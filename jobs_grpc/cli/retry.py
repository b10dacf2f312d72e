"""`jobs-grpc retry`: queues unsuccessful executions of a job again."""

import argparse

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.changes import read_before
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.formatting import format_expiry, format_number
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import JobsClient


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "retry JOB --status STATUS [STATUS ...]", _retry)
    arguments.add_job(parser)
    arguments.add_statuses(
        parser,
        arguments.failure_statuses,
        "retry executions with these statuses; REJECTED includes those that are CANCELED",
        required=True,
        canceled=arguments.REJECTED_INCLUDES_CANCELED,
    )
    arguments.add_texts(
        parser,
        "--failure-code",
        metavar="CODE",
        help_text="retry only executions with this failure code; '' selects those without one",
    )
    arguments.add_texts(
        parser,
        "--device",
        metavar="ID",
        help_text="retry only the executions of these devices",
    )
    hours = arguments.range_text(pb.RetryExecutionsRequest, "expires_in_hours")
    help_text = f"hours from now until the job expires, {hours} (default: unchanged)"
    arguments.add_expiry(parser, arguments.expiry_hours, help_text)
    arguments.add_etag(parser)


async def _retry(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Queue unsuccessful executions of a job again.

    jobs-grpc retry update-1 --status FAILED --failure-code FLASH
    jobs-grpc retry update-1 --status FAILED TIMED_OUT --expires-in-hours 24
    """
    before = await read_before(args, jobs)
    retried = await jobs.retry(
        args.job_id,
        [pb.JobExecution.Status.Value(name) for name in args.status],
        failure_codes=args.failure_code,
        device_ids=args.device,
        expires_in_hours=args.expires_in_hours,
        never_expires=args.never_expires,
        etag=args.etag,
    )
    job_id, count = args.job_id, retried.retried_count
    lines = [f"queued {format_number(count, 'execution')} of {job_id} again,"]
    if not count:
        lines = [f"no execution of {job_id} {_filters(args)}, so nothing changed;"]
    lines[0] += f" expires: {format_expiry(retried, args.utc)}"
    # A job that finished during a pause is PAUSED again.
    if count and before is not None and before.HasField("pause"):
        lines.append(f"{job_id} is PAUSED: no device starts before `jobs-grpc resume {job_id}`")
    print_result(args, retried, *lines)


def _filters(args: argparse.Namespace) -> str:
    """Describe the executions that the command retries."""
    text = f"is {' or '.join(dict.fromkeys(args.status))}"
    if args.failure_code:
        text += " with one of the failure codes"
    if args.device:
        text += " on one of the devices"
    return text
