"""FairSemaphore does what a model of its rules does, after random operations."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_grpc.limits.fair_semaphore import FairSemaphore
from tests.support.fair_semaphore_model import Call, Model
from tests.support.scale import examples
from tests.support.waiting import run_ready_tasks

TENANTS = "abc"
MAX_UNITS = 6

# Capacity, reserve and maximum of a tenant: like those of bytes, of connections and of turns.
RULES = (
    st.builds(
        lambda capacity, step, max_held: (capacity, lambda held: held - held % step, max_held),
        st.integers(1, 30),
        st.integers(1, 6),
        st.integers(1, 30),
    )
    | st.builds(
        lambda capacity, ratio: (capacity, lambda held: held // ratio, float("inf")),
        st.integers(1, 12),
        st.integers(1, 4),
    )
    | st.builds(
        lambda capacity: (capacity, lambda held: min(held, 1), float("inf")), st.integers(1, 4)
    )
)
_WEIGHTS = {
    "take": 5,
    "take_as_holder": 3,
    "release": 3,
    "release_part": 1,
    "release_and_cancel_woken": 1,
    "change_held": 1,
    "cancel": 1,
    "take_or_time_out": 1,
    "try_take": 1,
}
_NAMES = [name for name, weight in _WEIGHTS.items() for _ in range(weight)]
# Three bytes for each operation: its name, a number that selects a call, and units.
OPERATIONS = st.binary(min_size=100, max_size=300)


class Run:
    """Applies operations to a FairSemaphore and to the model."""

    def __init__(self, capacity: int, reserve: Callable[[int], int], max_held: float) -> None:
        self.semaphore = FairSemaphore(capacity, reserve, max_held)
        self.model = Model(capacity, reserve, max_held)
        self.names = count()
        self.served: list[int] = []
        self.tasks: dict[Call, asyncio.Task[None]] = {}
        self.asked_twice: set[Call] = set()
        # What calls took whatever the limits are.
        self.adjusted = 0

    async def apply(self, operation: str, number: int, units: int) -> None:
        """Run one operation, if there is a call for it. `number` selects the call or tenant."""
        model = self.model
        if operation in ("take", "take_or_time_out", "try_take"):
            call = Call(next(self.names), TENANTS[number % len(TENANTS)])
            getattr(self, operation)(call, units)
        elif calls := [call for call in model.calls if self._is_ready(operation, call)]:
            getattr(self, operation)(calls[number % len(calls)], units)
        await run_ready_tasks()
        self.check()

    def _is_ready(self, operation: str, call: Call) -> bool:
        if operation == "cancel":
            return call.waits
        return (
            not call.waits
            and call.held > 0
            and not (
                # So that the units beyond the capacity are bounded.
                operation == "take_as_holder" and call in self.asked_twice
            )
        )

    def take(self, call: Call, units: int) -> None:
        self._start(call, self.semaphore.take(call.tenant, units))
        self.model.take(call, units)

    def take_or_time_out(self, call: Call, units: int) -> None:
        self._start(call, self.semaphore.take(call.tenant, units, max_wait=0))
        self.model.take(call, units)
        if call.waits:
            self.model.cancel(call)

    def try_take(self, call: Call, units: int) -> None:
        taken = self.semaphore.try_take(call.tenant, units)
        assert taken == self.model.may_take(call.tenant)
        if taken:
            self.served.append(call.name)
            self.model.take(call, units)

    def take_as_holder(self, call: Call, units: int) -> None:
        self.asked_twice.add(call)
        self._start(call, self.semaphore.take_as_holder(call.tenant, call.held, units), call.held)
        self.model.take_as_holder(call, units)

    def change_held(self, call: Call, units: int) -> None:
        self.adjusted += units
        self.semaphore.change_held(call.tenant, units)
        self.model.change_held(call, units)

    def release_part(self, call: Call, units: int) -> None:
        self._release(call, min(units, call.held))
        self.model.run_tasks()

    def release(self, call: Call, _: int) -> None:
        self._release(call, call.held)
        self.model.run_tasks()

    def release_and_cancel_woken(self, call: Call, _: int) -> None:
        """Cancel the first call that is woken, before its task runs."""
        self._release(call, call.held)
        if self.model.woken:
            self.model.woken[0].canceled = True
            self.tasks[self.model.woken[0]].cancel()
        self.model.run_tasks()

    def cancel(self, call: Call, _: int) -> None:
        self.tasks[call].cancel()
        self.model.cancel(call)

    def _release(self, call: Call, units: int) -> None:
        self.semaphore.release(call.tenant, units)
        self.model.change_held(call, -units)

    def _start(self, call: Call, taking: Any, returned: int = 0) -> None:
        async def run() -> None:
            await taking
            self.served.append(call.name)
            if returned:
                self.semaphore.release(call.tenant, returned)

        self.tasks[call] = asyncio.create_task(run())

    def check(self) -> None:
        """Compare with the model, and check what must always hold."""
        semaphore, model = self.semaphore, self.model
        assert self.served == model.served
        assert semaphore.held == model.capacity - model.free
        assert {tenant: semaphore.held_by(tenant) for tenant in TENANTS} == {
            tenant: model.held_by(tenant) for tenant in TENANTS
        }
        assert semaphore.waiting == len(model.waiting)
        assert not any(map(model.may_proceed, model.waiting))
        # No deadlock: a call that does not wait holds something that it will release.
        if model.waiting:
            assert any(call.held and not call.waits for call in model.calls)
        assert semaphore.held <= model.capacity + 2 * MAX_UNITS + self.adjusted

    async def end(self) -> None:
        for call in self.model.calls:
            if call.waits:
                self.cancel(call, 0)
        await run_ready_tasks()
        for call in self.model.calls:
            self.release(call, 0)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


@pytest.mark.slow
@examples(100)
@given(rules=RULES, operations=OPERATIONS)
async def test_semaphore_equals_the_model_after_random_operations(
    rules: tuple[int, Callable[[int], int], float], operations: bytes
) -> None:
    run = Run(*rules)
    for name, number, units in zip(*[iter(operations)] * 3, strict=False):
        await run.apply(_NAMES[name % len(_NAMES)], number, 1 + units % MAX_UNITS)

    await run.end()

    run.check()
    semaphore = run.semaphore
    assert semaphore.held == semaphore.waiting == 0
    assert not semaphore._held
    assert not semaphore._held_by_holders
    for queue in (semaphore._new, semaphore._holders):
        assert not queue.waiters
        assert not queue._tenants
