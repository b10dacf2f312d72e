"""Shares one computation among the calls that ask for it at the same time."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")


@dataclass(slots=True)
class _Flight(Generic[R]):
    task: asyncio.Task[R]
    callers: int = 0
    is_closed: bool = False
    """Whether calls that arrive from now on must not share the result."""


class SingleFlight(Generic[K, R]):
    """Runs at most one computation of each key.

    A call that arrives during a computation of its key waits for it, and gets its result or its
    error. A computation goes on when the call that began it ends, and is canceled when no call
    waits for it.
    """

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[R]] = {}

    async def run(self, key: K, compute: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Return the result of the running computation of `key`, or begin one.

        `compute` runs in a task with the context variables of the call that begins it.
        """
        while (flight := self._flights.get(key)) is not None and flight.is_closed:
            await asyncio.wait([flight.task])
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(compute()))
            flight.task.add_done_callback(partial(self._end, key))
        flight.callers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.callers -= 1
            if not flight.callers and not flight.task.done():
                flight.is_closed = True
                flight.task.cancel()
                # So that a server that waits for its calls waits for the computation, too.
                await asyncio.wait([flight.task])

    def close(self, key: K) -> None:
        """Let calls that arrive from now on not share the running computation of `key`."""
        if flight := self._flights.get(key):
            flight.is_closed = True

    def is_open(self, key: K) -> bool:
        """Return whether a call that arrives now shares the running computation of `key`."""
        flight = self._flights.get(key)
        return flight is not None and not flight.is_closed

    def _end(self, key: K, task: asyncio.Task[R]) -> None:
        del self._flights[key]
        if not task.cancelled():
            task.exception()  # All calls may have ended, so asyncio must not report it.
