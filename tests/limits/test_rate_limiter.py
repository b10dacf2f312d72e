"""The rate limit of a tenant, which is off by default."""

import asyncio

import pytest
from grpc.aio import AioRpcError

from jobs_grpc.limits.rate_limiter import TokenBuckets
from tests.support.database import Database
from tests.support.server import running_server
from tests.support.waiting import wait_until

# Calls of the tenant "flood" at the same time. The first ten do not wait.
FLOOD = 18


def reserve(buckets: TokenBuckets, tenant: str, calls: int, now: float) -> list[float | None]:
    """The delays of several calls of a tenant at the same time."""
    return [buckets.reserve(tenant, now) for _ in range(calls)]


@pytest.fixture
def buckets() -> TokenBuckets:
    """Eight calls per second."""
    return TokenBuckets(8)


def test_calls_after_a_burst_are_spaced(buckets: TokenBuckets) -> None:
    delays = reserve(buckets, "flood", FLOOD, 0)

    assert delays[:10] == [0] * 10
    assert delays[10:] == [n / 8 for n in range(1, 9)]


def test_tenant_does_not_wait_when_another_tenant_floods(buckets: TokenBuckets) -> None:
    reserve(buckets, "flood", FLOOD, 0)

    assert buckets.reserve("quiet", 0) == 0


def test_bucket_refills_up_to_one_burst_when_a_tenant_pauses(buckets: TokenBuckets) -> None:
    reserve(buckets, "flood", 10, 0)

    assert reserve(buckets, "flood", FLOOD, 0.5).count(0) == 4
    assert reserve(buckets, "flood", FLOOD, 100).count(0) == 10


def test_tenants_with_a_full_bucket_are_forgotten(buckets: TokenBuckets) -> None:
    for n in range(100):
        buckets.reserve(f"tenant-{n}", n)

    assert len(buckets) == 1


def test_call_is_rejected_and_takes_no_token_when_it_would_wait_too_long(
    buckets: TokenBuckets,
) -> None:
    delays = reserve(buckets, "flood", 100, 0)

    assert delays[17:] == [1, *[None] * 82]
    assert buckets.reserve("flood", 0.5) == 0.625


def test_token_is_returned_when_a_waiting_call_is_canceled(buckets: TokenBuckets) -> None:
    [*_, last] = reserve(buckets, "flood", 11, 0)

    buckets.cancel("flood")
    assert buckets.reserve("flood", 0) == last == 0.125


@pytest.mark.slow
async def test_flooding_tenant_is_rejected_and_another_is_served(
    database: Database, tenant: str
) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_RATE="1") as server:
        quiet, flood = server.operator(tenant), server.operator("flood")

        async def flood_is_rejected() -> bool:
            calls = [flood.list() for _ in range(FLOOD)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            errors = [result for result in results if isinstance(result, AioRpcError)]
            return any("JOBS_MAX_TENANT_RATE" in (error.details() or "") for error in errors)

        await wait_until(flood_is_rejected)
        await quiet.list()
