"""MemoryLimit: bytes are reserved within limits, and tenants that wait take turns."""

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
        """Start a call. The first letter of its name is the tenant."""
        self.reservations[name] = Reservation(self.memory, name[0])
        self.tasks[name] = asyncio.create_task(self._call(name, size, max_wait))
        await run_ready_tasks()

    async def _call(self, name: str, size: int, max_wait: float | None) -> None:
        await self.reservations[name].add(size, max_wait)
        self.served.append(name)

    async def end(self, *names: str) -> None:
        """Release what calls hold."""
        for name in names:
            self.reservations[name].release()
            await run_ready_tasks()

    async def cancel(self, name: str) -> None:
        """Cancel a call that waits."""
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks[name], return_exceptions=True)


async def test_call_waits_when_its_tenant_is_at_its_limit() -> None:
    calls = Calls(1000, 100)
    await calls.start("a1", 60)
    await calls.start("a2", 60)
    await calls.start("a3", 1)
    await calls.start("b1", 60)
    assert calls.served == ["a1", "a2", "b1"]

    await calls.end("a1")

    assert calls.served == ["a1", "a2", "b1", "a3"]


async def test_call_of_any_size_is_served_when_nothing_is_held() -> None:
    calls = Calls(1000, 100)

    await calls.start("a1", 5000)
    await calls.end("a1")

    assert calls.served == ["a1"]
    assert calls.memory.held == 0


async def test_call_of_no_bytes_leaves_nothing_behind() -> None:
    """The first message of a stream can be empty."""
    calls = Calls(1000, 100)

    await calls.start("a1", 0)
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


async def test_waiting_tenants_take_turns() -> None:
    calls = Calls(10, 10)
    await calls.start("x", 10)
    for name in ("a1", "a2", "a3", "b1", "c1"):
        await calls.start(name, 10)

    for name in ("x", "a1", "b1", "c1", "a2", "a3"):
        await calls.end(name)

    assert calls.served == ["x", "a1", "b1", "c1", "a2", "a3"]


async def test_waiting_tenant_is_skipped_while_it_is_at_its_limit() -> None:
    calls = Calls(100, 10)
    await calls.start("a1", 10)
    await calls.start("a2", 10)
    await calls.start("b1", 10)
    await calls.start("b2", 10)

    await calls.end("b1")

    assert calls.served == ["a1", "b1", "b2"]
    await calls.cancel("a2")


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


async def test_canceled_call_is_not_served_and_holds_nothing() -> None:
    calls = Calls(10, 10)
    await calls.start("a1", 10)
    await calls.start("a2", 10)
    await calls.start("a3", 10)

    await calls.cancel("a2")
    await calls.end("a1")

    assert calls.served == ["a1", "a3"]
    await calls.end("a3")
    assert calls.memory.held == 0
    assert not calls.memory._held
    assert calls.memory.waiting == 0


async def test_call_that_is_canceled_as_its_turn_comes_gives_it_to_the_next() -> None:
    calls = Calls(10, 10)
    await calls.start("a1", 10)
    await calls.start("a2", 10)
    await calls.start("a3", 10)

    # The turn of a2 comes, but its task has not run when it is canceled.
    calls.reservations["a1"].release()
    await calls.cancel("a2")
    await run_ready_tasks()

    assert calls.served == ["a1", "a3"]
    assert calls.memory.held == 10


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


async def test_calls_go_on_one_by_one_when_all_wait_for_more() -> None:
    """A new call waits behind them, because what they hold stays counted."""
    calls = Calls(20, 20)
    await calls.start("a1", 9)
    await calls.start("a2", 12)
    await calls.start("a3", 1)
    larger = {
        name: asyncio.create_task(calls.reservations[name].resize(15)) for name in ("a1", "a2")
    }
    await run_ready_tasks()
    assert [task.done() for task in larger.values()] == [True, False]
    assert calls.memory.held == 15 + 12

    await calls.end("a1")

    await larger["a2"]
    assert calls.served == ["a1", "a2"]
    await calls.end("a2")
    assert calls.served == ["a1", "a2", "a3"]


async def test_calls_of_many_tenants_that_ask_for_more_exceed_the_budget_one_at_a_time() -> None:
    calls = Calls(100, 50)
    names = [f"{chr(ord('a') + number)}1" for number in range(20)]
    for name in names:
        await calls.start(name, 5)
    larger = {name: asyncio.create_task(calls.reservations[name].resize(40)) for name in names}
    await run_ready_tasks()
    assert calls.memory.held <= 100 + 40

    served = 0
    while ready := [name for name, task in larger.items() if task.done()]:
        served += len(ready)
        for name in ready:
            await larger.pop(name)
            await calls.end(name)
            assert calls.memory.held <= 100 + 40

    assert served == len(names)
    assert calls.memory.held == 0


async def test_call_that_asks_for_more_proceeds_when_its_tenant_is_at_its_limit() -> None:
    """Its tenant holds nothing else, so no other call of it could free bytes."""
    calls = Calls(100, 20)
    await calls.start("b1", 40)
    await calls.start("a1", 20)

    async with asyncio.timeout(TIMEOUT):
        await calls.reservations["a1"].resize(30)

    assert calls.memory.held == 70


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
