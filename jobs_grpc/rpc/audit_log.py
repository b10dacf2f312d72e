"""The audit log: one line for each call that changes jobs, including refused ones.

A caller must not fill the disk with it: calls that fail are limited per second, and refusals are
short.
"""

import functools
import json
import logging
import time
from typing import Any, NamedTuple

from grpc import StatusCode

from jobs_grpc.auth.principal import Principal
from jobs_grpc.auth.roles import Role
from jobs_grpc.errors import JobsError
from jobs_grpc.observability import logs
from jobs_grpc.observability.log_throttle import LogThrottle
from jobs_grpc.services.audited_changes import audited_changes

logger = logging.getLogger("jobs_grpc.audit")

# Maximum lines per second of failures of one kind, and of one tenant. Further ones are counted.
_MAX_FAILURES_OF_KIND = 20
_MAX_FAILURES_OF_TENANT = 200

# With these, an authorized call may have taken effect: the connection can break after the commit.
# Other errors say that nothing has changed.
_UNCERTAIN = (StatusCode.UNAVAILABLE, StatusCode.INTERNAL)

# Instead of logs.MAX_BYTES. A request may contain texts of any length until it is validated.
_MAX_BYTES_OF_REFUSAL = 256


class _Kind(NamedTuple):
    """Failures of calls of one method by one subject, for one reason; a coarser kind has less."""

    action: str
    tenant_id: str | None
    subject: str | None = None
    code: str | None = None
    reason: str | None = None


class AuditLog:
    """Writes a line for each call that succeeds or is canceled, and for the first failures.

    Each second has a line for the first 20 failures of one subject, method and reason, and for the
    first 200 of one tenant. The number of further ones (`others`) is one more line. While failures
    of more than 1,000 kinds are counted, those of further kinds have 20 lines per tenant and
    method. Of unknown callers, which end before authentication, only the first failure of a method
    and a reason has a line of its own. Failures that change nothing for certain (refusals) have
    short lines.
    """

    def __init__(self) -> None:
        self._kinds = LogThrottle(_log_others, _coarser, lines_per_second=_MAX_FAILURES_OF_KIND)
        self._tenants = LogThrottle(
            _log_others_of_tenant, lambda _: "", lines_per_second=_MAX_FAILURES_OF_TENANT
        )
        self._unknown_callers = LogThrottle(_log_others, _coarser)

    def write(
        self,
        method: str,
        context: Any,
        caller: Principal | None,
        request: Any,
        response: Any,
        error: JobsError | None,
        started: float,
        *,
        canceled: bool,
        authorized: bool,
    ) -> None:
        """Log who called what on which job, and the result.

        Logs only the IDs of the request (of devices the first 4 KB as written; of refusals their
        number), what UpdateJob, UpdateWebhook and UpdateDevices change, and the stage and comment
        of an approval: no documents, cancel reasons, URLs of webhooks, secrets or tokens. `request`
        is None if the call was refused before it was read.
        """
        action = f"audit {method.rpartition('/')[2]}"
        code = StatusCode.CANCELLED if canceled else error.code if error else StatusCode.OK
        reason = error.reason if error else None
        # A call that its client cancels while it is served may have taken effect.
        failed = error is not None or not authorized
        if failed and not self._should_log_failure(action, caller, code.name, reason):
            return
        refused = failed and not (authorized and code in _UNCERTAIN)
        max_bytes = _MAX_BYTES_OF_REFUSAL if refused else logs.MAX_BYTES
        job_id = _value(response, "job_id") or _text(request, "job_id", max_bytes)
        device_ids = _device_ids(request)
        logs.log_fields(
            logger,
            logging.INFO,
            action,
            {
                "code": code.name,
                "tenant": caller.tenant_id if caller else None,
                "subject": caller.subject if caller else None,
                "roles": _role_names(caller.roles) if caller else None,
                "peer": context.peer(),
                "job_id": job_id,
                "replaces_job_id": _text(request, "replaces_job_id", max_bytes),
                "device_id": _text(request, "device_id", max_bytes),
                "webhook_id": _webhook_id(request, response, max_bytes),
                "device_count": len(device_ids) or None,
                "device_ids": None
                if refused
                else logs.first_that_fit(device_ids, logs.MAX_BYTES) or None,
                "stage": _stage(request),
                "validate_only": _value(request, "validate_only"),
                "changes": None if refused else audited_changes(),
                "comment": _text(request, "comment", max_bytes),
                "reason": reason,
                "ms": round((time.perf_counter() - started) * 1000, 2),
            },
        )

    def flush(self) -> None:
        """Log the numbers of failures that are counted and not logged yet."""
        for throttle in (self._kinds, self._tenants, self._unknown_callers):
            throttle.flush()

    def _should_log_failure(
        self, action: str, caller: Principal | None, code: str, reason: str | None
    ) -> bool:
        """Return whether to log a failure; if not, count it."""
        if caller is None:
            return self._unknown_callers.should_log(_Kind(action, None, None, code, reason))
        tenant_id = caller.tenant_id
        kind = _Kind(action, tenant_id, caller.subject, code, reason)
        if self._tenants.is_full(tenant_id) and not self._kinds.is_full(kind):
            return self._tenants.should_log(tenant_id)
        # A flood of one kind does not use up the lines of its tenant.
        return self._kinds.should_log(kind) and self._tenants.should_log(tenant_id)


