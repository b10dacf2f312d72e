"""Tenants that call much are slowed down while others call as well."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs_grpc.auth import policy
from jobs_grpc.interceptors.around import Around, Context
from jobs_grpc.principal import current_principal

# Seconds for which a tenant that has called counts as one that calls.
_RECENT = 1.0

# Calls that come together after a while without any, and wait for nothing.
_BURST = 10


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

    def delay(self, tenant_id: str, now: float) -> float:
        """The seconds that a call of now has to wait: none, as long as nobody else calls."""
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
        self._due[tenant_id] = due + self._step
        return max(0, due - now)


class Pace(Around):
    """Spreads the calls of a tenant over time, so that the event loop has some for others.

    gRPC takes calls in by the order of their arrival, whosever they are. Those that wait
    here, with their message still unread, cost next to nothing; a refusal would cost as much
    as an answer, and be followed by the next call at once.
    """

    def __init__(self, calls_per_second: float) -> None:
        self._rate = Rate(calls_per_second)

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        if not policy.is_open(method):
            now = asyncio.get_running_loop().time()
            if delay := self._rate.delay(current_principal().tenant_id, now):
                await asyncio.sleep(delay)
        yield
