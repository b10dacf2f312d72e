"""FairSlots: what a tenant leaves to others, and when a slot ends.

test_fair_semaphore_model.py has the turns of tenants and the calls that are canceled.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from jobs_grpc.limits import fair_slots
from jobs_grpc.limits.fair_slots import FairSlots
from tests.support.waiting import run_ready_tasks, wait_until


@pytest.fixture(autouse=True)
def turns_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot lasts as long as its call runs."""
    monkeypatch.setattr(fair_slots, "_MAX_SECONDS", 3600.0)


@pytest.fixture
def calls() -> "Calls":
    """Two slots, of which a tenant can have one."""
    return Calls()


class Calls:
    """Calls that run until `end`. `started` lists the calls that got a slot, in order."""

    def __init__(self, max_slots: int = 2) -> None:
        self.slots = FairSlots(max_slots)
        self.started: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, *names: str) -> None:
        """Start calls. The first letter of a name is the tenant."""
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._call(name))
            await run_ready_tasks()

    async def end(self, *names: str) -> None:
        """End calls that have started."""
        for name in names:
            self.ends[name].set()
            await run_ready_tasks()

    async def _call(self, name: str) -> None:
        task = asyncio.current_task()
        assert task
        slot = await self.slots.wait(name[0])
        task.add_done_callback(slot.release)
        self.started.append(name)
        await self.ends[name].wait()

    def assert_idle(self) -> None:
        """No call waits or has a slot."""
        assert self.slots._semaphore.waiting == 0
        assert self.slots._semaphore.held == 0


async def test_the_last_turn_goes_to_a_tenant_that_has_none() -> None:
    calls = Calls(max_slots=4)
    await calls.start("a1", "a2", "a3", "a4")
    assert calls.started == ["a1", "a2", "a3"]

    await calls.start("b1", "b2")
    await calls.end("a1")
    assert calls.started == ["a1", "a2", "a3", "b1"]

    await calls.start("c1")

    assert calls.started == ["a1", "a2", "a3", "b1", "c1"]
    await calls.end("c1", "b1", "a2", "a3", "b2", "a4")
    calls.assert_idle()


async def test_turn_ends_when_its_time_is_over(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example because the call waits for a job lock."""
    monkeypatch.setattr(fair_slots, "_MAX_SECONDS", 0.001)
    await calls.start("a1", "a2", "a3")

    async def all_have_started() -> bool:
        return len(calls.started) == 3

    await wait_until(all_have_started)

    await calls.end(*calls.started)
    calls.assert_idle()


@pytest.mark.parametrize("order", ["timer first", "task first"])
async def test_turn_ends_once_when_its_time_is_over_as_its_call_ends(
    order: str, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[Callable[[], None]] = []

    class Timer:
        """A timer that is due, so that it cannot be canceled anymore."""

        def cancel(self) -> None:
            pass

    def call_later(_: float, callback: Callable[[], None]) -> Any:
        timers.append(callback)
        return Timer()

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
    await calls.start("a1", "b1")
    [end_a1, _] = timers

    if order == "timer first":
        end_a1()
        await calls.end("a1")
    else:
        await calls.end("a1")
        end_a1()

    assert calls.slots._semaphore.held == 1
    await calls.end("b1")
    calls.assert_idle()


async def test_pauses_of_a_tenant_do_not_wait_for_all_of_another_tenant() -> None:
    slots, steps = FairSlots(1), list[str]()

    async def work(tenant: str) -> None:
        for _ in range(3):
            await slots.yield_now(tenant)
            steps.append(tenant)

    async with asyncio.TaskGroup() as group:
        for tenant in "aaab":
            group.create_task(work(tenant))

    # With one queue for all, "b" would have every fourth turn until the end.
    assert steps.count("b") == 3
    assert "b" not in steps[9:]
    assert slots._semaphore.waiting == 0
