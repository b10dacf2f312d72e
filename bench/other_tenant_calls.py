"""Let another tenant call a server while something else is measured."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from bench.process import python, read_line

Call: TypeAlias = tuple[float, float, str]
"""When a call started, its seconds, and its error."""


@asynccontextmanager
async def other_tenant_calls(address: str, *options: str) -> AsyncIterator[list[Call]]:
    """Call from a process of its own; the list is filled when the block ends.

    The options are those of bench.hostile.other_tenant.
    """
    calls: list[Call] = []
    async with python("bench.hostile.other_tenant", address, *options) as process:
        yield calls
        process.terminate()
        calls += [tuple(call) for call in json.loads(await read_line(process))]
        await process.wait()


def milliseconds(calls: list[Call]) -> list[float]:
    """Return how long the calls without an error took."""
    return [1000 * seconds for _, seconds, error in calls if not error]
