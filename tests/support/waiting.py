"""Waiting for a condition."""

import asyncio
import time
from collections.abc import Awaitable, Callable

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


async def wait_until_equal(read: Callable[[], Awaitable[object]], value: object) -> None:
    """Poll until a call returns the value."""

    async def is_equal() -> bool:
        return await read() == value

    await wait_until(is_equal)


async def wait_until_true(condition: Callable[[], bool]) -> None:
    """Poll until a condition that needs no call holds."""

    async def holds() -> bool:
        return condition()

    await wait_until(holds)


async def run_ready_tasks() -> None:
    """Let all tasks that are ready run."""
    for _ in range(5):
        await asyncio.sleep(0)
