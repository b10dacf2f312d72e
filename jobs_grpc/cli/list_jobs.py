"""`jobs-grpc list`: lists jobs."""

import argparse
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, connect
from jobs_grpc.cli.formatting import format_target, format_time
from jobs_grpc.cli.output import print_json, print_note
from jobs_grpc.cli.tables import Column, print_table

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers

_PAGE_SIZE = 200

_COLUMNS = (
    Column("JOB"),
    Column("STATUS", drop_order=1),
    Column("TYPE", drop_order=5, min_width=6),
    Column("TARGET", drop_order=6, min_width=12),
    Column("DEVICES", drop_order=2, is_number=True),
    Column("OK", drop_order=4, is_number=True),
    Column("NOT_OK", drop_order=3, is_number=True),
    Column("CREATED", drop_order=7),
)


def add_command(commands: "Subparsers") -> None:
    """Add `list`."""
    parser = add_client_command(
        commands, "list", _list_jobs, usage="", summary="list jobs, newest first"
    )
    parser.epilog = (
        "OK counts the executions that are SUCCEEDED; NOT_OK those that are FAILED, TIMED_OUT or "
        "REJECTED."
    )
    parser.add_argument(
        "--status", choices=pb.Job.Status.keys()[1:], help="list only jobs with this status"
    )
    parser.add_argument(
        "--awaiting-approval",
        action="store_true",
        help="list only jobs with a stage that waits for an approval",
    )
    parser.add_argument(
        "--limit",
        type=arguments.row_limit,
        default=50,
        metavar="N",
        help="maximum number of jobs (default: 50)",
    )


def _list_jobs(args: argparse.Namespace) -> None:
    jobs = _fetch_jobs(args)
    if args.json:
        print_json(jobs)
        return
    if not jobs.jobs:
        print_note(f"no jobs with status {args.status}" if args.status else "no jobs")
    print_table(
        _COLUMNS,
        (
            (
                job.job_id,
                pb.Job.Status.Name(job.status),
                job.document_type,
                format_target(job),
                str(job.total_executions),
                str(job.succeeded_count),
                str(job.failed_count),
                format_time(job.created_at),
            )
            for job in jobs.jobs
        ),
    )
    if jobs.next_page_token:
        print_note(f"only the first {len(jobs.jobs)} jobs are shown; raise --limit to see more")


def _fetch_jobs(args: argparse.Namespace) -> pb.ListJobsResponse:
    """Fetch pages until there are --limit jobs."""
    request = pb.ListJobsRequest(status=args.status, awaiting_approval=args.awaiting_approval)
    result = pb.ListJobsResponse()
    with connect(args) as connection:
        while len(result.jobs) < args.limit:
            request.limit = min(args.limit - len(result.jobs), _PAGE_SIZE)
            page: pb.ListJobsResponse = connection.call("ListJobs", request)
            result.jobs.extend(page.jobs)
            result.next_page_token = request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    return result
