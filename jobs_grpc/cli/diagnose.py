"""`jobs-grpc explain`, `failures` and `history`: why a job is in its state."""

import argparse
import shutil
import textwrap
from collections.abc import Iterator

from fleet.jobs.v1 import events_pb2 as events_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.event_text import add_types, event_by, event_detail, event_name
from jobs_grpc.cli.fields import FAILURE_CODES, add_fields, forwarded
from jobs_grpc.cli.formatting import format_field, format_moment, format_status
from jobs_grpc.cli.listing import FORMATS, Listing
from jobs_grpc.cli.output import field_lines, print_note, print_result
from jobs_grpc.cli.tables import Column
from jobs_grpc.client import EventsClient, JobsClient, execution_status_name, job_status_name
from jobs_grpc.text import escape_unprintable

_FAILURES = Listing[pb.FailureCount](
    "failures",
    (
        Column("execution_count", "FAILURES", is_number=True),
        Column("status", read=lambda f: execution_status_name(f.status), drop_order=1),
        Column("failure_code", "CODE"),
        Column("device_ids", "DEVICES", drop_order=2, min_width=20, wraps=True),
    ),
)

_PAGE_SIZE = 1000

_EVENTS = Listing[events_pb.Event](
    "events",
    (
        Column("time"),
        Column("type", "EVENT", text=event_name),
        Column("user_id", "BY", drop_order=1, min_width=8, text=event_by),
        Column("detail", read=event_detail, min_width=20, wraps=True),
        Column("status", read=lambda e: job_status_name(e.status), drop_order=2, wide=True),
        Column("cause", drop_order=3, wide=True),
        Column("position", read=lambda event: str(event.position), drop_order=4, wide=True),
    ),
    first_page_word="newest",
)


def add_command(commands: Subparsers) -> None:
    add_client_command(commands, "explain JOB DEVICE", _explain, pb.ExplainExecutionRequest)
    request = pb.GetFailureSummaryRequest
    parser = add_client_command(commands, "failures JOB", _failures, request, formats=FORMATS)
    add_fields(
        parser.add_argument_group("filters"),
        request,
        {"--status STATUS": "statuses", "--failure-code CODE": ("failure_codes", FAILURE_CODES)},
        canceled="a canceled execution is not a failure; `get JOB --status CANCELED` lists them",
    )
    _FAILURES.add_options(parser)
    listed = events_pb.ListJobEventsRequest
    parser = add_client_command(commands, "history JOB", _history, listed, formats=FORMATS)
    add_types(parser.add_argument_group("filters"), "events of these types")
    _EVENTS.add_options(parser, limit=50)


async def _explain(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Explain why a device does not start its execution of a job.

    jobs-grpc explain update-1 device-0003
    jobs-grpc explain update-1 device-0003 --json
    """
    explanation = await jobs.explain(**forwarded(args))
    print_result(args, explanation, *_lines(explanation, args.utc))


def _lines(explanation: pb.ExplainExecutionResponse, utc: bool) -> Iterator[str]:
    yield from field_lines(_fields(explanation, utc), 9)
    width = shutil.get_terminal_size().columns
    for number, blocker in enumerate(explanation.blockers, start=1):
        text = f"{number}. {blocker.message}"
        if blocker.HasField("until"):
            text += f" Until {format_moment(blocker.until, utc)}."
        gate = blocker.stage_gate
        if gate.HasField("next_opens_at"):
            opens = format_moment(gate.next_opens_at, utc)
            text += f" Stage {gate.open_stage + 1} opens at {opens}, or before."
        yield from textwrap.wrap(escape_unprintable(text), width, subsequent_indent="   ")


def _fields(explanation: pb.ExplainExecutionResponse, utc: bool) -> Iterator[tuple[str, str]]:
    execution = explanation.execution
    yield "device", execution.device_id
    status = format_status(execution)
    if execution.status == pb.JobExecution.IN_PROGRESS:
        status += f" since {format_moment(execution.started_at, utc)}"
    yield "status", status
    if explanation.HasField("joined_at"):
        yield "joined", format_moment(explanation.joined_at, utc)
    yield "last seen", format_field(explanation, "last_seen_at", utc)
    if explanation.HasField("earliest_start_at"):
        yield "starts", f"{format_moment(explanation.earliest_start_at, utc)} at the earliest"


async def _failures(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Count the failures of a job by code.

    DEVICES are a few examples; `export JOB --failure-code CODE` writes all of them.

    jobs-grpc failures update-1
    jobs-grpc failures update-1 --status FAILED TIMED_OUT -o csv
    """
    summary = await jobs.failures(**forwarded(args))
    _FAILURES.print_items(args, summary.failures, other_failure_count=summary.other_failure_count)
    if summary.other_failure_count and args.output != "json":
        print_note(f"{summary.other_failure_count:,} more failures have other codes")


async def _history(args: argparse.Namespace, events: EventsClient) -> None:
    """Show what has happened to a job, who did it and why.

    The newest events come last. The history begins with the creation of the job; if the tenant has
    very many events, the oldest are purged.

    jobs-grpc history update-1 --type paused resumed
    jobs-grpc history update-1 --limit 1000 --utc -o csv
    """
    pager = events.list_job_events(**forwarded(args), newest_first=True, page_size=_PAGE_SIZE)
    await _EVENTS.print_pages(args, pager, reverse=True)
