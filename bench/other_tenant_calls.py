"""Let another tenant call a server while something else is measured."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from bench.environment import Server
from bench.process import PythonProcess
from bench.watches import read_line

Call: TypeAlias = tuple[float, float, str]
"""When a call started, its seconds, and its error."""


@asynccontextmanager
async def other_tenant_calls(server: Server) -> AsyncIterator[list[Call]]:
    """Call from a process of its own; the list is filled when the block ends."""
    calls: list[Call] = []
    async with PythonProcess("-m", "bench.hostile.other_tenant", server.address) as process:
        await read_line(process)
        yield calls
        process.terminate()
        calls += [tuple(call) for call in json.loads(await read_line(process))]
        await process.wait()
