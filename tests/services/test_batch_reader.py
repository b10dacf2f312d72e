"""BatchReader: the statements of many tenants."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from jobs_grpc.services.batch_reader import BatchReader, Encode
from tests.support.waiting import wait_until_true

MIB = 1024 * 1024


class Text(NamedTuple):
    """A response."""

    response: bytes


class Source:
    """Answers each query with itself, when `respond` is set."""

    def __init__(self) -> None:
        self.tenants: list[str] = []
        self.respond = asyncio.Event()

    async def read(self, tenant_id: str, queries: Sequence[str]) -> Iterator[Encode[Text]]:
        self.tenants.append(tenant_id)
        await self.respond.wait()
        return (partial(Text, query.encode()) for query in queries)

    def reader(self, memory: MemoryLimit) -> BatchReader[str, Text]:
        return BatchReader(self.read, memory, 0.01, asyncio.Event(), _pause, noun="texts")


async def _pause(_: str) -> None:
    await asyncio.sleep(0)


async def test_few_statements_run_at_the_same_time_however_many_tenants_read() -> None:
    """The calls of other tenants do not wait behind hundreds of tenants."""
    source, memory = Source(), MemoryLimit(128 * MIB, 64 * MIB)
    reader = source.reader(memory)
    reading = [
        asyncio.create_task(reader.read(f"t{n}", "query", Reservation(memory, f"t{n}")))
        for n in range(100)
    ]
    await wait_until_true(lambda: len(source.tenants) > 3)
    await asyncio.sleep(0.01)  # longer than requests are gathered
    assert len(source.tenants) == 4
    assert memory.held <= 4 * 8 * MIB
    assert memory.waiting == 0

    source.respond.set()

    assert await asyncio.gather(*reading) == [Text(b"query")] * 100
    assert sorted(source.tenants) == sorted(f"t{n}" for n in range(100))


async def test_tenant_whose_clients_hold_its_bytes_does_not_delay_others() -> None:
    source, memory = Source(), MemoryLimit(128 * MIB, 16 * MIB)
    source.respond.set()
    reader = source.reader(memory)
    slow = [Reservation(memory, f"slow{n}") for n in range(5)]
    waiting = []
    for n, reservation in enumerate(slow):
        reservation.set_size(16 * MIB)
        own = Reservation(memory, f"slow{n}")
        waiting.append(asyncio.create_task(reader.read(f"slow{n}", "query", own)))
    await wait_until_true(lambda: memory.waiting == 5)
    assert await reader.read("other", "query", Reservation(memory, "other")) == Text(b"query")
    assert not any(task.done() for task in waiting)

    for reservation in slow:
        reservation.release()

    assert await asyncio.gather(*waiting) == [Text(b"query")] * 5
