"""`jobs-grpc failures`: counts the failures of a job by status and failure code."""

import argparse
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, connect
from jobs_grpc.cli.output import print_json, print_note
from jobs_grpc.cli.tables import Column, print_table

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers

_COLUMNS = (
    Column("FAILURES", is_number=True),
    Column("STATUS", drop_order=1),
    Column("CODE"),
    Column("DEVICES", drop_order=2, min_width=20, wraps=True),
)


def add_command(commands: "Subparsers") -> None:
    """Add `failures`."""
    parser = add_client_command(
        commands, "failures", _failures, usage="JOB", summary="count the failures of a job by code"
    )
    parser.epilog = "DEVICES are a few examples; `get --failure-code CODE` shows them all."
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")


def _failures(args: argparse.Namespace) -> None:
    request = pb.GetFailureSummaryRequest(job_id=args.job_id)
    with connect(args) as connection:
        summary: pb.GetFailureSummaryResponse = connection.call("GetFailureSummary", request)
    if args.json:
        print_json(summary)
        return
    if not summary.failures:
        print_note("no failures")
    print_table(
        _COLUMNS,
        (
            (
                str(failure.execution_count),
                pb.JobExecution.Status.Name(failure.status),
                failure.failure_code or "-",
                _examples(failure),
            )
            for failure in summary.failures
        ),
    )
    if summary.other_count:
        print_note(f"{summary.other_count} more failures have other codes")


def _examples(failure: pb.FailureCount) -> str:
    more = failure.execution_count > len(failure.device_ids)
    return " ".join([*failure.device_ids, *(["…"] if more else [])])
