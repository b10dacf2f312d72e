"""Converts reports of devices to updates of executions, and their rows to results."""

from typing import Any

from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1.jobs_pb2 import JobExecution
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.auth.principal import Principal
from jobs_grpc.db.execution_columns import REPORTED
from jobs_grpc.db.store import ExecutionUpdate, Row
from jobs_grpc.errors import (
    CancelNotRequested,
    ExecutionChanged,
    ExecutionFinished,
    ExecutionHeld,
    ExecutionNotDue,
    ExecutionNotFound,
    JobFull,
    JobPaused,
    Violation,
)
from jobs_grpc.limits.fair_slots import YieldNow
from jobs_grpc.services import validation
from jobs_grpc.services.row_conversions import (
    MessageFields,
    device_execution_fields,
    device_execution_summary,
    optional_or,
    timestamp_fields,
)
from jobs_grpc.services.struct_json import to_json

# The optional fields of each request that JobExecution has as well.
_REPORTED = {
    request: [name for name in REPORTED if name in request.DESCRIPTOR.fields_by_name]
    for request in (
        pb.StartNextExecutionRequest,
        pb.StartNextExecutionsRequest,
        pb.StartExecutionRequest,
        pb.UpdateExecutionRequest,
    )
}

_STATUS_NAMES = {number: name for name, number in JobExecution.Status.items()}


async def parse_update(
    request: pb.UpdateExecutionRequest,
    device_id: str,
    max_document_bytes: int,
    yield_now: YieldNow,
    *,
    with_document: bool = True,
    with_details: bool = True,
    principal: Principal,
) -> ExecutionUpdate:
    """Convert a report to an update. Raises InvalidField.

    `with_document`, `with_details`: whether its row has document_params and status_details.
    `principal` is the caller.
    """
    details, violations = await parse_status_details(request, max_document_bytes, yield_now)
    validation.require_valid(request, violations)
    update = ExecutionUpdate(
        job_id=request.job_id,
        device_id=device_id,
        status=_STATUS_NAMES[request.status],
        status_details=details,
        execution_number=optional_or(request, "execution_number", None),
        expected_version=optional_or(request, "expected_version", None),
        extend_timeout_minutes=optional_or(request, "extend_timeout_minutes", None),
        failure_code=request.failure_code or None,
        cancel_accepted=request.cancel_accepted,
        with_document=with_document,
        with_details=with_details,
        reported=reported_fields(request, principal),
    )
    validation.raise_for_violations(_check_fields_of_status(update))
    return update


def reported_fields(request: Any, principal: Principal) -> dict[str, Any]:
    """Return what a start or report sets of the fields in REPORTED, by name.

    These are the fields of the request with the same name that are set, and who acts for a device.
    """
    names = _REPORTED[type(request)]
    fields = {name: getattr(request, name) for name in names if request.HasField(name)}
    if principal.reported_by is not None:
        fields["reported_by"] = principal.reported_by
    return fields


def _check_fields_of_status(update: ExecutionUpdate) -> list[Violation]:
    """Check the fields that only some statuses may have."""
    violations = []
    if update.extend_timeout_minutes is not None and update.status != "IN_PROGRESS":
        problem = "extend_timeout_minutes is allowed only with status IN_PROGRESS"
        violations.append(Violation("extend_timeout_minutes", problem))
    if update.failure_code is not None and update.status not in ("FAILED", "REJECTED"):
        problem = "failure_code is allowed only with status FAILED or REJECTED"
        violations.append(Violation("failure_code", problem))
    if update.cancel_accepted and (update.status != "REJECTED" or update.failure_code):
        problem = "cancel_accepted is allowed only with status REJECTED and without failure_code"
        violations.append(Violation("cancel_accepted", problem))
    return violations


async def parse_status_details(
    request: Any, max_document_bytes: int, yield_now: YieldNow
) -> tuple[str | None, list[Violation]]:
    """The request's status_details as JSON, or None if unset, and their violations."""
    if not request.HasField("status_details"):
        return None, []
    return await to_json(request.status_details, "status_details", max_document_bytes, yield_now)


def updated_execution(
    job_id: str, device_id: str, row: Row, *, with_details: bool = True
) -> MessageFields:
    """The fields of a DeviceExecution after an update, from a row of update_executions.sql.

    `with_details`: whether to fill status_details. Raises ExecutionNotFound, ExecutionHeld,
    ExecutionNotDue, ExecutionFinished, JobPaused, JobFull, CancelNotRequested or ExecutionChanged.
    """
    match row["outcome"]:
        case "EXECUTION_NOT_FOUND":
            raise ExecutionNotFound(job_id, device_id)
        case "EXECUTION_FINISHED":
            raise ExecutionFinished(job_id, device_id, row["previous_status"])
        case "EXECUTION_HELD":
            raise ExecutionHeld(job_id, device_id)
        case "EXECUTION_NOT_DUE":
            due_at = Timestamp(**timestamp_fields(row["due_at"]))
            raise ExecutionNotDue(job_id, device_id, earliest_start_at=due_at.ToJsonString())
        case "JOB_PAUSED":
            raise JobPaused(job_id)
        case "CANCEL_NOT_REQUESTED":
            raise CancelNotRequested(job_id, device_id)
        case "JOB_FULL":
            raise JobFull(job_id)
        case "EXECUTION_CHANGED":
            # Document and details can each exceed the size of error details: see InvalidField.
            raise ExecutionChanged(pb.DeviceExecution(**device_execution_summary(row)))
    return device_execution_fields(row) if with_details else device_execution_summary(row)
