"""Turns: a few slots, for which many tenants wait."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs_grpc.errors import Overloaded

# A tenant takes another slot only while it holds fewer than this many times as many as are
# free: so of ten, one tenant alone takes eight, and who comes next finds one at once.
_SHARE = 4


class FairSemaphore:
    """`size` slots, handed to tenants in turn, and to the calls of a tenant in theirs.

    A slot is taken at once as long as there is one for the tenant. Of a tenant with no slot
    and nobody waiting, nothing is kept.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._held: dict[str, int] = {}
        # The tenant whose turn is next comes first. Nobody waits who may have a slot.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, tenant_id: str, patience: float) -> AsyncIterator[None]:
        """Hold a slot; Overloaded if it is not the tenant's turn within `patience` seconds."""
        if self._may_take(tenant_id):
            self._take(tenant_id)
        else:
            await self._wait(tenant_id, patience)
        try:
            yield
        finally:
            self._give_back(tenant_id)

    async def _wait(self, tenant_id: str, patience: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant_id, deque()).append(turn)
        try:
            async with asyncio.timeout(patience):
                await turn
        except BaseException as e:
            if turn.cancelled():
                self._leave(tenant_id, turn)
            else:
                # Its turn came as it gave up.
                self._give_back(tenant_id)
            if isinstance(e, TimeoutError):
                raise Overloaded from e
            raise

    def _leave(self, tenant_id: str, turn: "asyncio.Future[None]") -> None:
        turns = self._waiting.get(tenant_id, deque())
        if turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[tenant_id]

    def _may_take(self, tenant_id: str) -> bool:
        return self._held.get(tenant_id, 0) < _SHARE * self._free

    def _take(self, tenant_id: str) -> None:
        self._free -= 1
        self._held[tenant_id] = self._held.get(tenant_id, 0) + 1

    def _give_back(self, tenant_id: str) -> None:
        self._free += 1
        if self._held[tenant_id] == 1:
            del self._held[tenant_id]
        else:
            self._held[tenant_id] -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        while (tenant_id := next(filter(self._may_take, self._waiting), None)) is not None:
            turns = self._waiting[tenant_id]
            turn = turns.popleft()
            if not turns:
                del self._waiting[tenant_id]
            # A call that has just given up is still here.
            if not turn.done():
                self._take(tenant_id)
                turn.set_result(None)
                if turns:
                    self._waiting.move_to_end(tenant_id)
