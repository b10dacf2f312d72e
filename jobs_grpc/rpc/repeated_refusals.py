"""Keeps a flood of refused calls from filling the access log."""

import asyncio
import contextvars
import logging
from dataclasses import dataclass

from fleet.jobs.v1 import error_reason_pb2 as reasons
from grpc import StatusCode

from jobs_grpc import logs
from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import JobsError

logger = logging.getLogger("jobs_grpc.calls")

_SECONDS = 1.0

# Kinds that are counted at the same time. Refusals of further kinds are all logged.
_MAX_KINDS = 1000

# The server rejects these calls without waiting for the database, so a client can make many of them
# in a second.
_REFUSALS = frozenset(
    {
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
        StatusCode.UNAUTHENTICATED,
        StatusCode.PERMISSION_DENIED,
    }
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Refusals of a tenant's calls of one method, for one reason."""

    method: str
    tenant_id: str | None
    code: StatusCode
    reason: str


class RepeatedRefusals:
    """Lets the first refusal of a kind be logged, and then logs one line per second.

    That line has the number of refusals of the kind since the previous line (`others`).
    """

    def __init__(self) -> None:
        # The number of refusals of each kind that are not logged yet. Kept for one more second.
        self._others: dict[_Kind, int] = {}

    def __len__(self) -> int:
        """Return the number of kinds that are counted now."""
        return len(self._others)

    def should_log(self, method: str, caller: Principal | None, error: JobsError) -> bool:
        """Return whether to log a call that failed with `error`; if not, count it."""
        if error.code not in _REFUSALS:
            return True
        reason = reasons.ErrorReason.Name(error.reason)
        kind = _Kind(method, caller.tenant_id if caller else None, error.code, reason)
        others = self._others.get(kind)
        if others is not None:
            self._others[kind] = others + 1
            return False
        if len(self._others) < _MAX_KINDS:
            self._start_second(kind)
        return True

    def log_others(self) -> None:
        """Log the refusals that are counted and not logged yet."""
        for kind, others in self._others.items():
            _log(kind, others)
        self._others.clear()

    def _start_second(self, kind: _Kind) -> None:
        self._others[kind] = 0
        # In an empty context, because the line belongs to no single request.
        asyncio.get_running_loop().call_later(
            _SECONDS, self._end_second, kind, context=contextvars.Context()
        )

    def _end_second(self, kind: _Kind) -> None:
        others = self._others.pop(kind, 0)
        if others:
            _log(kind, others)
            self._start_second(kind)


def _log(kind: _Kind, others: int) -> None:
    if others:
        logs.log_fields(
            logger,
            logging.INFO,
            f"{kind.method.rpartition('/')[2]} {kind.code.name}",
            {"tenant": kind.tenant_id, "reason": kind.reason, "others": others},
        )
