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

    def add(self, tenant_id: str, size: int = 1) -> Waiter:
        """Add a call, which must await the result."""
        waiter = Waiter()
        waiter.tenant_id, waiter.size = tenant_id, size
        self._waiters.setdefault(tenant_id, OrderedDict())[waiter] = None
        return waiter

    def remove(self, tenant_id: str, waiter: Waiter) -> bool:
        """Remove a call that was canceled; False if it had its turn just before."""
        if not waiter.cancelled():
            return False
        waiters = self._waiters.get(tenant_id)
        if waiters and waiter in waiters:
            del waiters[waiter]
            if not waiters:
                del self._waiters[tenant_id]
        return True

    def wake_next(self, may_take_turn: Callable[[str], bool] = bool) -> Waiter | None:
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
