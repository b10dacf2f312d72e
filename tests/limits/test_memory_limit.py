"""MemoryLimit and Reservation: the limits, their errors, and calls that need more bytes.

test_fair_semaphore_model.py has the turns of tenants and the calls that are canceled.
"""

import asyncio

import pytest

from jobs_grpc.errors import LimitExceeded
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from tests.support.waiting import TIMEOUT, run_ready_tasks


class Calls:
    """Calls that hold bytes. `served` lists those that got them, in order."""

    def __init__(self, max_bytes: int, max_tenant_bytes: int) -> None:
        self.memory = MemoryLimit(max_bytes, max_tenant_bytes)
        self.served: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.reservations: dict[str, Reservation] = {}

    async def start(self, name: str, size: int, max_wait: float | None = TIMEOUT) -> None:
        self.reservations[name] = Reservation(self.memory, name[0])
        self.tasks[name] = asyncio.create_task(self._call(name, size, max_wait))
        await run_ready_tasks()

    async def _call(self, name: str, size: int, max_wait: float | None) -> None:
        await self.reservations[name].add(size, max_wait)
        self.served.append(name)

    async def end(self, *names: str) -> None:
        for name in names:
            self.reservations[name].release()
            await run_ready_tasks()


async def test_call_waits_when_its_tenant_is_at_its_limit() -> None:
    calls = Calls(1000, 100)
    await calls.start("a1", 60)
    await calls.start("a2", 60)
    await calls.start("a3", 1)
    await calls.start("b1", 60)
    assert calls.served == ["a1", "a2", "b1"]

    await calls.end("a1")

    assert calls.served == ["a1", "a2", "b1", "a3"]


@pytest.mark.parametrize("size", [0, 5000])
async def test_call_of_any_size_is_served_and_leaves_nothing_behind(size: int) -> None:
    """The first message of a stream can be empty."""
    calls = Calls(1000, 100)

    await calls.start("a1", size)
    await calls.end("a1")

    assert calls.served == ["a1"]
    assert not calls.memory._held


async def test_two_tenants_leave_a_third_to_others() -> None:
    calls = Calls(90, 90)
    for number in range(90):
        await calls.start(f"a{number}", 1)
        await calls.start(f"b{number}", 1)

    assert len(calls.served) == 60
    await calls.start("c1", 1)
    assert calls.served[-1] == "c1"
    for task in calls.tasks.values():
        task.cancel()


@pytest.mark.parametrize(
    ("max_tenant_bytes", "setting"),
    [(10, "JOBS_MAX_TENANT_BUFFERED_BYTES"), (20, "JOBS_MAX_BUFFERED_BYTES")],
)
async def test_error_names_the_limit_when_the_wait_takes_too_long(
    max_tenant_bytes: int, setting: str
) -> None:
    calls = Calls(20, max_tenant_bytes)
    await calls.start("a1", 10)
    await calls.start("a2", 10, max_wait=0)

    with pytest.raises(LimitExceeded) as raised:
        await calls.tasks["a2"]

    assert raised.value.metadata["setting"] == setting
    assert raised.value.retry_after == 1
    await calls.end("a1")
    assert calls.memory.held == 0
    assert calls.memory.waiting == 0


async def test_calls_that_ask_for_more_do_not_wait_for_each_other() -> None:
    calls = Calls(20, 20)
    await calls.start("a1", 9)
    await calls.start("a2", 9)
    larger = [asyncio.create_task(calls.reservations[name].resize(20)) for name in ("a1", "a2")]
    await run_ready_tasks()

    assert [task.done() for task in larger] == [True, False]
    await calls.end("a1")
    await asyncio.gather(*larger)
    assert calls.memory.held == 20


async def test_bytes_stay_counted_while_a_call_waits_for_more() -> None:
    calls = Calls(100, 20)
    await calls.start("a1", 9)
    await calls.start("a2", 20)
    larger = asyncio.create_task(calls.reservations["a1"].resize(15))
    await calls.start("a3", 1)
    assert not larger.done()
    assert calls.memory.held == 29
    assert calls.memory.waiting == 2

    await calls.end("a2")

    await larger
    await calls.tasks["a3"]
    assert calls.memory.held == 16


async def test_bytes_are_kept_when_the_wait_for_more_is_canceled() -> None:
    calls = Calls(20, 20)
    await calls.start("a1", 9)
    await calls.start("a2", 20)
    larger = asyncio.create_task(calls.reservations["a1"].resize(15))
    await run_ready_tasks()

    larger.cancel()
    await asyncio.gather(larger, return_exceptions=True)

    assert calls.memory.held == 29
    await calls.end("a1", "a2")
    assert calls.memory.held == 0


async def test_reservation_that_becomes_smaller_does_not_wait() -> None:
    calls = Calls(20, 20)
    await calls.start("a1", 40)

    async with asyncio.timeout(TIMEOUT):
        await calls.reservations["a1"].resize(30)

    assert calls.memory.held == 30
