"""Converts rows of jobs.events to the fields of an Event."""

from collections.abc import Sequence
from typing import Any

from fleet.jobs.v1.events_pb2 import Event, FinishedExecution
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
_DETAILS = ("cause", "reason", "stage", "count", "fields")
_EXECUTION_FIELDS = tuple(
    field.name for field in FinishedExecution.DESCRIPTOR.fields if field.name != "status"
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
        "user": row["user_id"],
    }
    if details := event_details(row["details"]):
        fields |= {name: details[name] for name in _DETAILS if name in details}
        fields["executions"] = _execution_fields(details.get("executions", ()))
    return fields


def encode_event(row: Row) -> bytes:
    """Return an encoded Event."""
    return Event(**event_fields(row)).SerializeToString()


def _execution_fields(executions: Sequence[dict[str, Any]]) -> list[MessageFields]:
    return [
        {name: execution[name] for name in _EXECUTION_FIELDS if name in execution}
        | {"status": EXECUTION_STATUS_NUMBERS.get(execution["status"])}
        for execution in executions
    ]
