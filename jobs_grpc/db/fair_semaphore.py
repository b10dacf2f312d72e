"""A semaphore that tenants share fairly."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs_grpc.errors import Overloaded

# A tenant can take a slot while it holds fewer slots than this factor times the free slots. With
# ten slots, one tenant alone gets eight; two stay free for other tenants.
_MAX_HELD_PER_FREE_SLOT = 4


class FairSemaphore:
    """A semaphore of `size` slots. Waiting tenants take turns; calls of one tenant are FIFO.

    A call takes a slot at once if its tenant may have another one. It keeps no state
    for tenants that hold no slot and have no waiting call.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._held: dict[str, int] = {}
        # Waiting calls by tenant, the tenant with the next turn first. Invariant: no waiting
        # tenant may take a slot.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, tenant_id: str, max_wait: float) -> AsyncIterator[None]:
        """Hold a slot for the block. Raises Overloaded if none is granted in `max_wait` seconds."""
        if self._may_take(tenant_id):
            self._take(tenant_id)
        else:
            await self._wait(tenant_id, max_wait)
        try:
            yield
        finally:
            self._release(tenant_id)

    async def _wait(self, tenant_id: str, max_wait: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant_id, deque()).append(waiter)
        try:
            async with asyncio.timeout(max_wait):
                await waiter
        except BaseException as e:
            if waiter.cancelled():
                self._remove(tenant_id, waiter)
            else:
                # The slot was granted just before the timeout or cancellation.
                self._release(tenant_id)
            if isinstance(e, TimeoutError):
                raise Overloaded from e
            raise

    def _remove(self, tenant_id: str, waiter: "asyncio.Future[None]") -> None:
        waiters = self._waiting.get(tenant_id, deque())
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[tenant_id]

    def _may_take(self, tenant_id: str) -> bool:
        return self._held.get(tenant_id, 0) < _MAX_HELD_PER_FREE_SLOT * self._free

    def _take(self, tenant_id: str) -> None:
        self._free -= 1
        self._held[tenant_id] = self._held.get(tenant_id, 0) + 1

    def _release(self, tenant_id: str) -> None:
        self._free += 1
        if self._held[tenant_id] == 1:
            del self._held[tenant_id]
        else:
            self._held[tenant_id] -= 1
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        while (tenant_id := next(filter(self._may_take, self._waiting), None)) is not None:
            waiters = self._waiting[tenant_id]
            waiter = waiters.popleft()
            if not waiters:
                del self._waiting[tenant_id]
            # A canceled call stays in the queue until its task runs.
            if not waiter.done():
                self._take(tenant_id)
                waiter.set_result(None)
                if waiters:
                    self._waiting.move_to_end(tenant_id)
