"""Keeps a flood of refused or canceled calls from filling the access log."""

import logging
from typing import NamedTuple

from grpc import StatusCode

from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import JobsError
from jobs_grpc.observability import logs
from jobs_grpc.observability.log_throttle import LogThrottle

logger = logging.getLogger("jobs_grpc.calls")

# The server rejects these calls without waiting for the database, and a client that cancels a call
# does not wait at all, so a client can make many of them in a second.
_COUNTED = frozenset(
    {
        StatusCode.CANCELLED,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
        StatusCode.UNAUTHENTICATED,
        StatusCode.PERMISSION_DENIED,
    }
)


class _Kind(NamedTuple):
    """Refusals of a tenant's calls of one method, for one reason. Canceled calls have none."""

    method: str
    tenant_id: str | None
    code: StatusCode
    reason: str | None


class RepeatedRefusals(LogThrottle[_Kind]):
    """Lets the first refusal of a kind be logged, and then logs one line per second.

    That line has the number of refusals of the kind since the previous line (`others`).
    """

    def __init__(self) -> None:
        super().__init__(_log, lambda kind: kind._replace(tenant_id=None))

    def should_log_call(
        self, method: str, caller: Principal | None, code: StatusCode, error: JobsError | None
    ) -> bool:
        """Return whether to log a call that ended with `code`; if not, count it."""
        if code not in _COUNTED:
            return True
        tenant_id = caller.tenant_id if caller else None
        return self.should_log(_Kind(method, tenant_id, code, error.reason if error else None))


def _log(kind: _Kind, others: int) -> None:
    logs.log_fields(
        logger,
        logging.INFO,
        f"{kind.method.rpartition('/')[2]} {kind.code.name}",
        {"tenant": kind.tenant_id, "reason": kind.reason, "others": others},
    )
