"""FairSemaphore: tenants take turns, however many calls of one tenant wait."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from jobs_grpc.db.fair_semaphore import FairSemaphore
from jobs_grpc.errors import Overloaded

LONG = 60.0


class Calls:
    """Calls that hold a slot until `end`. `served` lists the calls that got one, in order."""

    def __init__(self, size: int) -> None:
        self.slots = FairSemaphore(size)
        self.served: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, *names: str, max_wait: float = LONG) -> None:
        """Start calls. The first letter of a name is the tenant."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._call(name, max_wait))
            await run_ready_tasks()

    async def end(self, *names: str) -> None:
        """End calls that hold a slot."""
        for name in names:
            self._ends[name].set()
            await run_ready_tasks()

    async def _call(self, name: str, max_wait: float) -> None:
        async with self.slots.slot(name[0], max_wait):
            self.served.append(name)
            await self._ends[name].wait()

    @property
    def tenants_kept(self) -> int:
        """The number of tenants for which the semaphore keeps state."""
        return len(self.slots._held) + len(self.slots._waiting)


async def run_ready_tasks() -> None:
    """Let all tasks that are ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_tenants_take_turns_when_one_of_them_floods() -> None:
    calls = Calls(1)
    await calls.start("a1", "a2", "a3", "a4", "b1", "c1", "b2")

    await calls.end("a1", "a2", "b1", "c1", "a3", "b2", "a4")

    assert calls.served == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_tenant_waits_for_at_most_one_call_of_another_tenant() -> None:
    calls = Calls(1)
    await calls.start(*(f"a{n}" for n in range(100)))
    await calls.start("b")

    await calls.end("a0", "a1")

    assert calls.served == ["a0", "a1", "b"]
    for task in calls.tasks.values():
        task.cancel()


async def test_one_tenant_gets_eight_of_ten_slots() -> None:
    calls = Calls(10)
    await calls.start(*(f"a{n}" for n in range(20)))
    assert len(calls.served) == 8

    await calls.start("b1", "c1")
    assert calls.served[8:] == ["b1", "c1"]

    # Two other tenants hold slots now, so b2 gets the first slot that becomes free.
    await calls.start("b2")
    await calls.end("a0", "b1")
    assert calls.served[10:] == ["b2"]
    for task in calls.tasks.values():
        task.cancel()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
async def test_one_tenant_gets_all_slots_of_a_small_semaphore(size: int) -> None:
    calls = Calls(size)

    await calls.start(*(f"a{n}" for n in range(size + 1)))

    assert len(calls.served) == size
    for task in calls.tasks.values():
        task.cancel()


async def test_call_fails_and_leaves_the_queue_when_it_waits_too_long() -> None:
    calls = Calls(1)
    await calls.start("a1")
    await calls.start("b1", max_wait=0.001)

    with pytest.raises(Overloaded):
        await calls.tasks["b1"]
    await calls.start("c1")
    await calls.end("a1")

    assert calls.served == ["a1", "c1"]


async def test_slot_goes_to_the_next_call_when_its_owner_is_canceled() -> None:
    calls = Calls(1)
    async with AsyncExitStack() as held:
        await held.enter_async_context(calls.slots.slot("a", LONG))
        await calls.start("b1", "c1")

        # No other task runs between the release and the cancellation.
        await held.aclose()
        calls.tasks["b1"].cancel()
        await run_ready_tasks()

    assert calls.served == ["c1"]


async def test_canceled_call_is_skipped_when_a_slot_becomes_free() -> None:
    calls = Calls(1)
    await calls.start("a1", "b1", "b2", "c1")

    # Both happen before the task of b1 runs again.
    calls._ends["a1"].set()
    calls.tasks["b1"].cancel()
    await run_ready_tasks()
    await calls.end("b2")

    assert calls.served == ["a1", "b2", "c1"]


async def test_semaphore_keeps_no_state_of_tenants_without_calls() -> None:
    calls = Calls(2)
    await calls.start("a1", "a2", "b1", "c1", "c2")
    for name in ("b1", "c2"):
        calls.tasks[name].cancel()
    await calls.end("a1", "a2", "c1")

    assert calls.tenants_kept == 0
    async with AsyncExitStack() as all_slots:
        for tenant in "de":
            await all_slots.enter_async_context(calls.slots.slot(tenant, 0.001))
    assert calls.tenants_kept == 0
