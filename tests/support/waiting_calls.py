"""Calls that wait for something, and hold it until a test ends them."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from tests.support.waiting import run_ready_tasks


class WaitingCalls:
    """Each call enters `hold(tenant)` and stays in it until `end`.

    The first letter of a call's name is its tenant. `served` lists the calls that have entered, in
    order.
    """

    def __init__(self, hold: Callable[[str], AbstractAsyncContextManager[object]]) -> None:
        self._hold = hold
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.served: list[str] = []

    async def start(self, *names: str) -> None:
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks.append(asyncio.create_task(self._call(name)))
            await run_ready_tasks()

    async def end(self, *names: str) -> None:
        """End calls that were served."""
        for name in names:
            self._ends[name].set()
            await run_ready_tasks()

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _call(self, name: str) -> None:
        async with self._hold(name[0]):
            self.served.append(name)
            await self._ends[name].wait()
