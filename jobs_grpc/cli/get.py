"""`jobs-grpc get`: shows a job and its executions."""

import argparse
import sys
from collections.abc import Iterator

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.executions import (
    EXECUTION_COLUMNS,
    add_device_filters,
    add_filters,
    execution_filters,
    note_canceled,
)
from jobs_grpc.cli.formatting import (
    format_counts,
    format_creation,
    format_expiry,
    format_labels,
    format_moment,
    format_pause,
    format_summary,
    format_target,
    is_active,
)
from jobs_grpc.cli.listing import FORMATS, add_listing_options, print_listing
from jobs_grpc.cli.output import message_dict, print_note, struct_json
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.cli.rollout_text import format_criterion, format_criterion_state
from jobs_grpc.cli.schedule_text import schedule_facts
from jobs_grpc.cli.stages import stage_lines
from jobs_grpc.client import JobsClient, job_status_name
from jobs_grpc.text import escape_unprintable

_PAGE_SIZE = 5000


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "get JOB", _get, formats=FORMATS)
    parser.epilog = "The formats csv and jsonl print the executions only; `export` prints all."
    arguments.add_job(parser)
    add_filters(parser)
    add_device_filters(parser)
    add_listing_options(parser, EXECUTION_COLUMNS, limit=20, noun="executions")


async def _get(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Show a job and its executions.

    jobs-grpc get reboot-1
    jobs-grpc get reboot-1 --status FAILED --limit 100
    """
    filters = execution_filters(args)
    job = await jobs.get(args.job_id)
    is_for_people = args.output in ("table", "wide")
    if is_for_people:
        print("\n".join(_job_lines(job, args.utc)))
    pager = jobs.executions(
        args.job_id,
        **filters,
        stage=args.stage,
        device_id_prefix=args.device_prefix,
        page_size=_PAGE_SIZE,
        page_token=args.page_token,
        limit=args.limit,
    )
    await print_listing(
        args,
        EXECUTION_COLUMNS,
        pager,
        key="executions",
        noun="executions",
        parent=message_dict(job),
        next_page="next_executions_page_token",
    )
    note_canceled(args)
    if is_for_people and sys.stdout.isatty():
        # The first lines may have scrolled off the screen.
        print_note(format_summary(job))


def _job_lines(job: pb.Job, utc: bool) -> Iterator[str]:
    for name, value in _job_fields(job, utc):
        yield f"{name:<13} {escape_unprintable(value)}"
    if job.stages:
        yield ""
        yield "stages"
        yield from stage_lines(job, utc)
    yield ""


def _job_fields(job: pb.Job, utc: bool) -> Iterator[tuple[str, str]]:
    yield "job", job.job_id
    yield "status", job_status_name(job.status)
    if job.HasField("cancel_reason"):
        yield "cancel reason", job.cancel_reason
    if job.status == pb.Job.PAUSED:
        yield "paused", format_pause(job, utc)
    yield "type", job.document_type
    yield "params", struct_json(job.document_params)
    yield "target", format_target(job)
    if job.labels:
        yield "labels", format_labels(job.labels)
    if job.description:
        yield "description", job.description
    yield "created", format_creation(job, utc)
    if is_active(job):
        yield "expires", format_expiry(job, utc)
    yield from schedule_facts(job, utc)
    if job.HasField("in_progress_timeout_minutes"):
        yield "timeout", f"{job.in_progress_timeout_minutes:,} min after the start"
    if job.rollout.HasField("max_in_progress"):
        yield "max. devices", f"{job.rollout.max_in_progress:,} IN_PROGRESS at a time"
    for index, criterion in enumerate(job.failure_criteria):
        state = format_criterion_state(job, index)
        yield "criterion", f"{format_criterion(criterion)}{state and f': {state}'}"
    if job.HasField("trip") and job.trip.tripped_at != job.pause.paused_at:
        yield "tripped", format_moment(job.trip.tripped_at, utc)
    yield "devices", f"{job.total_executions:,}: {format_counts(job.execution_counts, job.status)}"
