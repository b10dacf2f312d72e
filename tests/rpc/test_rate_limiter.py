"""Pace: a tenant that calls much leaves the event loop to others, if there are any."""

import asyncio

import pytest
from grpc.aio import AioRpcError

from jobs_grpc.rpc.rate_limiter import Rate
from tests.support.database import Database
from tests.support.server import running_server
from tests.support.waiting import wait_until

# Calls of a flood at once. Ten of them wait for nothing.
FLOOD = 18


def delays(rate: Rate, tenant: str, calls: int, now: float) -> list[float | None]:
    """What each of so many calls of the same moment has to wait."""
    return [rate.delay(tenant, now) for _ in range(calls)]


@pytest.fixture
def rate() -> Rate:
    """Eight calls a second; "quiet" has called at 0."""
    rate = Rate(8)
    rate.delay("quiet", 0)
    return rate


def test_a_tenant_alone_does_not_wait() -> None:
    assert delays(Rate(8), "flood", FLOOD, 0) == [0] * FLOOD


def test_what_is_more_than_a_burst_is_spread_while_others_call(rate: Rate) -> None:
    waits = delays(rate, "flood", FLOOD, 0)

    assert waits[:10] == [0] * 10
    assert waits[10:] == [n / 8 for n in range(1, 9)]


def test_who_calls_little_does_not_wait_for_who_calls_much(rate: Rate) -> None:
    delays(rate, "flood", FLOOD, 0)

    assert rate.delay("quiet", 0) == 0


def test_time_without_calls_makes_up_for_a_burst_and_no_more(rate: Rate) -> None:
    delays(rate, "flood", 10, 0)
    rate.delay("quiet", 0.5)

    assert sum(wait == 0 for wait in delays(rate, "flood", FLOOD, 0.5)) == 4
    rate.delay("quiet", 100)
    rate.delay("flood", 100)
    assert sum(wait == 0 for wait in delays(rate, "flood", FLOOD, 100)) == 9


def test_a_second_after_the_others_calls_a_tenant_is_alone_again(rate: Rate) -> None:
    delays(rate, "flood", FLOOD, 0.5)

    assert rate.delay("flood", 1.0)
    assert delays(rate, "flood", FLOOD, 1.1) == [0] * FLOOD


def test_nothing_is_kept_of_tenants_that_do_not_call(rate: Rate) -> None:
    for n in range(100):
        rate.delay(f"tenant-{n}", n)

    assert len(rate) == 2


def test_who_would_wait_too_long_is_refused_and_takes_no_turn(rate: Rate) -> None:
    waits = delays(rate, "flood", 100, 0)

    assert waits[17:] == [1, *[None] * 82]
    rate.delay("quiet", 0.5)
    assert rate.delay("flood", 0.5) == 0.625


def test_a_call_that_is_given_up_gives_its_turn_back(rate: Rate) -> None:
    [*_, last] = delays(rate, "flood", 11, 0)

    rate.give_back("flood")
    assert rate.delay("flood", 0) == last == 0.125


async def test_a_tenant_that_calls_too_often_is_refused_and_another_is_not(
    database: Database, tenant: str
) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_RATE="1") as server:
        quiet, flood = server.operator(tenant), server.operator("flood")

        async def refused() -> bool:
            await quiet.list()
            calls = [flood.list() for _ in range(FLOOD)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            failures = [a for a in answers if isinstance(a, AioRpcError)]
            return any("JOBS_MAX_TENANT_RATE" in (f.details() or "") for f in failures)

        await wait_until(refused)
        await quiet.list()
