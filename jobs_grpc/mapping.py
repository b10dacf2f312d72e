"""Database rows to protobuf messages: the one place that knows both shapes.

A constructor takes an enum by its name, and a message as its fields.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution
from google.protobuf.message import Message

from jobs_grpc.documents import from_json
from jobs_grpc.store import Row

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

D = TypeVar("D", int, None)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_timestamp(moment: datetime | None) -> Any:
    """A moment as the contract has it, UTC and microseconds, for the constructor of a message.

    As the fields of a Timestamp: to make one, only for it to be copied, would take twice the
    time, and Timestamp.FromDatetime five times that.
    """
    if moment is None:
        return None
    since = moment - _EPOCH
    return {"seconds": since.days * 86400 + since.seconds, "nanos": since.microseconds * 1000}


def job_from_row(row: Row) -> pb.Job:
    """A row of jobs.job_states."""
    return pb.Job(
        job_id=row["job_id"],
        tenant_id=row["tenant_id"],
        document_type=row["document_type"],
        document_params=from_json(row["document_params"]),
        target_device_id=row["target_device_id"],
        target_group_id=row["target_group_id"],
        target_all=row["target_all"] or None,  # type: ignore[arg-type]  # unset, not false
        status=row["status"],
        expires_at=to_timestamp(row["expires_at"]),
        created_by=row["created_by"],
        created_at=to_timestamp(row["created_at"]),
        updated_at=to_timestamp(row["updated_at"]),
        cancel_reason=row["cancel_reason"],
        completed_at=to_timestamp(row["completed_at"]),
        in_progress_timeout_minutes=row["in_progress_timeout_minutes"],
        total_executions=row["total_executions"],
        succeeded_count=row["succeeded"],
        failed_count=row["failed"] + row["timed_out"] + row["rejected"],
        execution_counts=pb.ExecutionCounts(
            queued=row["queued"],
            in_progress=row["in_progress"],
            succeeded=row["succeeded"],
            failed=row["failed"],
            timed_out=row["timed_out"],
            rejected=row["rejected"],
        ),
    )


def device_execution_from_row(row: Row) -> DeviceExecution:
    """A row of jobs.execution_states; without its document if there is none in it."""
    params, details = row["document_params"], row["status_details"]
    return DeviceExecution(
        job_id=row["job_id"],
        device_id=row["device_id"],
        document_type=row["document_type"],
        document_params=None if params is None else from_json(params),
        status=row["status"],
        status_details=None if details is None else from_json(details),
        execution_number=row["execution_number"],
        version=row["version"],
        queued_at=to_timestamp(row["queued_at"]),
        started_at=to_timestamp(row["started_at"]),
        last_updated_at=to_timestamp(row["last_updated_at"]),
        expires_at=to_timestamp(row["expires_at"]),
        times_out_at=to_timestamp(row["times_out_at"]),
    )


def given(request: Message, field: str, default: D) -> int | D:
    """An optional number of a request, or `default` if it is unset; 0 is a number."""
    value: int = getattr(request, field)
    return value if request.HasField(field) else default


def to_moment(request: Message, field: str) -> datetime | None:
    """A Timestamp field of a request, which checks have found valid; None if it is unset."""
    if not request.HasField(field):
        return None
    moment: Timestamp = getattr(request, field)
    return moment.ToDatetime(UTC)


def execution_from_row(row: Row) -> pb.JobExecution:
    """A row of jobs.execution_states, or of an attempt, as the operator sees it."""
    details = row["status_details"]
    return pb.JobExecution(
        device_id=row["device_id"],
        status=row["status"],
        status_details=None if details is None else from_json(details),
        queued_at=to_timestamp(row["queued_at"]),
        started_at=to_timestamp(row["started_at"]),
        last_updated_at=to_timestamp(row["last_updated_at"]),
        execution_number=row["execution_number"],
        times_out_at=to_timestamp(row["times_out_at"]),
    )


def execution_of_device_from_row(row: Row) -> pb.JobExecution:
    """The same where the executions of a device are listed: with its job."""
    execution = execution_from_row(row)
    execution.job_id = row["job_id"]
    return execution


def executions_from_row(row: Row) -> Iterator[pb.JobExecution]:
    """The executions in a row of jobs.execution_page, whose columns are parallel arrays."""
    if row["device_ids"] is None:
        return
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
        yield pb.JobExecution(
            device_id=device_id,
            status=status,
            status_details=None if details is None else from_json(details),
            queued_at=to_timestamp(queued_at),
            started_at=to_timestamp(started_at),
            last_updated_at=to_timestamp(last_updated_at),
            execution_number=number,
            times_out_at=to_timestamp(times_out_at),
        )
