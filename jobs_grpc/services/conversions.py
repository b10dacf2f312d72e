"""Database rows to the fields of protobuf messages: the one place that knows both shapes.

Fields, not messages: a message that becomes part of another one is copied, by writing and
parsing its bytes, while fields are taken in where they belong. A constructor, and `add` of a
repeated field, take them as keywords; an enum by its name, and a message as its fields again.
Where messages have most in common, as the executions of a job, a copy is cheaper still.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from fleet.jobs.v1.jobs_pb2 import JobExecution
from google.protobuf.message import Message

from jobs_grpc.db.store import PgMicros, Row
from jobs_grpc.services.struct_json import from_json

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct
    from google.protobuf.timestamp_pb2 import Timestamp

D = TypeVar("D", int, None)

# dict[str, Any], but the stubs of constructors know messages only.
Fields: TypeAlias = Any
"""Of a message, by name; None is a field that is unset."""

_STATES = ("queued", "in_progress", "succeeded", "failed", "timed_out", "rejected")

# Of a JobExecution besides its device_id and its status_details: four moments, two numbers
# and the tags and lengths of all.
_MAX_BYTES_BESIDES = 96

# PostgreSQL's, in the seconds that a Timestamp counts.
_EPOCH = 946_684_800


def to_timestamp(moment: PgMicros | None) -> Fields:
    """The fields of a Timestamp, as the contract has it: UTC and microseconds."""
    if moment is None:
        return None
    seconds, microseconds = divmod(moment, 1_000_000)
    return {"seconds": seconds + _EPOCH, "nanos": microseconds * 1000}


def job_fields(row: Row) -> Fields:
    """A Job, of a row of jobs.job_states."""
    return {
        "job_id": row["job_id"],
        "tenant_id": row["tenant_id"],
        "document_type": row["document_type"],
        "document_params": from_json(row["document_params"]),
        "target_device_id": row["target_device_id"],
        "target_group_id": row["target_group_id"],
        "target_all": row["target_all"] or None,  # unset, not false
        "status": row["status"],
        "expires_at": to_timestamp(row["expires_at"]),
        "created_by": row["created_by"],
        "created_at": to_timestamp(row["created_at"]),
        "updated_at": to_timestamp(row["updated_at"]),
        "cancel_reason": row["cancel_reason"],
        "completed_at": to_timestamp(row["completed_at"]),
        "in_progress_timeout_minutes": row["in_progress_timeout_minutes"],
        "total_executions": row["total_executions"],
        "succeeded_count": row["succeeded"],
        "failed_count": row["failed"] + row["timed_out"] + row["rejected"],
        "execution_counts": {state: row[state] for state in _STATES},
    }


def device_execution_fields(row: Row) -> Fields:
    """A DeviceExecution, of a row of jobs.execution_states; its document only if it is in it."""
    fields: Fields = execution_of_device_fields(row) | {
        "document_type": row["document_type"],
        "document_params": _document(row["document_params"]),
        "version": row["version"],
        "expires_at": to_timestamp(row["expires_at"]),
    }
    return fields


def execution_fields(row: Row) -> Fields:
    """A JobExecution, of a row of jobs.execution_states or of an attempt."""
    return {
        "device_id": row["device_id"],
        "status": row["status"],
        "status_details": _document(row["status_details"]),
        "queued_at": to_timestamp(row["queued_at"]),
        "started_at": to_timestamp(row["started_at"]),
        "last_updated_at": to_timestamp(row["last_updated_at"]),
        "execution_number": row["execution_number"],
        "times_out_at": to_timestamp(row["times_out_at"]),
    }


def execution_of_device_fields(row: Row) -> Fields:
    """The same where the executions of a device are listed: with its job."""
    return execution_fields(row) | {"job_id": row["job_id"]}


def add_executions(page: Any, row: Row) -> Iterator[int]:
    """Add to `page` the JobExecutions of a row of jobs.execution_page, one at each step.

    Yields the bytes that each takes at most. The columns of the row are parallel arrays.
    """
    if row["device_ids"] is None:
        return
    # Executions of a job have most in common with the one before: to change that one where
    # they differ, and to copy it, takes half of what making each anew takes, or a third.
    execution = JobExecution()
    size = _MAX_BYTES_BESIDES
    old_status = old_details = old_queued_at = old_started_at = old_last_updated_at = (
        old_times_out_at
    ) = None
    for (
        device_id,
        status,
        details,
        number,
        queued_at,
        started_at,
        last_updated_at,
        times_out_at,
    ) in zip(
        row["device_ids"],
        row["statuses"],
        row["status_details"],
        row["execution_numbers"],
        row["queued_ats"],
        row["started_ats"],
        row["last_updated_ats"],
        row["times_out_ats"],
        strict=True,
    ):
        execution.device_id = device_id
        if status != old_status:
            old_status = status
            execution.status = JobExecution.Status.Value(status)
        execution.execution_number = number
        if details != old_details:
            old_details = details
            execution.ClearField("status_details")
            if details is not None:
                execution.status_details.CopyFrom(from_json(details))
            size = _MAX_BYTES_BESIDES + execution.status_details.ByteSize()
        if queued_at != old_queued_at:
            old_queued_at = queued_at
            _set(execution.queued_at, queued_at)
        if started_at != old_started_at:
            old_started_at = started_at
            if started_at is None:
                execution.ClearField("started_at")
            else:
                _set(execution.started_at, started_at)
        if last_updated_at != old_last_updated_at:
            old_last_updated_at = last_updated_at
            _set(execution.last_updated_at, last_updated_at)
        if times_out_at != old_times_out_at:
            old_times_out_at = times_out_at
            if times_out_at is None:
                execution.ClearField("times_out_at")
            else:
                _set(execution.times_out_at, times_out_at)
        page.add().CopyFrom(execution)
        yield size + len(device_id.encode())


def optional_or(request: Message, field: str, default: D) -> int | D:
    """An optional number of a request, or `default` if it is unset; 0 is a number."""
    value: int = getattr(request, field)
    return value if request.HasField(field) else default


def to_pg_micros(request: Message, field: str) -> PgMicros | None:
    """A Timestamp field of a request, which checks have found valid; None if it is unset."""
    if not request.HasField(field):
        return None
    timestamp: Timestamp = getattr(request, field)
    return (timestamp.seconds - _EPOCH) * 1_000_000 + timestamp.nanos // 1000


def _set(timestamp: "Timestamp", moment: PgMicros) -> None:
    seconds, microseconds = divmod(moment, 1_000_000)
    timestamp.seconds = seconds + _EPOCH
    timestamp.nanos = microseconds * 1000


def _document(text: str | None) -> "Struct | None":
    return None if text is None else from_json(text)
