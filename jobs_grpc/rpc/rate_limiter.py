"""Limits the calls per second of each tenant while other tenants make calls as well."""

import asyncio
from collections import OrderedDict

from jobs_grpc.errors import LimitExceeded

# A tenant is active for this long after a call.
_ACTIVE_SECONDS = 1.0

# Calls that a tenant can make at once after a pause: the size of its token bucket.
_BURST = 10

# A call waits at most this long; a call that would wait longer is rejected.
_MAX_WAIT_SECONDS = 1.0

_RETRY_AFTER_SECONDS = 1


class TokenBuckets:
    """A token bucket per active tenant.

    Calls beyond the rate reserve future tokens and wait for them. While only one tenant is
    active, it is not limited. Inactive tenants take no memory.
    """

    def __init__(self, calls_per_second: float) -> None:
        self._interval = 1 / calls_per_second
        # The time of each active tenant's last call, oldest first.
        self._last_calls: OrderedDict[str, float] = OrderedDict()
        # When each active tenant's next token becomes available.
        self._next_tokens: dict[str, float] = {}

    def __len__(self) -> int:
        """The number of active tenants."""
        return len(self._last_calls)

    def reserve(self, tenant_id: str, now: float) -> float | None:
        """Take a token and return the seconds until it is available.

        Returns None, and takes no token, if that is longer than a call may wait.
        """
        self._last_calls[tenant_id] = now
        self._last_calls.move_to_end(tenant_id)
        while next(iter(self._last_calls.values())) < now - _ACTIVE_SECONDS:
            inactive, _ = self._last_calls.popitem(last=False)
            self._next_tokens.pop(inactive, None)
        if len(self._last_calls) == 1:
            self._next_tokens.clear()
            return 0
        # A full bucket, as if its first token had become available this long ago.
        full = now - (_BURST - 1) * self._interval
        available = max(self._next_tokens.get(tenant_id, full), full)
        if available > now + _MAX_WAIT_SECONDS:
            return None
        self._next_tokens[tenant_id] = available + self._interval
        return max(0, available - now)

    def cancel(self, tenant_id: str) -> None:
        """Give back the token of a call that was canceled while it waited for it."""
        if tenant_id in self._next_tokens:
            self._next_tokens[tenant_id] -= self._interval


class RateLimiter:
    """Delays unary calls of a tenant that exceeds the rate, so that other tenants are served.

    gRPC starts calls in order of arrival, regardless of the tenant. A call that waits here has
    not read its request yet and costs little; a rejection costs as much as a response, and the
    client would call again at once. A rate of 0 disables it.
    """

    def __init__(self, calls_per_second: int) -> None:
        self._calls_per_second = calls_per_second
        self._buckets = TokenBuckets(calls_per_second) if calls_per_second else None

    async def wait(self, tenant_id: str) -> None:
        """Wait for a token. Raises LimitExceeded if that would take too long."""
        if self._buckets is None:
            return
        delay = self._buckets.reserve(tenant_id, asyncio.get_running_loop().time())
        if delay is None:
            raise LimitExceeded(
                "The tenant makes too many calls per second",
                "JOBS_MAX_TENANT_RATE",
                self._calls_per_second,
                _RETRY_AFTER_SECONDS,
            )
        if delay:
            try:
                await asyncio.sleep(delay)
            except asyncio.CancelledError:
                self._buckets.cancel(tenant_id)
                raise
