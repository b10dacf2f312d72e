"""A queue in which tenants take turns."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable


class TenantQueue:
    """Calls that wait. Tenants take turns; the calls of one tenant are FIFO.

    Keeps nothing for tenants without a waiting call.
    """

    def __init__(self) -> None:
        # The tenant with the next turn first.
        self._waiters: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of tenants with waiting calls."""
        return len(self._waiters)

    def add(self, tenant_id: str) -> "asyncio.Future[None]":
        """Add a call; the future that it must await ends with its turn."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(tenant_id, deque()).append(waiter)
        return waiter

    def remove(self, tenant_id: str, waiter: "asyncio.Future[None]") -> bool:
        """Remove a call that was canceled; False if it had its turn just before."""
        if not waiter.cancelled():
            return False
        waiters = self._waiters.get(tenant_id, deque())
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[tenant_id]
        return True

    def wake_next(self, may_take_turn: Callable[[str], bool] = bool) -> str | None:
        """Give the next turn to a call, and return its tenant; None if no call may take it."""
        while (tenant_id := next(filter(may_take_turn, self._waiters), None)) is not None:
            waiters = self._waiters[tenant_id]
            waiter = waiters.popleft()
            if not waiters:
                del self._waiters[tenant_id]
            # A canceled call stays in the queue until its task runs.
            if not waiter.done():
                waiter.set_result(None)
                if waiters:
                    self._waiters.move_to_end(tenant_id)
                return tenant_id
        return None
