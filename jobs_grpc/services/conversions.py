"""Converts database rows to the fields of protobuf messages, and request fields to SQL values.

Rows become keyword arguments for a message constructor rather than messages: to put a message
into another one, Python's protobuf serializes and parses it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from fleet.jobs.v1.jobs_pb2 import Job, JobExecution
from google.protobuf.message import Message

from jobs_grpc.db.store import PgMicros, Row
from jobs_grpc.services.struct_json import from_json

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct
    from google.protobuf.timestamp_pb2 import Timestamp

Default = TypeVar("Default", int, None)

# In fact dict[str, Any] or None, but the type stubs of message constructors accept messages only.
MessageFields: TypeAlias = Any
"""Keyword arguments for a message constructor. None leaves a field, or the message, unset."""

_EXECUTION_STATUSES = ("queued", "in_progress", "succeeded", "failed", "timed_out", "rejected")

# Numbers by name. In a database of a newer version, rows can have a status that has no number
# here; the field stays STATUS_UNSPECIFIED.
_JOB_STATUS_NUMBERS = dict(Job.Status.items())
_EXECUTION_STATUS_NUMBERS = dict(JobExecution.Status.items())

# Upper bound for the bytes of a JobExecution without the contents of device_id and
# status_details: four timestamps, three numbers, and the tags and lengths of all fields.
_EXECUTION_OVERHEAD_BYTES = 96

# 2000-01-01 UTC, where PgMicros starts, in the Unix seconds of a Timestamp.
_PG_EPOCH_SECONDS = 946_684_800


def timestamp_fields(micros: PgMicros | None) -> MessageFields:
    """The fields of a Timestamp, with microsecond precision."""
    if micros is None:
        return None
    seconds, nanos = _timestamp_parts(micros)
    return {"seconds": seconds, "nanos": nanos}


def job_fields(row: Row) -> MessageFields:
    """The fields of a Job, from a row of jobs.job_states."""
    return {
        "job_id": row["job_id"],
        "tenant_id": row["tenant_id"],
        "document_type": row["document_type"],
        "document_params": from_json(row["document_params"]),
        "target_device_id": row["target_device_id"],
        "target_group_id": row["target_group_id"],
        "target_all": row["target_all"] or None,  # false would select target_all in the oneof
        "status": _JOB_STATUS_NUMBERS.get(row["status"]),
        "expires_at": timestamp_fields(row["expires_at"]),
        "created_by": row["created_by"],
        "created_at": timestamp_fields(row["created_at"]),
        "updated_at": timestamp_fields(row["updated_at"]),
        "cancel_reason": row["cancel_reason"],
        "completed_at": timestamp_fields(row["completed_at"]),
        "in_progress_timeout_minutes": row["in_progress_timeout_minutes"],
        "total_executions": row["total_executions"],
        "succeeded_count": row["succeeded"],
        "failed_count": row["failed"] + row["timed_out"] + row["rejected"],
        "execution_counts": {status: row[status] for status in _EXECUTION_STATUSES},
    }


def device_execution_fields(row: Row) -> MessageFields:
    """The fields of a DeviceExecution, from a row of jobs.execution_states.

    The document is left out if the row has none.
    """
    fields = device_execution_summary(row)
    fields["document_params"] = _optional_struct(row["document_params"])
    fields["status_details"] = _optional_struct(row["status_details"])
    return fields


def device_execution_summary(row: Row) -> MessageFields:
    """The same as device_execution_fields, without document_params and status_details."""
    return {
        "job_id": row["job_id"],
        "device_id": row["device_id"],
        "document_type": row["document_type"],
        "status": _EXECUTION_STATUS_NUMBERS.get(row["status"]),
        "execution_number": row["execution_number"],
        "version": row["version"],
        "queued_at": timestamp_fields(row["queued_at"]),
        "started_at": timestamp_fields(row["started_at"]),
        "last_updated_at": timestamp_fields(row["last_updated_at"]),
        "expires_at": timestamp_fields(row["expires_at"]),
        "times_out_at": timestamp_fields(row["times_out_at"]),
    }


def execution_fields(row: Row) -> MessageFields:
    """The fields of a JobExecution, from a row of jobs.execution_states or of an attempt."""
    return {
        "device_id": row["device_id"],
        "status": _EXECUTION_STATUS_NUMBERS.get(row["status"]),
        "status_details": _optional_struct(row["status_details"]),
        "queued_at": timestamp_fields(row["queued_at"]),
        "started_at": timestamp_fields(row["started_at"]),
        "last_updated_at": timestamp_fields(row["last_updated_at"]),
        "execution_number": row["execution_number"],
        "version": row["version"],
        "times_out_at": timestamp_fields(row["times_out_at"]),
    }


def execution_fields_with_job_id(row: Row) -> MessageFields:
    """The same as execution_fields, and the job_id."""
    return execution_fields(row) | {"job_id": row["job_id"]}


def append_executions(page: Any, row: Row) -> Iterator[int]:
    """Append the executions of a row of jobs.execution_page to `page`, one at each step.

    The columns of the row are parallel arrays. Yields an upper bound for the size of each
    message in bytes.
    """
    if row["device_ids"] is None:
        return
    # Neighboring executions of a job share most values. Changing one message where they differ
    # and appending a copy takes a third to a half of the time of building each message.
    execution = JobExecution()
    max_bytes = _EXECUTION_OVERHEAD_BYTES
    old: tuple[Any, ...] = (None,) * 8
    columns = (
        row["statuses"],
        row["status_details"],
        row["execution_numbers"],
        row["versions"],
        row["queued_ats"],
        row["started_ats"],
        row["last_updated_ats"],
        row["times_out_ats"],
    )
    for device_id, new in zip(row["device_ids"], zip(*columns, strict=True), strict=True):
        execution.device_id = device_id
        if new != old:
            _change_execution(execution, old, new)
            if new[1] != old[1]:  # the details
                max_bytes = _EXECUTION_OVERHEAD_BYTES + execution.status_details.ByteSize()
            old = new
        page.add().CopyFrom(execution)
        yield max_bytes + len(device_id.encode())


def _change_execution(execution: JobExecution, old: tuple[Any, ...], new: tuple[Any, ...]) -> None:
    """Set the fields whose values differ; the values are in the order of append_executions."""
    status, details, number, version, queued_at, started_at, last_updated_at, times_out_at = new
    if status != old[0]:
        execution.status = _EXECUTION_STATUS_NUMBERS.get(status, JobExecution.STATUS_UNSPECIFIED)
    if details != old[1]:
        execution.ClearField("status_details")
        if details is not None:
            execution.status_details.CopyFrom(from_json(details))
    execution.execution_number = number
    execution.version = version
    if queued_at != old[4]:
        _set_timestamp(execution, "queued_at", queued_at)
    if started_at != old[5]:
        _set_timestamp(execution, "started_at", started_at)
    if last_updated_at != old[6]:
        _set_timestamp(execution, "last_updated_at", last_updated_at)
    if times_out_at != old[7]:
        _set_timestamp(execution, "times_out_at", times_out_at)


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


def _set_timestamp(message: Message, field: str, micros: PgMicros | None) -> None:
    if micros is None:
        message.ClearField(field)
        return
    timestamp: Timestamp = getattr(message, field)
    timestamp.seconds, timestamp.nanos = _timestamp_parts(micros)


def _timestamp_parts(micros: PgMicros) -> tuple[int, int]:
    """The seconds and nanos of a Timestamp."""
    seconds, microseconds = divmod(micros, 1_000_000)
    return seconds + _PG_EPOCH_SECONDS, microseconds * 1000


def _optional_struct(json_text: str | None) -> "Struct | None":
    return None if json_text is None else from_json(json_text)
