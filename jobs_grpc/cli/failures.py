"""`jobs-grpc failures`: counts the failures of a job by status and failure code."""

import argparse

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.listing import FORMATS, Column, add_listing_options, json_row, print_rows
from jobs_grpc.cli.output import print_json, print_note
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import JobsClient, execution_status_name

_COLUMNS: tuple[Column[pb.FailureCount], ...] = (
    Column("execution_count", "FAILURES", is_number=True),
    Column("status", "STATUS", lambda f: execution_status_name(f.status), drop_order=1),
    Column("failure_code", "CODE"),
    Column("device_ids", "DEVICES", lambda f: list(f.device_ids), 2, min_width=20, wraps=True),
)


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "failures JOB", _failures, formats=FORMATS)
    parser.epilog = (
        "DEVICES are a few examples; `export JOB --failure-code CODE` writes all of them."
    )
    arguments.add_job(parser)
    filters = parser.add_argument_group("filters")
    arguments.add_statuses(
        filters,
        arguments.failure_statuses,
        "failures with one of these statuses",
        canceled="a canceled execution is not a failure; `get JOB --status CANCELED` lists them",
    )
    arguments.add_texts(
        filters,
        "--failure-code",
        metavar="CODE",
        help_text="failures with one of these codes; '' selects those without a code",
    )
    add_listing_options(parser, _COLUMNS)


async def _failures(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Count the failures of a job by code.

    jobs-grpc failures update-1
    jobs-grpc failures update-1 --status FAILED TIMED_OUT -o csv
    """
    summary = await jobs.failures(
        args.job_id,
        statuses=[pb.JobExecution.Status.Value(name) for name in args.status],
        failure_codes=args.failure_code,
    )
    if args.output == "json":
        rows = [json_row(args, _COLUMNS, failure) for failure in summary.failures]
        print_json({"failures": rows, "other_count": summary.other_count})
        return
    print_rows(args, _COLUMNS, summary.failures)
    if args.output in ("table", "wide") and not summary.failures:
        print_note("no failures")
    if summary.other_count:
        print_note(f"{summary.other_count:,} more failures have other codes")
