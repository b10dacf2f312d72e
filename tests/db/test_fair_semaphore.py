"""Turns for the database: tenants in rotation, whatever one of them has waiting."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from jobs_grpc.db.fair_semaphore import FairSemaphore
from jobs_grpc.errors import Overloaded

LONG = 60.0


class Calls:
    """Calls that hold a slot until they are told to end; `served` says who got one, in order."""

    def __init__(self, size: int) -> None:
        self.slots = FairSemaphore(size)
        self.served: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, *names: str, max_wait: float = LONG) -> None:
        """Start calls, of the tenant that their first letter names."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._call(name, max_wait))
            await finalized()

    async def end(self, *names: str) -> None:
        """End calls that hold a slot."""
        for name in names:
            self._ends[name].set()
            await finalized()

    async def _call(self, name: str, max_wait: float) -> None:
        async with self.slots.slot(name[0], max_wait):
            self.served.append(name)
            await self._ends[name].wait()

    @property
    def tenants_kept(self) -> int:
        """Of how many tenants anything is kept."""
        return len(self.slots._held) + len(self.slots._waiting)


async def finalized() -> None:
    """Let the tasks run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_flood_does_not_make_others_wait_for_all_of_it() -> None:
    calls = Calls(1)
    await calls.start("a1", "a2", "a3", "a4", "b1", "c1", "b2")

    await calls.end("a1", "a2", "b1", "c1", "a3", "b2", "a4")

    assert calls.served == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_a_tenant_waits_for_no_more_than_one_call_of_each_other() -> None:
    calls = Calls(1)
    await calls.start(*(f"a{n}" for n in range(100)))
    await calls.start("b")

    await calls.end("a0", "a1")

    assert calls.served == ["a0", "a1", "b"]
    for task in calls.tasks.values():
        task.cancel()


async def test_of_ten_slots_two_are_left_for_those_who_come() -> None:
    calls = Calls(10)
    await calls.start(*(f"a{n}" for n in range(20)))
    assert len(calls.served) == 8

    await calls.start("b1", "c1")
    assert calls.served[8:] == ["b1", "c1"]

    # Two others hold slots, so there is one for each that ends, in turn.
    await calls.start("b2")
    await calls.end("a0", "b1")
    assert calls.served[10:] == ["b2"]
    for task in calls.tasks.values():
        task.cancel()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
async def test_a_small_pool_can_be_one_tenants(size: int) -> None:
    calls = Calls(size)

    await calls.start(*(f"a{n}" for n in range(size + 1)))

    assert len(calls.served) == size
    for task in calls.tasks.values():
        task.cancel()


async def test_who_waits_too_long_is_told_and_leaves_the_queue() -> None:
    calls = Calls(1)
    await calls.start("a1")
    await calls.start("b1", max_wait=0.001)

    with pytest.raises(Overloaded):
        await calls.tasks["b1"]
    await calls.start("c1")
    await calls.end("a1")

    assert calls.served == ["a1", "c1"]


async def test_who_gives_up_just_as_its_turn_comes_hands_it_on() -> None:
    calls = Calls(1)
    async with AsyncExitStack() as held:
        await held.enter_async_context(calls.slots.slot("a", LONG))
        await calls.start("b1", "c1")

        # No other task runs in between.
        await held.aclose()
        calls.tasks["b1"].cancel()
        await finalized()

    assert calls.served == ["c1"]


async def test_who_has_given_up_but_not_left_is_passed_over() -> None:
    calls = Calls(1)
    await calls.start("a1", "b1", "b2", "c1")

    # Both happen before b1 runs again.
    calls._ends["a1"].set()
    calls.tasks["b1"].cancel()
    await finalized()
    await calls.end("b2")

    assert calls.served == ["a1", "b2", "c1"]


async def test_nothing_is_kept_of_tenants_that_have_left() -> None:
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
