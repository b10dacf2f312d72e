"""The audit log: one line for each call that changes jobs, including rejected ones.

Calls of unknown callers are counted after the first one, so that they can't fill the log.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

from grpc import StatusCode

from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import JobsError
from jobs_grpc.observability import logs
from jobs_grpc.observability.log_throttle import LogThrottle

logger = logging.getLogger("jobs_grpc.audit")

# A request may contain texts of any length.
_MAX_ID_LENGTH = 256
_MAX_COMMENT_LENGTH = 1000
# DeleteDevices has at most as many.
_MAX_NAMED_DEVICES = 100


@dataclass(frozen=True, slots=True)
class _Kind:
    """Calls of one method by unknown callers, with the same result."""

    action: str
    code: str
    reason: str | None


class AuditLog:
    """Writes a line for each call of a known caller.

    Calls of unknown callers, which end before authentication, have a line for the first of each
    kind, and then one line per second with the number of further ones (`others`).
    """

    def __init__(self) -> None:
        self.unknown_callers = LogThrottle(_log_others)

    def write(
        self,
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

        Logs only the ids of the request (of at most 100 devices), and the stage and comment of an
        approval: no documents, labels, cancel reasons, URLs of webhooks or tokens. `request` is
        None if the call was rejected before it was read.
        """
        action = f"audit {method.rpartition('/')[2]}"
        code = StatusCode.CANCELLED if canceled else error.code if error else StatusCode.OK
        reason = error.reason if error else None
        if caller is None:
            kind = _Kind(action, code.name, reason)
            if not self.unknown_callers.should_log(kind):
                return
        logs.log_fields(
            logger,
            logging.INFO,
            action,
            {
                "code": code.name,
                "tenant": caller.tenant_id if caller else None,
                "subject": caller.subject if caller else None,
                "roles": ",".join(sorted(caller.roles)) if caller else None,
                "peer": context.peer(),
                "job_id": getattr(response, "job_id", None) or _id(request, "job_id"),
                "device_id": _id(request, "device_id"),
                "webhook_id": _webhook_id(request, response),
                **_devices(request),
                "stage": _stage(request),
                "validate_only": getattr(request, "validate_only", False) or None,
                "comment": getattr(request, "comment", "")[:_MAX_COMMENT_LENGTH] or None,
                "reason": reason,
                "ms": round((time.perf_counter() - started) * 1000, 2),
            },
        )


def _log_others(kind: _Kind, others: int) -> None:
    logs.log_fields(
        logger,
        logging.INFO,
        kind.action,
        {"code": kind.code, "reason": kind.reason, "others": others},
    )


def _stage(request: Any) -> int | None:
    field = request and request.DESCRIPTOR.fields_by_name.get("stage")
    if not field or (field.has_presence and not request.HasField("stage")):
        return None
    stage: int = request.stage
    return stage


def _devices(request: Any) -> dict[str, Any]:
    """Return the number of devices of a request, and the ids of the first few."""
    device_ids = getattr(request, "device_ids", None) or [
        device.device_id for device in getattr(request, "devices", ())
    ]
    if not device_ids:
        return {}
    named = [device_id[:_MAX_ID_LENGTH] for device_id in device_ids[:_MAX_NAMED_DEVICES]]
    return {"device_count": len(device_ids), "device_ids": named}


def _webhook_id(request: Any, response: Any) -> str | None:
    """Return the id of a webhook, also of a new one."""
    webhook = getattr(response, "webhook", None)
    return (webhook and webhook.webhook_id) or _id(request, "webhook_id")


def _id(request: Any, field: str) -> str | None:
    return getattr(request, field, "")[:_MAX_ID_LENGTH] or None