def _coarser(kind: _Kind) -> _Kind:
    """Return the kind without the subject and the reason; at last only the method."""
    return _Kind(kind.action, kind.tenant_id if kind.code else None)


def _log_others(kind: _Kind, others: int) -> None:
    logs.log_fields(
        logger,
        logging.INFO,
        kind.action,
        {
            "code": kind.code,
            "tenant": kind.tenant_id,
            "subject": kind.subject,
            "reason": kind.reason,
            "others": others,
        },
    )


def _log_others_of_tenant(tenant_id: str, others: int) -> None:
    """Log the failures of a tenant ("": of several) beyond its lines of a second."""
    fields: dict[str, object] = {"tenant": tenant_id or None, "others": others}
    logs.log_fields(logger, logging.INFO, "audit failures", fields)


@functools.cache
def _role_names(roles: frozenset[Role]) -> str:
    return ",".join(sorted(roles))


@functools.cache
def _fields_of(message: type[Any]) -> frozenset[str]:
    """Return the names of the fields of a message; none of the type of None."""
    descriptor = getattr(message, "DESCRIPTOR", None)
    return frozenset(descriptor.fields_by_name) if descriptor else frozenset()


def _value(message: Any, field: str) -> Any:
    """Return the value of a field; None if the message has no such field, or the value is empty."""
    # An attribute that is missing takes ten times as long as a look at the names.
    return getattr(message, field) or None if field in _fields_of(message.__class__) else None


def _stage(request: Any) -> int | None:
    if "stage" not in _fields_of(request.__class__):
        return None
    field = request.DESCRIPTOR.fields_by_name["stage"]
    if field.has_presence and not request.HasField("stage"):
        return None
    stage: int = request.stage
    return stage


def _device_ids(request: Any) -> Any:
    devices = _value(request, "devices") or ()
    return _value(request, "device_ids") or [device.device_id for device in devices]


def _webhook_id(request: Any, response: Any, max_bytes: int) -> str | None:
    """Return the ID of a webhook, also of a new one."""
    webhook = _value(response, "webhook")
    return (webhook and webhook.webhook_id) or _text(request, "webhook_id", max_bytes)


def _text(request: Any, field: str, max_bytes: int) -> str | None:
    """Return the start of a text that takes at most `max_bytes` in the log."""
    text: str = (_value(request, field) or "")[:max_bytes]
    # A character takes at most twelve bytes: \ud83d\ude00.
    while len(text) > max_bytes // 12 and len(json.dumps(text)) > max_bytes + len('""'):
        text = text[: len(text) * 3 // 4]
    return text or None
