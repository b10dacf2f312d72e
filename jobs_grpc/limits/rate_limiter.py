"""Limits the unary calls per second of each tenant, if JOBS_MAX_TENANT_RATE is set."""

import asyncio
from collections import OrderedDict

from jobs_grpc.errors import Limit, LimitExceeded

# Calls that a tenant can make at once after a pause: the size of its token bucket.
_BURST = 10

# A call waits at most this long; a call that would wait longer is rejected.
_MAX_WAIT_SECONDS = 1.0

_RETRY_AFTER_SECONDS = 1


class TokenBuckets:
    """A token bucket per tenant. Keeps nothing for tenants whose bucket is full."""

    def __init__(self, calls_per_second: int) -> None:
        self._interval = 1 / calls_per_second
        # When each tenant's next token becomes available; the tenant with the oldest call first.
        self._next_tokens: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """The number of tenants whose bucket is not full."""
        return len(self._next_tokens)

    def reserve(self, tenant_id: str, now: float) -> float | None:
        """Take a token and return the seconds until it is available.

        Returns None, and takes no token, if that is longer than a call may wait.
        """
        # A full bucket, as if its first token had become available this long ago.
        full = now - (_BURST - 1) * self._interval
        while self._next_tokens and next(iter(self._next_tokens.values())) <= full:
            self._next_tokens.popitem(last=False)
        available = max(self._next_tokens.get(tenant_id, full), full)
        if available > now + _MAX_WAIT_SECONDS:
            return None
        self._next_tokens[tenant_id] = available + self._interval
        self._next_tokens.move_to_end(tenant_id)
        return max(0, available - now)

    def cancel(self, tenant_id: str) -> None:
        """Give back the token of a call that was canceled while it waited for it."""
        if tenant_id in self._next_tokens:
            self._next_tokens[tenant_id] -= self._interval


class RateLimiter:
    """Delays unary calls of a tenant that exceeds the rate, whether or not other tenants call.

    A rate of 0 disables it. A call that waits here has not read its request yet.
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
            raise LimitExceeded(Limit.TENANT_RATE, self._calls_per_second, _RETRY_AFTER_SECONDS)
        if delay:
            try:
                await asyncio.sleep(delay)
            except asyncio.CancelledError:
                self._buckets.cancel(tenant_id)
                raise
