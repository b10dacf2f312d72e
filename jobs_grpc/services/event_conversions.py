"""Converts rows of jobs.events to the fields of an Event."""

from collections.abc import Sequence
from typing import Any

from fleet.jobs.v1.events_pb2 import Event, FinishedAttempt
from fleet.jobs.v1.jobs_pb2 import Job

from jobs_grpc.db.event_rows import event_details, execution_counts
from jobs_grpc.db.store import Row
from jobs_grpc.services.row_conversions import (
    EXECUTION_STATUS_NUMBERS,
    MessageFields,
    timestamp_fields,
)

_JOB_STATUS_NUMBERS = dict(Job.Status.items())

# A newer version may have written fields of details that this version does not know.
_DETAILS = (
    *("cause", "reason", "stage", "retried_count", "updated_fields"),
    *("replaces_job_id", "replaced_by_job_id", "joined_count"),
)
_ATTEMPT_FIELDS = tuple(
    field.name for field in FinishedAttempt.DESCRIPTOR.fields if field.name != "status"
)


def event_fields(row: Row) -> MessageFields:
    """The fields of an Event, from a row of list_events or list_job_events."""
    fields: dict[str, Any] = {
        "position": row["position"],
        "type": row["type"],
        "time": timestamp_fields(row["occurred_at"]),
        "job_id": row["job_id"],
        "status": _JOB_STATUS_NUMBERS.get(row["status"]),
        "execution_counts": execution_counts(row["counts"]),
        "user_id": row["user_id"],
    }
    if details := event_details(row["details"]):
        fields |= {name: details[name] for name in _DETAILS if name in details}
        fields["attempts"] = _attempt_fields(details.get("attempts", ()))
    return fields


def encode_event(row: Row) -> bytes:
    """Return an encoded Event."""
    return Event(**event_fields(row)).SerializeToString()


def _attempt_fields(attempts: Sequence[dict[str, Any]]) -> list[MessageFields]:
    return [
        {name: attempt[name] for name in _ATTEMPT_FIELDS if name in attempt}
        | {"status": EXECUTION_STATUS_NUMBERS.get(attempt["status"])}
        for attempt in attempts
    ]
