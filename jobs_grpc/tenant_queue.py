"""A queue in which tenants take turns."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable


class Waiter(asyncio.Future[None]):
    """A waiting call: its tenant, and how much it asks for. Done when the call gets its turn."""

    tenant_id: str
    size: int


class TenantQueue:
    """The waiting calls. Tenants take turns; the calls of one tenant are FIFO.

    Keeps nothing for tenants without a waiting call.
    """

    def __init__(self) -> None:
        # The tenant with the next turn first, and of each tenant the oldest call first.
        self._waiters: OrderedDict[str, OrderedDict[Waiter, None]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of tenants with waiting calls."""
        return len(self._waiters)

    @property
    def waiting(self) -> int:
        """The number of waiting calls."""
        return sum(map(len, self._waiters.values()))

    async def wait(
        self,
        tenant_id: str,
        give_back: Callable[[], None],
        *,
        size: int = 1,
        max_wait: float | None = None,
    ) -> None:
        """Wait for the turn of a call. Raises TimeoutError after `max_wait` seconds.

        If the call is canceled or times out just after its turn has come, calls `give_back`.
        """
        waiter = Waiter()
        waiter.tenant_id, waiter.size = tenant_id, size
        self._waiters.setdefault(tenant_id, OrderedDict())[waiter] = None
        try:
            async with asyncio.timeout(max_wait):
                await waiter
        except BaseException:
            if waiter.cancelled():
                self._remove(waiter)
            else:
                give_back()
            raise

    def _remove(self, waiter: Waiter) -> None:
        waiters = self._waiters.get(waiter.tenant_id)
        if waiters and waiter in waiters:
            del waiters[waiter]
            if not waiters:
                del self._waiters[waiter.tenant_id]

    def wake_next(self, may_take_turn: Callable[[str], bool]) -> Waiter | None:
        """Give the next turn to a call, and return it; None if no tenant may take the turn."""
        while (tenant_id := next(filter(may_take_turn, self._waiters), None)) is not None:
            waiters = self._waiters[tenant_id]
            waiter, _ = waiters.popitem(last=False)
            if not waiters:
                del self._waiters[tenant_id]
            # A canceled call stays in the queue until its task runs.
            if not waiter.done():
                waiter.set_result(None)
                if waiters:
                    self._waiters.move_to_end(tenant_id)
                return waiter
        return None
