"""TenantCache: what it keeps, and which calls wait for a computation."""

import asyncio
from collections.abc import Awaitable

import pytest
from fleet.jobs.v1.fleet_pb2 import Group

from jobs_grpc.services.tenant_cache import TenantCache


class Computations:
    """Computations that a test ends one by one. Response n is the n-th one that began."""

    def __init__(self, **options: float) -> None:
        self.now = 0.0
        options = {"max_bytes": 10_000} | options
        self.cache = TenantCache(Group, clock=lambda: self.now, **options)  # type: ignore[arg-type]
        self.begun: list[asyncio.Future[None]] = []

    async def _compute(self) -> Group:
        self.begun.append(asyncio.get_running_loop().create_future())
        number = len(self.begun)
        await self.begun[-1]
        return Group(device_count=number)

    def get(self, tenant: str = "t", *, keep: bool = True) -> Awaitable[Group]:
        return self.cache.get(tenant, self._compute, keep=lambda _: keep)

    async def call(self, tenant: str = "t", *, keep: bool = True) -> asyncio.Task[Group]:
        task = asyncio.ensure_future(self.get(tenant, keep=keep))
        await _settle()
        return task

    async def end(self) -> None:
        """Let the last computation succeed."""
        self.begun[-1].set_result(None)
        await _settle()


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_calls_share_one_computation_of_their_tenant() -> None:
    c = Computations()
    calls = [await c.call() for _ in range(3)]
    other = await c.call("other")
    assert len(c.begun) == 2

    await c.end()
    assert (await other).device_count == 2
    assert not any(call.done() for call in calls)

    c.begun[0].set_result(None)
    assert [(await call).device_count for call in calls] == [1, 1, 1]


async def test_error_is_that_of_all_calls_that_wait() -> None:
    c = Computations()
    calls = [await c.call() for _ in range(3)]

    c.begun[0].set_exception(ValueError("no"))
    for call in calls:
        with pytest.raises(ValueError, match="no"):
            await call
    next_call = await c.call()
    await c.end()

    assert (await next_call).device_count == 2


async def test_computation_is_canceled_with_its_last_call() -> None:
    c = Computations()
    calls = [await c.call() for _ in range(2)]

    calls[0].cancel()
    await _settle()
    assert calls[0].cancelled()
    assert not c.begun[0].cancelled()
    calls[1].cancel()
    later = await c.call()
    assert c.begun[0].cancelled()
    await c.end()

    assert (await later).device_count == 2


async def test_response_that_a_change_made_old_is_neither_kept_nor_shared() -> None:
    c = Computations()
    before = await c.call()
    c.cache.invalidate("t")
    after = await c.call()
    assert len(c.begun) == 1  # One computation runs at a time.

    await c.end()
    assert (await before).device_count == 1
    await c.end()
    assert (await after).device_count == 2
    assert (await c.get()).device_count == 2
    c.cache.invalidate("t")
    last = await c.call()
    await c.end()
    assert (await last).device_count == 3


async def test_response_is_computed_again_after_its_age_since_the_begin() -> None:
    c = Computations()
    first = await c.call()
    c.now = 10
    await c.end()
    assert (await first).device_count == 1

    c.now = 59.9
    assert (await c.get()).device_count == 1
    c.now = 60
    again = await c.call()
    await c.end()
    assert (await again).device_count == 2


async def test_response_that_is_not_kept_is_computed_again() -> None:
    c = Computations()
    for number in (1, 2):
        calls = [await c.call(keep=False) for _ in range(2)]
        await c.end()
        assert [(await call).device_count for call in calls] == [number, number]


async def test_oldest_responses_are_dropped_beyond_the_limit() -> None:
    c = Computations(max_bytes=1500)  # two entries of about 500 bytes
    for tenant in ("a", "b", "a", "c"):
        c.now += 60 * (tenant == "a" and len(c.begun) > 0)
        call = await c.call(tenant)
        await c.end()
        await call
    c.now += 1

    kept = [(await c.get(tenant)).device_count for tenant in ("a", "c")]
    dropped = await c.call("b")

    assert kept == [3, 4]
    assert not dropped.done()
    await c.end()
    assert (await dropped).device_count == 5
