"""Starts a few calls at a time, tenants in turn."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from jobs_grpc.tenant_queue import TenantQueue

# A turn ends after this time, because its call may wait for a lock or for its client.
_MAX_SECONDS = 0.01

Pause: TypeAlias = Callable[[], Awaitable[None]]
"""Lets other calls run while a large document or page is converted."""


class TenantTurns:
    """At most `max_turns` calls have their turn at the same time.

    The last free turn goes only to a tenant that has none: of four turns, one tenant gets at most
    three. So a tenant that calls seldom gets its turn soon.

    Without turns, a call waits in each step of its path behind the calls of a tenant that sends
    more of them than a CPU core can serve. A call that waits for its turn has not read its
    request yet and costs little.
    """

    def __init__(self, max_turns: int) -> None:
        self._free = max_turns
        # Turns in progress of each tenant.
        self._held: dict[str, int] = {}
        # Invariant: no waiting tenant may start a turn.
        self._queue = TenantQueue()

    async def wait(self, tenant_id: str) -> "Turn":
        """Wait for the turn of a call."""
        if self._may_start(tenant_id):
            self._start(tenant_id)
        else:
            await self._queue.wait(tenant_id, lambda: self.end(tenant_id))
        return Turn(self, tenant_id)

    async def pause(self, tenant_id: str) -> None:
        """Pause long work: wait for a turn of the tenant, and let other calls run meanwhile."""
        turn = await self.wait(tenant_id)
        try:
            await asyncio.sleep(0)
        finally:
            turn.end()

    def end(self, tenant_id: str) -> None:
        """End a turn of the tenant, and start those that may start now."""
        self._free += 1
        if self._held[tenant_id] == 1:
            del self._held[tenant_id]
        else:
            self._held[tenant_id] -= 1
        while (waiter := self._queue.wake_next(self._may_start)) is not None:
            self._start(waiter.tenant_id)

    def _may_start(self, tenant_id: str) -> bool:
        return self._free > 1 or (self._free == 1 and tenant_id not in self._held)

    def _start(self, tenant_id: str) -> None:
        self._free -= 1
        self._held[tenant_id] = self._held.get(tenant_id, 0) + 1


class Turn:
    """The turn of a call, which ends once: by `end`, or when its time is over."""

    __slots__ = ("_ended", "_tenant_id", "_timer", "_turns")

    def __init__(self, turns: TenantTurns, tenant_id: str) -> None:
        """`turns` has started the turn."""
        self._turns = turns
        self._tenant_id = tenant_id
        self._ended = False
        self._timer = asyncio.get_running_loop().call_later(_MAX_SECONDS, self.end)

    def end(self, _: object = None) -> None:
        """End the turn, if it has not ended yet."""
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self._turns.end(self._tenant_id)
