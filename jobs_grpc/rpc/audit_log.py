"""The audit log: one line for each call that changes jobs, including rejected ones."""

import logging
import time
from typing import Any

from fleet.jobs.v1 import error_reason_pb2 as reasons
from grpc import StatusCode

from jobs_grpc import logs
from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import JobsError

logger = logging.getLogger("jobs_grpc.audit")

AUDITED_METHODS = frozenset(
    f"/fleet.jobs.v1.JobService/{name}"
    for name in (
        *("CreateJob", "CancelJob", "PauseJob", "ResumeJob", "DeleteJob"),
        *("AdvanceJob", "ApproveStage", "UpdateJob", "CancelExecution", "RetryExecutions"),
    )
)

# A request may contain texts of any length.
_MAX_ID_LENGTH = 256
_MAX_COMMENT_LENGTH = 1000


def write(
    method: str,
    context: Any,
    caller: Principal | None,
    request: Any,
    response: Any,
    error: JobsError | None,
    started: float,
    canceled: bool,
) -> None:
    """Log who called what on which job, and the result.

    Of the request, only ids are logged, and the stage and comment of an approval: no documents,
    cancel reasons or tokens. `request` is None if the call was rejected before it was read.
    """
    code = StatusCode.CANCELLED if canceled else error.code if error else StatusCode.OK
    logs.log_fields(
        logger,
        logging.INFO,
        f"audit {method.rpartition('/')[2]}",
        {
            "code": code.name,
            "tenant": caller.tenant_id if caller else None,
            "subject": caller.subject if caller else None,
            "roles": ",".join(sorted(caller.roles)) if caller else None,
            "peer": context.peer(),
            "job_id": getattr(response, "job_id", None) or _id(request, "job_id"),
            "device_id": _id(request, "device_id"),
            "stage": _stage(request),
            "comment": getattr(request, "comment", "")[:_MAX_COMMENT_LENGTH] or None,
            "reason": reasons.ErrorReason.Name(error.reason) if error else None,
            "ms": round((time.perf_counter() - started) * 1000, 2),
        },
    )


def _stage(request: Any) -> int | None:
    field = request and request.DESCRIPTOR.fields_by_name.get("stage")
    if not field or (field.has_presence and not request.HasField("stage")):
        return None
    stage: int = request.stage
    return stage


def _id(request: Any, field: str) -> str | None:
    return getattr(request, field, "")[:_MAX_ID_LENGTH] or None
