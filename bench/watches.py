"""Keep thousands of watches open with clients in processes of their own."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.process import Server, python, read_line
from bench.run import InvalidRun

# Processes of clients. In one, their messages would wait for each other.
_PROCESSES = 2

# Seconds within which all watches must have their message.
_TIMEOUT = 120.0


@dataclass(frozen=True)
class Received:
    """When each stream received a message, and how often streams ended before, by status."""

    times: list[float]
    ends: Counter[str]


class Clients:
    """The processes that keep the watches open."""

    def __init__(self, processes: Sequence[Any]) -> None:
        self._processes = processes

    async def expect(self, kind: str) -> "asyncio.Future[Received]":
        """Return a future that ends when all streams have received a message.

        `kind`: "first" for the first message of a new stream, "next" for a further message.
        """
        for process in self._processes:
            process.stdin.write(f"{kind}\n".encode())
        for process in self._processes:
            await read_line(process)
        receiving = asyncio.ensure_future(self._receive(kind))
        # If the run is interrupted, nothing awaits the task, which fails when its processes end.
        receiving.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return receiving

    async def _receive(self, kind: str) -> Received:
        times: list[float] = []
        ends: Counter[str] = Counter()
        try:
            async with asyncio.timeout(_TIMEOUT):
                for process in self._processes:
                    received, ended = json.loads(await read_line(process))
                    times += received
                    ends.update(ended)
        except TimeoutError:
            raise InvalidRun(f"after {_TIMEOUT:g} s, a watch has no {kind} message") from None
        return Received(times, ends)


@asynccontextmanager
async def watch_clients(
    server: Server,
    method: str,
    watches: int,
    tenants: Sequence[str],
    certificates: Path | str = "",
) -> AsyncIterator[Clients]:
    """Run processes that connect to the server. The first `expect` opens the watches.

    With a file of `certificates`, each watch has one, and a connection of its own.
    """
    async with AsyncExitStack() as stack:
        processes = []
        for number in range(_PROCESSES):
            first, end = (watches * n // _PROCESSES for n in (number, number + 1))
            arguments = (server.address, method, first, end - first, certificates, *tenants)
            started = python("bench.watch_clients", *arguments)
            processes.append(await stack.enter_async_context(started))
        yield Clients(processes)
