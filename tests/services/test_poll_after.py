"""The time after which the server asks polling devices to poll again."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.callers import Device
from tests.support.server import DEFAULT_OPTIONS, running_server
from tests.support.waiting import wait_until_equal
from tests.support.windows import set_time, set_windows
from tests.support.world import World

MIDDLE = replace(DEFAULT_OPTIONS, random=lambda: 0.5)


@pytest.fixture(autouse=True)
async def fan(world: World) -> Device:
    await world.add_devices(["fan"])
    return world.device("fan")


def seconds(response: Any) -> float:
    delay: float = response.poll_after.ToTimedelta().total_seconds()
    return delay


async def seconds_until_next_poll(device: Device) -> float:
    """What an empty list of pending executions asks for."""
    return seconds(await device.pending())


async def test_empty_start_and_last_page_have_poll_after(world: World, fan: Device) -> None:
    for job_id in ("first", "second"):
        await world.create(job_id)

    first_page = await fan.pending(limit=1)
    last_page = await fan.pending(limit=1, page_token=first_page.next_page_token)
    assert not first_page.HasField("poll_after")
    assert last_page.executions
    assert 30 <= seconds(last_page) < 90

    started = await fan.start_next_response()
    assert started.HasField("execution")
    assert not started.HasField("poll_after")
    for job_id in ("first", "second"):
        await world.operator.cancel(job_id, force=True)
    nothing = await fan.start_next_response()
    assert not nothing.HasField("execution")
    assert 30 <= seconds(nothing) < 90


async def test_poll_after_is_between_half_and_one_and_a_half_of_the_setting(world: World) -> None:
    draws = [0.999, 0.5, 0.0]
    options = replace(DEFAULT_OPTIONS, random=draws.pop)
    async with running_server(world.database.request_dsn, options, JOBS_POLL_AFTER="10") as server:
        device = server.device(world.tenant, "fan")
        intervals = [await seconds_until_next_poll(device) for _ in range(3)]

    assert intervals == [5, 10, 14.99]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        # The call itself is in flight as well.
        ({"JOBS_MAX_TENANT_CALLS": "4"}, [10, 25, 40]),
        ({"JOBS_MAX_CALLS": "4"}, [10, 25, 40]),
    ],
    ids=["of a tenant", "of all tenants"],
)
async def test_poll_after_is_longer_from_half_of_the_maximum_of_calls_on(
    world: World, limits: dict[str, str], expected: list[float]
) -> None:
    valves = [f"valve-{number}" for number in range(3)]
    await world.add_devices(valves)
    await world.create()
    async with running_server(
        world.database.request_dsn, MIDDLE, JOBS_POLL_AFTER="10", **limits
    ) as server:
        fan = server.device(world.tenant, "fan")

        async def wait_for(delay: float) -> None:
            await wait_until_equal(lambda: seconds_until_next_poll(fan), delay)

        await wait_for(10)
        async with world.lock_held():
            starts = []
            for name, delay in zip(valves, expected, strict=True):
                device = server.device(world.tenant, name)
                starts.append(asyncio.ensure_future(device.start("j")))
                await wait_for(delay)
        await asyncio.gather(*starts)

        await wait_for(10)


@pytest.mark.parametrize("call", ["list", "start"])
async def test_poll_after_ends_when_a_window_opens(world: World, fan: Device, call: str) -> None:
    opening = datetime(2027, 6, 7, 2, tzinfo=UTC)
    await create_with_window(world, opening)
    delay = await world.database.owner.fetchval("SELECT jobs.opening_delay('fan')")
    assert 5 < delay < 20
    try:
        await set_time(world.database, opening - timedelta(seconds=10))
        response = await (fan.pending() if call == "list" else fan.start_next_response())
    finally:
        await world.database.set_time_offset(0)

    assert delay < seconds(response) <= delay + 10


async def test_poll_after_is_random_if_the_next_opening_is_far(world: World, fan: Device) -> None:
    await create_with_window(world, datetime.now(UTC) + timedelta(hours=12))

    assert 30 <= await seconds_until_next_poll(fan) < 90


async def test_poll_after_ends_with_a_backoff(world: World, fan: Device) -> None:
    await world.create()
    await world.owner_value(
        "UPDATE jobs.job_executions SET not_before = jobs.clock_time() + interval '20 seconds'"
        " WHERE tenant_id = $1"
    )

    assert 0 < await seconds_until_next_poll(fan) <= 20


async def create_with_window(world: World, opening: datetime) -> None:
    """Create a job that has a window of 15 minutes a day."""
    await world.create(never_expires=True)
    minute = 60 * opening.hour + opening.minute
    await set_windows(world.database, world.tenant, "j", [127, minute, 15])
