"""FairSlots: what a tenant leaves to others, and when a slot ends.

test_fair_semaphore_model.py has the turns of tenants and the calls that are canceled.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from jobs_grpc.limits import fair_slots
from jobs_grpc.limits.fair_slots import FairSlots
from tests.support.waiting import wait_until_true
from tests.support.waiting_calls import WaitingCalls


@pytest.fixture(autouse=True)
def turns_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot lasts as long as its call runs."""
    monkeypatch.setattr(fair_slots, "_MAX_SECONDS", 3600.0)


@asynccontextmanager
async def slot(slots: FairSlots, tenant: str) -> AsyncIterator[None]:
    held = await slots.wait(tenant)
    try:
        yield
    finally:
        held.release()


@pytest.fixture
def slots() -> FairSlots:
    return FairSlots(2)


@pytest.fixture
def calls(slots: FairSlots) -> WaitingCalls:
    return WaitingCalls(partial(slot, slots))


def assert_idle(slots: FairSlots) -> None:
    assert slots._semaphore.waiting == 0
    assert slots._semaphore.held == 0


async def test_the_last_turn_goes_to_a_tenant_that_has_none() -> None:
    slots = FairSlots(4)
    calls = WaitingCalls(partial(slot, slots))
    await calls.start("a1", "a2", "a3", "a4")
    assert calls.served == ["a1", "a2", "a3"]

    await calls.start("b1", "b2")
    await calls.end("a1")
    assert calls.served == ["a1", "a2", "a3", "b1"]

    await calls.start("c1")

    assert calls.served == ["a1", "a2", "a3", "b1", "c1"]
    await calls.end("c1", "b1", "a2", "a3", "b2", "a4")
    assert_idle(slots)


async def test_turn_ends_when_its_time_is_over(
    slots: FairSlots, calls: WaitingCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example because the call waits for a job lock."""
    monkeypatch.setattr(fair_slots, "_MAX_SECONDS", 0.001)
    await calls.start("a1", "a2", "a3")

    await wait_until_true(lambda: len(calls.served) == 3)

    await calls.end(*calls.served)
    assert_idle(slots)


@pytest.mark.parametrize("order", ["timer first", "task first"])
async def test_turn_ends_once_when_its_time_is_over_as_its_call_ends(
    order: str, slots: FairSlots, calls: WaitingCalls, monkeypatch: pytest.MonkeyPatch
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

    assert slots._semaphore.held == 1
    await calls.end("b1")
    assert_idle(slots)


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
