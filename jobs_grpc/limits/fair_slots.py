"""Lets a few calls run at a time, and tenants take turns."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from jobs_grpc.auth.principal import current_principal
from jobs_grpc.limits.fair_semaphore import FairSemaphore

# A call loses its slot after this time, because it may wait for a lock or for its client.
_MAX_SECONDS = 0.01

YieldNow: TypeAlias = Callable[[], Awaitable[None]]
"""Lets other calls run while a large document or page is converted."""


class FairSlots:
    """At most `max_slots` calls have a slot at the same time.

    The last free slot goes only to a tenant that has none: of four slots, one tenant gets at most
    three. So a tenant that calls seldom gets a slot soon.

    Without slots, a call waits in each step of its path behind the calls of a tenant that sends
    more of them than a CPU core can serve. A call that waits for a slot has not read its
    request yet and costs little.
    """

    def __init__(self, max_slots: int) -> None:
        self._semaphore = FairSemaphore(max_slots, lambda held: min(held, 1))

    async def wait(self, tenant_id: str) -> "Slot":
        """Wait for a slot for a call of the tenant."""
        await self._semaphore.take(tenant_id)
        return Slot(self._semaphore, tenant_id)

    async def yield_now(self, tenant_id: str) -> None:
        """Let other calls run during long work, and wait for a slot of the tenant."""
        slot = await self.wait(tenant_id)
        try:
            await asyncio.sleep(0)
        finally:
            slot.release()

    async def yield_for_caller(self) -> None:
        """yield_now for the tenant of the current call."""
        await self.yield_now(current_principal().tenant_id)


class Slot:
    """The slot of a call. It is released once: by `release`, or after a time."""

    __slots__ = ("_released", "_semaphore", "_tenant_id", "_timer")

    def __init__(self, semaphore: FairSemaphore, tenant_id: str) -> None:
        """The tenant has taken the slot from `semaphore`."""
        self._semaphore = semaphore
        self._tenant_id = tenant_id
        self._released = False
        self._timer = asyncio.get_running_loop().call_later(_MAX_SECONDS, self.release)

    def release(self, _: object = None) -> None:
        """Release the slot, if it has not been released yet."""
        if not self._released:
            self._released = True
            self._timer.cancel()
            self._semaphore.release(self._tenant_id)
