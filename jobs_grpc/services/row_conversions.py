"""Converts database rows to the fields of protobuf messages, and request fields to SQL values.

Rows become keyword arguments for a message constructor rather than messages: to put a message
into another one, Python's protobuf serializes and parses it.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from fleet.jobs.v1.jobs_pb2 import Job, JobExecution, Pause, StartApproval, Trip
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.db import execution_columns
from jobs_grpc.db.store import PgMicros, Row
from jobs_grpc.services.schedule import retry_policy_fields, start_window_fields
from jobs_grpc.services.struct_json import document_from_json, from_json

Default = TypeVar("Default", int, None)

# In fact dict[str, Any] or None, but the type stubs of message constructors accept messages only.
MessageFields: TypeAlias = Any
"""Keyword arguments for a message constructor. None leaves a field, or the message, unset."""

EXECUTION_COUNTS = (
    *("held", "queued", "in_progress", "succeeded", "failed", "timed_out", "rejected"),
)
"""The fields of ExecutionCounts, which are columns of jobs.job_states as well."""

# Numbers by name. In a database of a newer version, rows can have a status or a cause that has no
# number here; the field stays unspecified.
_JOB_STATUS_NUMBERS = dict(Job.Status.items())
EXECUTION_STATUS_NUMBERS = dict(JobExecution.Status.items())
_PAUSE_CAUSE_NUMBERS = dict(Pause.Cause.items())

# The fields of Job that job_fields or its callers compute.
_COMPUTED = {
    *("target_all", "etag", "succeeded_count", "failed_count", "next_executions_page_token"),
    *("window_open", "max_joins_per_hour"),
}
# The other texts, numbers and flags are columns of jobs.job_states with the same names.
_JOB_COLUMNS = tuple(
    field.name
    for field in Job.DESCRIPTOR.fields
    if field.message_type is None and field.enum_type is None and field.name not in _COMPUTED
)

# 2000-01-01 UTC, where PgMicros starts, in the Unix seconds of a Timestamp.
_PG_EPOCH_SECONDS = 946_684_800


def timestamp_fields(micros: PgMicros | None) -> MessageFields:
    """The fields of a Timestamp, with microsecond precision."""
    if micros is None:
        return None
    seconds, microseconds = divmod(micros, 1_000_000)
    return {"seconds": seconds + _PG_EPOCH_SECONDS, "nanos": microseconds * 1000}


def set_timestamp(timestamp: Timestamp, micros: PgMicros) -> None:
    """Set a Timestamp, with microsecond precision."""
    seconds, microseconds = divmod(micros, 1_000_000)
    timestamp.seconds = seconds + _PG_EPOCH_SECONDS
    timestamp.nanos = microseconds * 1000


def job_fields(row: Row) -> MessageFields:
    """The fields of a Job, from a row of jobs.job_states."""
    # The constructor of a message takes longer for a field that is None than this loop.
    fields = {name: value for name in _JOB_COLUMNS if (value := row[name]) is not None}
    for name, convert in _JOB_CONVERSIONS.items():
        if (value := row[name]) is not None:
            fields[name] = convert(value)
    fields["status"] = _JOB_STATUS_NUMBERS.get(row["status"])
    fields["priority"] = row["priority"]
    fields["etag"] = str(row["revision"])
    fields["succeeded_count"] = row["succeeded"]
    fields["failed_count"] = row["failed"] + row["timed_out"] + row["rejected"]
    fields["execution_counts"] = {status: row[status] for status in EXECUTION_COUNTS}
    if row["target_all"]:  # false would select target_all in the oneof
        fields["target_all"] = True
    if row["paused_at"] is not None:
        fields["pause"] = pause_fields(row)
    if row["joins"] is not None:
        fields |= joins_fields(row["joins"])
    return fields


def window_state_fields(json_text: str) -> MessageFields:
    """Return the fields of a Job that only GetJob sets, from the JSON of window_state.sql."""
    state = json.loads(json_text)
    return {
        "window_open": state["is_open"],
        "next_openings": [timestamp_fields(at) for at in state["next_openings"]],
    }


def pause_fields(row: Row) -> MessageFields:
    """The fields of a Pause, from a row of jobs.job_states; None: the job is not paused."""
    if row["paused_at"] is None:
        return None
    return {
        "paused_at": timestamp_fields(row["paused_at"]),
        "paused_by": row["paused_by"],
        "reason": row["pause_reason"],
        "cause": _PAUSE_CAUSE_NUMBERS.get(row["pause_cause"]),
    }


def joins_fields(text: str) -> MessageFields:
    """The fields of a Job that is or was continuous, from the JSON of joins_details.sql."""
    state = json.loads(text)
    joins = {
        "joined_count": state["joined_count"],
        "last_joined_at": timestamp_fields(state["last_joined_at"]),
        "behind": state["is_behind"] or state["is_stopped"],
    }
    return {"joins": joins, "max_joins_per_hour": state["max_joins_per_hour"]}


def _from_json(message: type[Message]) -> Callable[[str], Message]:
    return lambda text: json_format.Parse(text, message(), ignore_unknown_fields=True)


# The fields of Job that are converted from one column with the same name, unless it is NULL.
_JOB_CONVERSIONS: Mapping[str, Callable[[Any], MessageFields]] = {
    "document_params": document_from_json,
    "expires_at": timestamp_fields,
    "created_at": timestamp_fields,
    "updated_at": timestamp_fields,
    "completed_at": timestamp_fields,
    "start_at": timestamp_fields,
    "trip": _from_json(Trip),
    "start_approval": _from_json(StartApproval),
    "labels": json.loads,
    "start_windows": start_window_fields,
    "retry_policy": retry_policy_fields,
    **{
        target.name: _from_json(GetMessageClass(target.message_type))
        for target in Job.DESCRIPTOR.oneofs_by_name["target"].fields
        if target.message_type is not None
    },
}


def device_execution_fields(row: Row) -> MessageFields:
    """The fields of a DeviceExecution, from a row of jobs.execution_states.

    The document is left out if the row has none.
    """
    fields = device_execution_summary(row)
    document, details = row["document_params"], row["status_details"]
    fields["document_params"] = None if document is None else document_from_json(document)
    fields["status_details"] = None if details is None else from_json(details)
    return fields


def device_execution_summary(row: Row) -> MessageFields:
    """The same as device_execution_fields, without document_params and status_details."""
    return watched_execution_fields(row) | {"device_id": row["device_id"]}


def watched_execution_fields(row: Row) -> MessageFields:
    """The same as device_execution_summary, without device_id."""
    return {
        "job_id": row["job_id"],
        "document_type": row["document_type"],
        "status": EXECUTION_STATUS_NUMBERS.get(row["status"]),
        "execution_number": row["execution_number"],
        "version": row["version"],
        "queued_at": timestamp_fields(row["queued_at"]),
        "started_at": timestamp_fields(row["started_at"]),
        "last_updated_at": timestamp_fields(row["last_updated_at"]),
        "expires_at": timestamp_fields(row["expires_at"]),
        "times_out_at": timestamp_fields(row["times_out_at"]),
        "failure_code": row["failure_code"],
        "cancel_requested": row["cancel_requested"],
    }


def ended_executions(row: Row) -> list[MessageFields]:
    """The fields of each EndedExecution, from a row with the JSON of ended_executions.sql."""
    text = row["ended_executions"]
    if text is None:
        return []
    return [
        {**each, "end_cause": JobExecution.EndCause.Value(each["end_cause"])}
        for each in json.loads(text)
    ]


def _execution_conversion(field: FieldDescriptor) -> Callable[[Any], MessageFields] | None:
    """Return what converts the column of a field of JobExecution; None: the value is the same."""
    if field.enum_type is not None:
        return {value.name: value.number for value in field.enum_type.values}.get
    if field.message_type is None:
        return None
    return timestamp_fields if field.message_type is Timestamp.DESCRIPTOR else from_json


# Attributes with names that are not interned are found slowly.
EXECUTION_CONVERSIONS = {
    sys.intern(field.name): _execution_conversion(field) for field in execution_columns.FIELDS
}
"""What converts each column of an execution, unless it is NULL, to the field of JobExecution."""


def execution_fields(row: Row) -> MessageFields:
    """The fields of a JobExecution, from a row of jobs.execution_states or of an attempt."""
    fields: dict[str, Any] = {}
    for name, convert in EXECUTION_CONVERSIONS.items():
        if (value := row[name]) is not None:
            fields[name] = convert(value) if convert else value
    return fields


def execution_fields_with_job_id(row: Row) -> MessageFields:
    """The same as execution_fields, and the job_id."""
    return execution_fields(row) | {"job_id": row["job_id"]}


def optional_or(request: Message, field: str, default: Default) -> int | Default:
    """The value of an optional number field, or `default` if it is unset."""
    value: int = getattr(request, field)
    return value if request.HasField(field) else default


def to_pg_micros(request: Message, field: str) -> PgMicros | None:
    """The value of a Timestamp field that has been validated, or None if it is unset."""
    if not request.HasField(field):
        return None
    timestamp: Timestamp = getattr(request, field)
    return (timestamp.seconds - _PG_EPOCH_SECONDS) * 1_000_000 + timestamp.nanos // 1000
