"""A semaphore that tenants share fairly."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable


class FairSemaphore:
    """At most `capacity` units, such as connections or bytes, which calls of tenants take.

    A tenant may take units while it holds fewer than `max_held`, and while more than
    `reserve(held)` are free: the more it holds, the more it must leave to others. The number of
    units that a call takes is not checked, so the last call may exceed the capacity and `max_held`.

    Waiting tenants are served round-robin, and the calls of one tenant are FIFO. A tenant that may
    not take units is skipped and keeps its place. A tenant that holds `max_held` leaves the
    queue, and joins it at the end when it holds less. Tenants without units and waiting calls take
    no memory.

    A release examines no waiting tenants if nothing is free; otherwise it skips only tenants with a
    reserve. If the reserve of a tenant that holds fewer than N units is 0, at most `capacity / N`
    tenants have one.
    """

    def __init__(
        self, capacity: int, reserve: Callable[[int], int], max_held: float = math.inf
    ) -> None:
        self.capacity = capacity
        # Negative if calls hold more than the capacity.
        self._free = capacity
        self._reserve = reserve
        self._max_held = max_held
        self._held: dict[str, int] = {}
        # Calls that hold nothing. Invariant: no waiting tenant may take units.
        self._new = _Queue()
        # Calls that hold units and wait for more, and what they hold, by tenant and in total.
        self._holders = _Queue()
        self._held_by_holders: dict[str, int] = {}
        self._held_by_all_holders = 0

    @property
    def held(self) -> int:
        """The units that all calls hold."""
        return self.capacity - self._free

    @property
    def waiting(self) -> int:
        """The number of calls that wait."""
        return self._new.waiting + self._holders.waiting

    def held_by(self, tenant_id: str) -> int:
        """The units that calls of a tenant hold."""
        return self._held.get(tenant_id, 0)

    def may_take(self, tenant_id: str, returned: int = 0) -> bool:
        """Whether a tenant could take units if it first returned some."""
        held = self._held.get(tenant_id, 0) - returned
        return held < self._max_held and self._reserve(held) < self._free + returned

    def try_take(self, tenant_id: str, units: int = 1) -> bool:
        """Take units without waiting. Returns False if the tenant would have to wait."""
        held = self._held.get(tenant_id, 0)
        if held >= self._max_held or self._reserve(held) >= self._free:
            return False
        if units:
            self._free -= units
            self._held[tenant_id] = held + units
        return True

    async def take(self, tenant_id: str, units: int = 1, max_wait: float | None = None) -> None:
        """Take units, after waiting for them if necessary.

        Raises TimeoutError after `max_wait` seconds.
        """
        if not self.try_take(tenant_id, units):
            await self._wait(self._new, tenant_id, units, max_wait)

    async def take_as_holder(
        self, tenant_id: str, held: int, units: int, max_wait: float | None = None
    ) -> None:
        """Take units for a call that holds `held` units, which it must release afterwards.

        Such calls go before those that hold nothing. To prevent a deadlock, one call of a tenant
        proceeds if the tenant holds nothing else and any units are free, and one call of all
        tenants if nothing else is held. Raises TimeoutError after `max_wait` seconds.
        """
        self._count_holder(tenant_id, held)
        try:
            await self._wait(self._holders, tenant_id, units, max_wait)
        finally:
            self._count_holder(tenant_id, -held)

    def release(self, tenant_id: str, units: int = 1) -> None:
        """Release units, and give them to calls that wait."""
        self.change_held(tenant_id, -units)

    def change_held(self, tenant_id: str, units: int) -> None:
        """Change what a tenant holds by a number of units, whatever the limits are."""
        self._free -= units
        held = self._held.get(tenant_id, 0) + units
        if held:
            self._held[tenant_id] = held
        else:
            self._held.pop(tenant_id, None)
        if self._new.waiters or self._holders.waiters:
            self._update_queues(tenant_id)
            if units < 0:
                self._wake_waiters()

    async def _wait(
        self, queue: "_Queue", tenant_id: str, units: int, max_wait: float | None
    ) -> None:
        waiter = queue.append(tenant_id, units)
        self._update_queues(tenant_id)
        self._wake_waiters()
        try:
            async with asyncio.timeout(max_wait):
                await waiter
        except BaseException:
            # It may be canceled or time out just after it has got its units.
            if not waiter.cancelled():
                self.release(tenant_id, units)
            raise

    def _count_holder(self, tenant_id: str, units: int) -> None:
        self._held_by_all_holders += units
        held = self._held_by_holders.get(tenant_id, 0) + units
        if held:
            self._held_by_holders[tenant_id] = held
        else:
            self._held_by_holders.pop(tenant_id, None)
        self._update_queues(tenant_id)

    def _update_queues(self, tenant_id: str) -> None:
        """Add a waiting tenant to its queue, or remove it while the tenant is at its limit."""
        is_below_limit = self._held.get(tenant_id, 0) < self._max_held
        self._new.update(tenant_id, is_below_limit)
        self._holders.update(tenant_id, is_below_limit or self._holds_nothing_else(tenant_id))

    def _wake_waiters(self) -> None:
        while waiter := self._next_holder() or self._next_new():
            self.change_held(waiter.tenant_id, waiter.units)
            waiter.set_result(None)

    def _next_holder(self) -> "_Waiter | None":
        if self._free <= 0 and self.held != self._held_by_all_holders:
            return None
        return self._holders.pop_first(
            lambda tenant_id: self.may_take(tenant_id) or self._holds_nothing_else(tenant_id)
        )

    def _next_new(self) -> "_Waiter | None":
        return self._new.pop_first(self.may_take) if self._free > 0 else None

    def _holds_nothing_else(self, tenant_id: str) -> bool:
        return self._held.get(tenant_id, 0) == self._held_by_holders.get(tenant_id, 0)


class _Queue:
    """Calls that wait: a FIFO queue for each tenant, and a round-robin queue of tenants."""

    def __init__(self) -> None:
        # The calls of each tenant, the oldest first.
        self.waiters: dict[str, OrderedDict[_Waiter, None]] = {}
        self.waiting = 0
        # The tenants that a release considers, the next one first.
        self._tenants: OrderedDict[str, None] = OrderedDict()

    def append(self, tenant_id: str, units: int) -> "_Waiter":
        """Add a call that waits for units."""
        waiter = _Waiter(self, tenant_id, units)
        self.waiters.setdefault(tenant_id, OrderedDict())[waiter] = None
        self.waiting += 1
        return waiter

    def update(self, tenant_id: str, is_below_limit: bool) -> None:
        """Add a waiting tenant at the end if it is not in the queue, or remove it."""
        if is_below_limit and tenant_id in self.waiters:
            self._tenants.setdefault(tenant_id)
        else:
            self._tenants.pop(tenant_id, None)

    def remove(self, waiter: "_Waiter") -> None:
        """Remove a call that gets its units or is canceled."""
        self.waiting -= 1
        waiters = self.waiters[waiter.tenant_id]
        del waiters[waiter]
        if not waiters:
            del self.waiters[waiter.tenant_id]
            self._tenants.pop(waiter.tenant_id, None)

    def pop_first(self, may_take: Callable[[str], bool]) -> "_Waiter | None":
        """Remove the next call that may take units, and return it; None if there is none."""
        tenant_id = next(filter(may_take, self._tenants), None)
        if tenant_id is None:
            return None
        self._tenants.move_to_end(tenant_id)
        waiter = next(iter(self.waiters[tenant_id]))
        self.remove(waiter)
        return waiter


class _Waiter(asyncio.Future[None]):
    """A call that waits for units. Done when it has them."""

    def __init__(self, queue: _Queue, tenant_id: str, units: int) -> None:
        super().__init__()
        self._queue = queue
        self.tenant_id = tenant_id
        self.units = units

    def cancel(self, msg: object = None) -> bool:
        """Leave the queue at once, so that a release never finds canceled calls in it."""
        canceled = super().cancel(msg)
        if canceled:
            self._queue.remove(self)
        return canceled
