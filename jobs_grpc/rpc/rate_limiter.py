"""Tenants that call much are slowed down while others call as well."""

import asyncio
from collections import OrderedDict

from jobs_grpc.auth import policy
from jobs_grpc.auth.principal import current_principal
from jobs_grpc.errors import LimitExceeded
from jobs_grpc.rpc.interceptor import Before, Context, Handler

# Seconds for which a tenant that has called counts as one that calls.
_RECENT = 1.0

# Seconds after which who was refused may try again.
_RETRY_AFTER = 1

# Calls that come together after a while without any, and wait for nothing.
_BURST = 10

# Seconds that a call waits at most; what would have to wait longer is refused.
_PATIENCE = 1.0


class Rate:
    """When each tenant's next call is due, at so many a second. Keeps those that call only."""

    def __init__(self, calls_per_second: float) -> None:
        self._step = 1 / calls_per_second
        # By the time of the latest call, the latest last.
        self._called: OrderedDict[str, float] = OrderedDict()
        self._due: dict[str, float] = {}

    def __len__(self) -> int:
        """How many tenants are kept."""
        return len(self._called)

    def delay(self, tenant_id: str, now: float) -> float | None:
        """The seconds that a call of now has to wait: none, as long as nobody else calls.

        None if there are too many before it. Then, it takes no turn.
        """
        self._called[tenant_id] = now
        self._called.move_to_end(tenant_id)
        while next(iter(self._called.values())) < now - _RECENT:
            gone, _ = self._called.popitem(last=False)
            self._due.pop(gone, None)
        if len(self._called) == 1:
            self._due.clear()
            return 0
        rested = now - (_BURST - 1) * self._step
        due = max(self._due.get(tenant_id, rested), rested)
        if due > now + _PATIENCE:
            return None
        self._due[tenant_id] = due + self._step
        return max(0, due - now)

    def give_back(self, tenant_id: str) -> None:
        """Return the turn of a call that was given up: those that come now are due earlier."""
        if tenant_id in self._due:
            self._due[tenant_id] -= self._step


class RateLimiter(Before):
    """Spreads the calls of a tenant over time, so that the event loop has some for others.

    gRPC takes calls in by the order of their arrival, whosever they are. Those that wait
    here, with their message still unread, cost next to nothing; a refusal would cost as much
    as an answer, and be followed by the next call at once. Streams have limits of their own.
    """

    def __init__(self, calls_per_second: int) -> None:
        self._limit = calls_per_second
        self._rate = Rate(calls_per_second)

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Only handlers of calls with one answer, and not of those that are open to anybody."""
        streaming = handler.request_streaming or handler.response_streaming
        if streaming or policy.is_public(method):
            return handler
        return super().wrapped(method, handler)

    async def before(self, method: str, context: Context) -> None:
        """Wait until the call is due."""
        tenant_id = current_principal().tenant_id
        delay = self._rate.delay(tenant_id, asyncio.get_running_loop().time())
        if delay is None:
            raise LimitExceeded(
                "The tenant calls too often", "JOBS_MAX_TENANT_RATE", self._limit, _RETRY_AFTER
            )
        if delay:
            try:
                await asyncio.sleep(delay)
            except asyncio.CancelledError:
                self._rate.give_back(tenant_id)
                raise
