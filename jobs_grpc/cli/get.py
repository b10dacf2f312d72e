"""`jobs-grpc get`: shows a job and its executions."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, connect
from jobs_grpc.cli.formatting import (
    format_counts,
    format_criterion,
    format_expiry,
    format_pause,
    format_target,
    format_time,
)
from jobs_grpc.cli.output import print_json, print_note, struct_json
from jobs_grpc.cli.stages import stage_lines
from jobs_grpc.cli.tables import Column, print_table
from jobs_grpc.text import escape_unprintable

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers

_PAGE_SIZE = 5000

_COLUMNS = (
    Column("DEVICE"),
    Column("STATUS", drop_order=1),
    Column("UPDATED", drop_order=5),
    Column("STARTED", drop_order=6),
    Column("ATTEMPT", drop_order=4, is_number=True),
    Column("CODE", drop_order=3),
    Column("DETAILS", drop_order=2, min_width=20, wraps=True),
)


def add_command(commands: "Subparsers") -> None:
    """Add `get`."""
    parser = add_client_command(
        commands, "get", _get, usage="JOB", summary="show a job and its executions"
    )
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")
    parser.add_argument(
        "--status",
        choices=pb.JobExecution.Status.keys()[1:],
        help="show only executions with this status",
    )
    parser.add_argument(
        "--failure-code",
        type=arguments.text,
        metavar="CODE",
        help="show only executions that failed with this code; '' selects those without a code",
    )
    parser.add_argument(
        "--limit",
        type=arguments.row_limit,
        default=20,
        metavar="N",
        help="maximum number of executions (default: 20)",
    )


def _get(args: argparse.Namespace) -> None:
    job = _fetch_job(args)
    if args.json:
        print_json(job)
        return
    for name, value in _job_fields(job):
        print(f"{name:<13} {escape_unprintable(value)}")
    if job.stages:
        print("\nstages")
        print("\n".join(stage_lines(job)))
    print()
    print_table(
        _COLUMNS,
        (
            (
                execution.device_id,
                pb.JobExecution.Status.Name(execution.status),
                format_time(execution.last_updated_at),
                format_time(execution.started_at) if execution.HasField("started_at") else "-",
                str(execution.execution_number),
                execution.failure_code or "-",
                struct_json(execution.status_details)
                if execution.HasField("status_details")
                else "-",
            )
            for execution in job.executions
        ),
    )
    if job.next_executions_page_token:
        print_note(
            f"only the first {len(job.executions)} executions are shown; raise --limit to see more"
        )


def _fetch_job(args: argparse.Namespace) -> pb.Job:
    """Fetch the job and pages of executions until there are --limit executions."""
    with connect(args) as connection:
        request = pb.GetJobRequest(job_id=args.job_id, executions_limit=0)
        job: pb.Job = connection.call("GetJob", request).job
        job.next_executions_page_token = ""
        page_request = pb.ListJobExecutionsRequest(
            job_id=args.job_id, status=args.status, failure_code=args.failure_code
        )
        while len(job.executions) < args.limit:
            page_request.limit = min(args.limit - len(job.executions), _PAGE_SIZE)
            page: pb.ListJobExecutionsResponse = connection.call("ListJobExecutions", page_request)
            job.executions.extend(page.executions)
            job.next_executions_page_token = page_request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    return job


def _job_fields(job: pb.Job) -> Iterator[tuple[str, str]]:
    yield "job", job.job_id
    yield "status", pb.Job.Status.Name(job.status)
    if job.HasField("cancel_reason"):
        yield "cancel reason", job.cancel_reason
    if job.HasField("pause"):
        yield "paused", format_pause(job)
    yield "type", job.document_type
    yield "params", struct_json(job.document_params)
    yield "target", format_target(job)
    creator = f" by {job.created_by}" if job.created_by else ""
    yield "created", format_time(job.created_at) + creator
    yield "expires", format_expiry(job)
    if job.HasField("in_progress_timeout_minutes"):
        yield "timeout", f"{job.in_progress_timeout_minutes} min after the start"
    if job.rollout.HasField("max_in_progress"):
        yield "max. devices", f"{job.rollout.max_in_progress:,} IN_PROGRESS at a time"
    for criterion in job.failure_criteria:
        yield "criterion", format_criterion(criterion)
    if job.HasField("trip"):
        yield "tripped", format_time(job.trip.tripped_at)
    yield "devices", f"{job.total_executions}: {format_counts(job)}"
