"""RegisteredDevices: answers of the database about devices, asked for in batches."""

import asyncio
from collections.abc import Collection

import pytest

from jobs_grpc.auth.registered_devices import MAX_AGE, RegisteredDevices
from jobs_grpc.errors import DatabaseUnavailable
from tests.support.waiting import run_ready_tasks

D, E = ("t", "d"), ("t", "e")


class Directory:
    """A database whose statements end when the test says so."""

    def __init__(self) -> None:
        self.registered = {D}
        self.statements: list[list[str]] = []
        self.available = True
        self.answer = asyncio.Event()
        self.answer.set()
        self.now = 100.0
        self.devices = RegisteredDevices(self.find, max_answers=2, clock=lambda: self.now)

    async def find(self, tenants: list[str], devices: list[str]) -> Collection[int]:
        self.statements.append(devices)
        await self.answer.wait()
        if not self.available:
            raise DatabaseUnavailable
        pairs = enumerate(zip(tenants, devices, strict=True))
        return [index for index, pair in pairs if pair not in self.registered]

    async def __call__(self, *devices: tuple[str, str]) -> list[bool]:
        return list(await asyncio.gather(*map(self.devices.is_registered, devices)))


async def test_answer_is_used_for_less_than_a_second() -> None:
    directory = Directory()
    assert await directory(D, E) == [True, False]
    directory.registered = {E}
    directory.now += MAX_AGE / 2
    assert await directory(D, E) == [True, False]
    directory.now += MAX_AGE / 2
    assert await directory(D, E) == [False, True]
    assert directory.statements == [["d", "e"], ["d", "e"]]


async def test_calls_that_wait_share_a_statement() -> None:
    directory = Directory()
    directory.answer.clear()
    calls = [asyncio.create_task(directory(D))]
    await run_ready_tasks()
    calls += [asyncio.create_task(directory(*pair)) for pair in ((D,), (E,), (D, E))]
    await run_ready_tasks()
    calls[1].cancel()
    directory.answer.set()

    assert await calls[0] == [True]
    assert (await calls[2], await calls[3]) == ([False], [True, False])
    assert directory.statements == [["d"], ["d", "e"]]


async def test_last_answer_is_used_while_the_database_is_unavailable() -> None:
    directory = Directory()
    await directory(D)
    directory.available = False
    directory.now += 3600

    assert await directory(D) == [True]
    with pytest.raises(DatabaseUnavailable):
        await directory(E)
    assert not await directory.devices.find_unregistered([D, E])

    directory.available, directory.registered = True, set()
    assert await directory.devices.find_unregistered([D, E]) == [D, E]
    assert await directory(D) == [False]


async def test_answers_are_limited() -> None:
    directory = Directory()
    for device in (D, E, ("t", "f"), D):
        await directory(device)
    assert directory.statements == [["d"], ["e"], ["f"], ["d"]]
