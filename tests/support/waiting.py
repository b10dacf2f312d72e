"""Waiting for a condition."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds after which a wait or a call in a test fails."""


async def wait_until(condition: Callable[[], Awaitable[bool]], seconds: float = TIMEOUT) -> None:
    """Poll until the condition holds; fail after `seconds`."""
    started = time.monotonic()
    while not await condition():
        waited = time.monotonic() - started
        assert waited < seconds, f"the condition did not hold within {seconds} s"
        # Poll less often over time, because a scrape or a query takes as long as the pause.
        await asyncio.sleep(min(0.01 + waited / 20, 0.1))


async def read_until(read: Callable[[], Awaitable[T]], is_expected: Callable[[T], bool]) -> T:
    """Poll until a call returns what is expected, and return that."""
    results: list[T] = []

    async def holds() -> bool:
        results[:] = [await read()]
        return is_expected(results[0])

    await wait_until(holds)
    return results[0]


async def wait_until_equal(read: Callable[[], Awaitable[object]], value: object) -> None:
    """Poll until a call returns the value."""
    await read_until(read, lambda result: result == value)


async def wait_until_true(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    """Poll until a condition that needs no call holds; fail after `seconds`."""

    async def holds() -> bool:
        return condition()

    await wait_until(holds, seconds)


async def run_ready_tasks() -> None:
    """Let all tasks that are ready run."""
    for _ in range(5):
        await asyncio.sleep(0)
