"""`jobs-grpc get` and `export`: show a job and its executions, or write all of them to a file."""

import argparse
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.executions import JOB_EXECUTIONS, add_job_filters, note_canceled, read_filters
from jobs_grpc.cli.files import replacing_file, reporting_write_errors
from jobs_grpc.cli.formatting import (
    format_approval,
    format_counts,
    format_creation,
    format_expiry,
    format_labels,
    format_moment,
    format_number,
    format_pause,
    format_summary,
    format_target,
    is_active,
)
from jobs_grpc.cli.listing import FORMATS, RowWriter
from jobs_grpc.cli.output import (
    field_lines,
    message_dict,
    print_lines,
    print_note,
    progress_line,
    struct_json,
)
from jobs_grpc.cli.rollout_text import format_criterion, format_criterion_state
from jobs_grpc.cli.schedule import schedule_facts
from jobs_grpc.cli.stages import stage_lines, wait_lines
from jobs_grpc.client import JobsClient, job_status_name
from jobs_grpc.server.signals import interrupt_on_stop_signals

_PAGE_SIZE = 5000


def add_command(commands: Subparsers) -> None:
    request = pb.ListJobExecutionsRequest
    parser = add_client_command(commands, "get JOB", _get, request, formats=FORMATS)
    add_job_filters(parser)
    JOB_EXECUTIONS.add_options(parser, limit=20)
    usage, formats = "export JOB [--to FILE]", ("csv", "jsonl")
    parser = add_client_command(commands, usage, _export, request, formats=formats)
    # Unset, so that the name of the file can choose the format.
    parser.set_defaults(output=None)
    help_text = "write to this file; *.jsonl gets JSON Lines (default: standard output)"
    arguments.add_options(parser, {"--to FILE": help_text})
    add_job_filters(parser)
    JOB_EXECUTIONS.add_options(parser)


async def _get(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Show a job and its executions.

    The formats csv and jsonl print the executions only; `export` prints all.

    jobs-grpc get reboot-1
    jobs-grpc get reboot-1 --status FAILED --limit 100
    """
    filters = read_filters(args)
    job = await jobs.get(args.job_id)
    is_for_people = args.output in ("table", "wide")
    if is_for_people:
        print_lines(*_job_lines(job, args.utc))
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
        yield from ("", "stages", *stage_lines(job, utc))
    yield ""


def _job_fields(job: pb.Job, utc: bool) -> Iterator[tuple[str, str]]:
    yield "job", job.job_id
    yield "status", job_status_name(job.status)
    if job.HasField("cancel_reason"):
        yield "cancel reason", job.cancel_reason
    if job.replaced_by_job_id:
        yield "replaced by", job.replaced_by_job_id
    if job.replaces_job_id:
        yield "replaces", job.replaces_job_id
    if job.status == pb.Job.PAUSED:
        yield "paused", format_pause(job, utc)
    if job.HasField("start_approval"):
        yield "start", _format_start_approval(job, utc)
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
    for line in wait_lines(job, utc):
        yield "open stage", line
    if job.continuous:
        limit = (
            f", at most {job.max_joins_per_hour:,} an hour"
            if job.HasField("max_joins_per_hour")
            else ""
        )
        behind = "; some may not have joined yet" if job.joins.behind else ""
        yield "continuous", f"devices that match later join{limit}{behind}"
        for wait in job.waits_for:
            if wait.kind == pb.JobWait.JOINS_LIMIT:
                yield "joins", wait.message
    joined = f", {job.joins.joined_count:,} joined" if job.joins.joined_count else ""
    counts = format_counts(job.execution_counts, job.status)
    yield "devices", f"{job.total_executions:,}{joined}{counts and ': '}{counts}"


def _format_start_approval(job: pb.Job, utc: bool) -> str:
    approval = job.start_approval
    if not approval.HasField("approved_at"):
        how = f"; to approve: jobs-grpc approve {job.job_id} --start" if is_active(job) else ""
        return f"not approved{how}"
    return format_approval(approval, utc)


async def _export(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Write all executions of a job as CSV or JSON Lines.

    With filters, write those that match. Each row shows its execution at the time when its page is
    read. With --to, the file appears when it is complete.

    jobs-grpc export reboot-1 --to reboot-1.csv
    jobs-grpc export reboot-1 -o jsonl --status FAILED | jq .failure_code
    """
    if args.output is None:
        args.output = "jsonl" if args.to and args.to.endswith((".jsonl", ".ndjson")) else "csv"
    if args.to is None:
        await _write_pages(args, jobs, sys.stdout)
        note_canceled(args)
        return
    path = Path(args.to)
    replacing = replacing_file(path, _mode_of_destination(path))
    with interrupt_on_stop_signals(), replacing as file, progress_line() as show:
        count = await _write_pages(args, jobs, file, path, show)
    print_lines(f"exported {format_number(count, 'execution')} to {args.to}")
    note_canceled(args)


def _mode_of_destination(path: Path) -> int:
    """Return the mode of the file to replace or create. Raises CliError if it is not a file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
    except OSError as e:
        raise InvalidInput(f"can't write {path}: {e.strerror}") from None
    if stat.S_ISREG(mode):
        return stat.S_IMODE(mode)
    if stat.S_ISDIR(mode):
        problem = "it is a folder; name a file in it"
    elif stat.S_ISLNK(mode):
        problem = "it is a symbolic link; remove it or name another file"
    else:
        problem = "it is not a regular file; without --to, rows go to standard output"
    raise InvalidInput(f"can't write {path}: {problem}")


async def _write_pages(
    args: argparse.Namespace,
    jobs: JobsClient,
    file: TextIO,
    path: Path | None = None,
    show: Callable[[str], None] | None = None,
) -> int:
    """Write the executions, and return how many there are.

    Errors of writing name `path`, unless it is None: standard output. `show` gets the progress.
    """
    pager = jobs.executions(**read_filters(args), page_size=_PAGE_SIZE)
    writer = RowWriter(args, JOB_EXECUTIONS, file)
    count = 0
    async for page in pager.pages():
        with reporting_write_errors(path) if path else nullcontext():
            writer.write(page)
            file.flush()
        count += len(page)
        if show:
            show(f"{count:,} executions")
    return count
