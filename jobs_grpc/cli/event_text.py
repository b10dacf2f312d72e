"""Describes events in words."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any

from buf.validate import validate_pb2
from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.cli.fields import forward
from jobs_grpc.cli.formatting import counts_by_status, format_counts, format_number
from jobs_grpc.client import execution_status_name, job_status_name

if TYPE_CHECKING:
    import argparse

# Attempts of an event that are listed one by one. More are counted by status.
_MAX_NAMED = 3

_CAUSES = {
    "FAILURE_CRITERION": "failure criterion",
    "GATE": "gate",
    "GATE_NOT_MET": "gate",
    "JOINS": "join brake",
    "STAGE_REJECTED": "rejection",
    "REPLACED": "replacement",
    "START_APPROVAL": "start approval",
    "START_REJECTED": "rejection",
    "RETENTION": "retention",
}


def event_name(event: pb.Event) -> str:
    """Return the type without the prefix "job.", such as "paused"."""
    return event.type.removeprefix("job.")


def event_by(event: pb.Event) -> str | None:
    """Return who or what caused the event, if that is known."""
    return event.user_id or _CAUSES.get(event.cause)


def event_detail(event: pb.Event) -> str:
    """Describe the details of the event, without its type."""
    if describe := _DETAILS.get(event.type):
        return describe(event)
    stage = f"stage {event.stage}" if event.HasField("stage") else ""
    return ": ".join(filter(None, (stage, event.reason, ", ".join(event.updated_fields))))


def event_line(event: pb.Event) -> str:
    """Describe the event in one line, for a log."""
    time = event.time.ToDatetime(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{time} {event.job_id} {event_phrase(event)}"


def event_phrase(event: pb.Event) -> str:
    """Describe the event, such as "paused by olivia: too hot"."""
    by, detail = event_by(event), event_detail(event)
    return f"{event_name(event)}{f' by {by}' if by else ''}{f': {detail}' if detail else ''}"


def _created(event: pb.Event) -> str:
    executions = format_number(sum(counts_by_status(event.execution_counts).values()), "execution")
    status = job_status_name(event.status)
    replaced = f", replaces {event.replaces_job_id}" if event.replaces_job_id else ""
    return f"{executions}{'' if status == 'IN_PROGRESS' else f', {status}'}{replaced}"


def _finished(event: pb.Event) -> str:
    attempts = event.attempts
    if len(attempts) > _MAX_NAMED:
        by_status = Counter(execution_status_name(attempt.status) for attempt in attempts)
        parts = [f"{count:,} {name}" for name, count in by_status.items()]
        if retried := sum(attempt.will_retry for attempt in attempts):
            parts.append(f"{retried:,} will be retried")
        return ", ".join(parts)
    return ", ".join(map(_attempt, attempts))


def _attempt(attempt: pb.FinishedAttempt) -> str:
    code = f" {attempt.failure_code}" if attempt.failure_code else ""
    retried = " (will be retried)" if attempt.will_retry else ""
    return f"{attempt.device_id} {execution_status_name(attempt.status)}{code}{retried}"


# Other types have a stage, a reason or updated fields.
_DETAILS: Mapping[str, Callable[[pb.Event], str]] = {
    "job.created": _created,
    "job.tripped": lambda event: event.reason,  # also names the stage
    "job.retried": lambda event: f"{format_number(event.retried_count, 'execution')} queued again",
    "job.devices_joined": lambda event: format_number(event.joined_count, "device"),
    "job.expired": lambda event: format_counts(event.execution_counts),
    "job.completed": lambda event: format_counts(event.execution_counts),
    "executions.finished": _finished,
}

EVENT_TYPES = tuple(
    pb.Event.DESCRIPTOR.fields_by_name["type"]
    .GetOptions()
    .Extensions[validate_pb2.field]
    .string.example
)
"""The types of events in the contract."""


def add_types(parser: "argparse._ActionsContainer", help_text: str) -> None:
    """Add --type, with one or more types, which can be repeated. `forwarded` returns them."""
    option: Any = parser.add_argument(
        "--type",
        dest="types",
        type=lambda name: name if "." in name else f"job.{name}",
        choices=EVENT_TYPES,
        action="extend",
        nargs="+",
        default=[],
        metavar="TYPE",
        help=f"{help_text}: {', '.join(EVENT_TYPES)}; job. can be omitted",
    )
    option.completer = _complete_type
    forward(parser, pb.ListEventsRequest, "types")


def _complete_type(prefix: str, **_: object) -> list[str]:
    """Complete a type, and one without "job." after its first letter.

    Shells drop a completion that does not begin with what was typed.
    """
    short = [name.removeprefix("job.") for name in EVENT_TYPES]
    return [name for name in (*EVENT_TYPES, *(short if prefix else ())) if name.startswith(prefix)]
