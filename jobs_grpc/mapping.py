"""Database rows to protobuf messages: the one place that knows both shapes."""

from collections.abc import Iterator
from datetime import UTC, datetime

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.documents import from_json
from jobs_grpc.store import Row

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_timestamp(moment: datetime | None) -> Timestamp | None:
    """A moment as the contract has it: UTC, microseconds."""
    if moment is None:
        return None
    since = moment - _EPOCH
    # Five times as fast as Timestamp.FromDatetime.
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


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
        status=pb.Job.Status.Value(row["status"]),
        expires_at=to_timestamp(row["expires_at"]),
        created_by=row["created_by"],
        created_at=to_timestamp(row["created_at"]),
        updated_at=to_timestamp(row["updated_at"]),
        cancel_reason=row["cancel_reason"],
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


def executions_from_row(row: Row) -> Iterator[pb.JobExecution]:
    """The executions in a row of jobs.execution_page, whose columns are parallel arrays."""
    if row["device_ids"] is None:
        return
    for device_id, status, details, number, queued_at, started_at, last_updated_at in zip(
        row["device_ids"],
        row["statuses"],
        row["status_details"],
        row["execution_numbers"],
        row["queued_ats"],
        row["started_ats"],
        row["last_updated_ats"],
        strict=True,
    ):
        yield pb.JobExecution(
            device_id=device_id,
            status=pb.JobExecution.Status.Value(status),
            status_details=None if details is None else from_json(details),
            queued_at=to_timestamp(queued_at),
            started_at=to_timestamp(started_at),
            last_updated_at=to_timestamp(last_updated_at),
            execution_number=number,
        )
