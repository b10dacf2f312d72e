"""`jobs-grpc get`: shows a job and its executions."""

import argparse
import sys
from collections.abc import Iterator

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.executions import JOB_EXECUTIONS, add_job_filters, note_canceled, read_filters
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
from jobs_grpc.cli.listing import FORMATS
from jobs_grpc.cli.output import field_lines, message_dict, print_note, struct_json
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.cli.rollout_text import format_criterion, format_criterion_state
from jobs_grpc.cli.schedule import schedule_facts
from jobs_grpc.cli.stages import stage_lines
from jobs_grpc.client import JobsClient, job_status_name

_PAGE_SIZE = 5000


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "get JOB", _get, formats=FORMATS)
    parser.epilog = "The formats csv and jsonl print the executions only; `export` prints all."
    add_job_filters(parser)
    JOB_EXECUTIONS.add_options(parser, limit=20)


async def _get(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Show a job and its executions.

    jobs-grpc get reboot-1
    jobs-grpc get reboot-1 --status FAILED --limit 100
    """
    filters = read_filters(args)
    job = await jobs.get(args.job_id)
    is_for_people = args.output in ("table", "wide")
    if is_for_people:
        print("\n".join(_job_lines(job, args.utc)))
    pager = jobs.executions(**filters, page_size=_PAGE_SIZE)
    await JOB_EXECUTIONS.print_pages(
        args, pager, message_dict(job), next_page="next_executions_page_token"
    )
    note_canceled(args)
    if is_for_people and sys.stdout.isatty():
        # The first lines may have scrolled off the screen.
        print_note(format_summary(job))


def _job_lines(job: pb.Job, utc: bool) -> Iterator[str]:
    yield from field_lines(_job_fields(job, utc), 13)
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
