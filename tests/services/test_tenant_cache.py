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
        """Start a call, and return when it waits."""
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


@pytest.mark.parametrize("is_canceled", [False, True])
async def test_next_call_computes_when_a_computation_fails(is_canceled: bool) -> None:
    c = Computations()
    first, second, third = [await c.call() for _ in range(3)]

    if is_canceled:
        first.cancel()
    else:
        c.begun[0].set_exception(ValueError("no"))
    await _settle()

    assert len(c.begun) == 2
    with pytest.raises((ValueError, asyncio.CancelledError)):
        await first
    await c.end()
    assert [(await second).device_count, (await third).device_count] == [2, 2]


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


async def test_response_that_is_not_kept_is_computed_by_each_call() -> None:
    c = Computations()
    calls = [await c.call(keep=False) for _ in range(2)]
    for _ in calls:
        await c.end()

    assert [(await call).device_count for call in calls] == [1, 2]


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
