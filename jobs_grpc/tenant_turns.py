"""Starts a few calls at a time, tenants in turn."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from jobs_grpc.limits.fair_semaphore import FairSemaphore

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
        self._semaphore = FairSemaphore(max_turns, lambda held: min(held, 1))

    async def wait(self, tenant_id: str) -> "Turn":
        """Wait for the turn of a call."""
        await self._semaphore.take(tenant_id)
        return Turn(self._semaphore, tenant_id)

    async def pause(self, tenant_id: str) -> None:
        """Pause long work: wait for a turn of the tenant, and let other calls run meanwhile."""
        turn = await self.wait(tenant_id)
        try:
            await asyncio.sleep(0)
        finally:
            turn.end()


class Turn:
    """The turn of a call, which ends once: by `end`, or when its time is over."""

    __slots__ = ("_ended", "_semaphore", "_tenant_id", "_timer")

    def __init__(self, semaphore: FairSemaphore, tenant_id: str) -> None:
        """The tenant has taken the turn from `semaphore`."""
        self._semaphore = semaphore
        self._tenant_id = tenant_id
        self._ended = False
        self._timer = asyncio.get_running_loop().call_later(_MAX_SECONDS, self.end)

    def end(self, _: object = None) -> None:
        """End the turn, if it has not ended yet."""
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self._semaphore.release(self._tenant_id)
