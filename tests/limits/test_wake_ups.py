"""A release examines a few waiting tenants, however many wait."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jobs_grpc.limits import fair_slots
from jobs_grpc.limits.fair_slots import FairSlots, Slot
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from tests.support.examined_waiters import record_examined
from tests.support.scale import SCALE
from tests.support.waiting import run_ready_tasks

COUNT = 1000 * SCALE
TENANTS = [f"t{number}" for number in range(COUNT)]

pytestmark = pytest.mark.slow


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return record_examined(monkeypatch)


@asynccontextmanager
async def tasks(
    calls: Iterable[Coroutine[Any, Any, Any]],
) -> AsyncIterator[list[asyncio.Task[Any]]]:
    running = [asyncio.create_task(call) for call in calls]
    await run_ready_tasks()
    try:
        yield running
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def done(running: list[asyncio.Task[Any]]) -> int:
    """Count the calls that have got what they waited for."""
    return sum(task.done() for task in running)


@pytest.mark.parametrize(("held", "left", "served"), [(200, 150, 0), (100, 99, 1)])
async def test_release_of_bytes_examines_only_the_tenants_that_it_serves(
    examined: list[str], held: int, left: int, served: int
) -> None:
    memory = MemoryLimit(100, 100)
    holder = Reservation(memory, "x")
    await holder.add(held)
    async with tasks(memory.take(tenant, 1) for tenant in TENANTS) as waiting:
        examined.clear()

        holder.set_size(left)
        await run_ready_tasks()

        assert done(waiting) == served
        assert examined == TENANTS[:served]


async def test_release_of_bytes_does_not_examine_tenants_at_their_limit(
    examined: list[str],
) -> None:
    memory = MemoryLimit(11 * COUNT, 10)
    for tenant in TENANTS:
        memory.change_held(tenant, 10)
    memory.change_held("x", 10)
    async with tasks(memory.take(tenant, 1) for tenant in TENANTS) as waiting:
        examined.clear()

        memory.release("x", 10)
        assert examined == []

        memory.release(TENANTS[-1], 1)
        await run_ready_tasks()
        assert waiting[-1].done()
        assert examined == TENANTS[-1:]


async def test_release_of_bytes_skips_only_tenants_that_hold_a_sixteenth(
    examined: list[str],
) -> None:
    """The others hold a byte each, and may take more while anything is free."""
    memory = MemoryLimit(2 * COUNT, 2 * COUNT)
    large = [f"large{number}" for number in range(7)]
    for tenant in TENANTS:
        memory.change_held(tenant, 1)
    for tenant in large:
        memory.change_held(tenant, 13 * COUNT // 100)
    memory.change_held("x", 9 * COUNT // 100)
    async with tasks(memory.take(tenant, 1) for tenant in [*large, *TENANTS]) as waiting:
        assert memory.waiting == len(waiting)
        examined.clear()

        memory.release("x", 1)
        await run_ready_tasks()

        assert waiting[len(large)].done()
        assert done(waiting) == 1
        assert examined == [*large, TENANTS[0]]


async def test_release_of_bytes_examines_no_canceled_calls(examined: list[str]) -> None:
    memory = MemoryLimit(100, 100)
    holder = Reservation(memory, "x")
    await holder.add(100)
    async with tasks(memory.take(tenant, 100) for tenant in TENANTS) as waiting:
        for task in waiting[:-1]:
            task.cancel()
        examined.clear()

        # Their tasks have not run yet.
        holder.release()
        assert memory.waiting == 0
        assert examined == TENANTS[-1:]


async def test_release_of_bytes_examines_few_calls_that_wait_for_more(examined: list[str]) -> None:
    memory = MemoryLimit(COUNT, COUNT)
    holder, reservations = Reservation(memory, "x"), []
    for tenant in TENANTS:
        reservations.append(Reservation(memory, tenant))
        reservations[-1].set_size(1)
    holder.set_size(10)
    async with tasks(reservation.resize(100) for reservation in reservations) as waiting:
        assert memory.waiting == len(waiting)
        examined.clear()

        holder.set_size(9)
        assert examined == []

        # The others hold nothing else, so one of them proceeds.
        holder.release()
        await run_ready_tasks()
        assert done(waiting) == 1
        assert examined == TENANTS[:1]


async def test_end_of_a_turn_examines_few_tenants(
    examined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first tenants that wait have a slot each, and must leave the last one to others."""
    monkeypatch.setattr(fair_slots, "_MAX_SECONDS", 3600.0)
    slots = FairSlots(4)
    running: list[Slot] = [await slots.wait(tenant) for tenant in "abcd"]
    async with tasks(slots.wait(tenant) for tenant in ["b", "c", "d", *TENANTS]) as waiting:
        examined.clear()

        running[0].release()
        await run_ready_tasks()

        assert done(waiting) == 1
        assert examined == ["b", "c", "d", TENANTS[0]]
        for slot in (*running, waiting[3].result()):
            slot.release()
