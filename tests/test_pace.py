"""Pace: a tenant that calls much leaves the event loop to others, if there are any."""

import asyncio

import pytest

from jobs_grpc.interceptors.pace import Rate
from tests.support import Database, serving, until

# Calls of a flood at once. Ten of them wait for nothing.
FLOOD = 20


def delays(rate: Rate, tenant: str, calls: int, now: float) -> list[float]:
    """What each of so many calls of the same moment has to wait."""
    return [rate.delay(tenant, now) for _ in range(calls)]


@pytest.fixture
def rate() -> Rate:
    """Ten calls a second; "quiet" has called at 0."""
    rate = Rate(10)
    rate.delay("quiet", 0)
    return rate


def test_a_tenant_alone_does_not_wait() -> None:
    assert delays(Rate(10), "flood", FLOOD, 0) == [0] * FLOOD


def test_what_is_more_than_a_burst_is_spread_while_others_call(rate: Rate) -> None:
    waits = delays(rate, "flood", FLOOD, 0)

    assert waits[:10] == [0] * 10
    assert waits[10:] == pytest.approx([n / 10 for n in range(1, 11)])


def test_who_calls_little_does_not_wait_for_who_calls_much(rate: Rate) -> None:
    delays(rate, "flood", FLOOD, 0)

    assert rate.delay("quiet", 0) == 0


def test_time_without_calls_makes_up_for_a_burst_and_no_more(rate: Rate) -> None:
    delays(rate, "flood", 10, 0)
    rate.delay("quiet", 0.5)

    assert sum(wait == 0 for wait in delays(rate, "flood", FLOOD, 0.5)) == 5
    rate.delay("quiet", 100)
    rate.delay("flood", 100)
    assert sum(wait == 0 for wait in delays(rate, "flood", FLOOD, 100)) == 9


def test_a_second_after_the_others_calls_a_tenant_is_alone_again(rate: Rate) -> None:
    delays(rate, "flood", FLOOD, 0.5)

    assert rate.delay("flood", 1.0) > 0
    assert delays(rate, "flood", FLOOD, 1.1) == [0] * FLOOD


def test_nothing_is_kept_of_tenants_that_do_not_call(rate: Rate) -> None:
    for n in range(100):
        rate.delay(f"tenant-{n}", n)

    assert len(rate) == 2


async def test_a_flood_waits_and_another_tenant_does_not(database: Database, tenant: str) -> None:
    async with serving(database.request_dsn, JOBS_MAX_TENANT_RATE="1") as server:
        quiet, flood = server.operator(tenant), server.operator("flood")
        await quiet.list()
        calls = [asyncio.create_task(flood.list()) for _ in range(FLOOD)]

        async def burst_is_over() -> bool:
            return sum(call.done() for call in calls) >= 10

        await until(burst_is_over)
        await quiet.list()
        assert not all(call.done() for call in calls)
        for call in calls:
            call.cancel()
