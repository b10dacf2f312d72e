"""Keeps a flood of refused calls from filling the access log."""

import logging
from typing import NamedTuple

from grpc import StatusCode

from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import JobsError
from jobs_grpc.observability import logs
from jobs_grpc.observability.log_throttle import LogThrottle

logger = logging.getLogger("jobs_grpc.calls")

# The server rejects these calls without waiting for the database, so a client can make many of them
# in a second.
_REFUSALS = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
        StatusCode.UNAUTHENTICATED,
        StatusCode.PERMISSION_DENIED,
    }
)


class _Kind(NamedTuple):
    """Refusals of a tenant's calls of one method, for one reason."""

    method: str
    tenant_id: str | None
    code: StatusCode
    reason: str


class RepeatedRefusals(LogThrottle[_Kind]):
    """Lets the first refusal of a kind be logged, and then logs one line per second.

    That line has the number of refusals of the kind since the previous line (`others`).
    """

    def __init__(self) -> None:
        super().__init__(_log, lambda kind: kind._replace(tenant_id=None))

    def should_log_call(self, method: str, caller: Principal | None, error: JobsError) -> bool:
        """Return whether to log a call that failed with `error`; if not, count it."""
        if error.code not in _REFUSALS:
            return True
        tenant_id = caller.tenant_id if caller else None
        return self.should_log(_Kind(method, tenant_id, error.code, error.reason))


def _log(kind: _Kind, others: int) -> None:
    logs.log_fields(
        logger,
        logging.INFO,
        f"{kind.method.rpartition('/')[2]} {kind.code.name}",
        {"tenant": kind.tenant_id, "reason": kind.reason, "others": others},
    )
