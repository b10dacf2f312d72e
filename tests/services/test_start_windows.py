"""Start windows: what a device sees, starts and reports while they are closed and open."""

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, all_pending
from tests.support.database import Database, replaced_function
from tests.support.failures import expect_error
from tests.support.windows import set_time, set_windows
from tests.support.world import World

# A Monday in summer time. In Berlin, it is 00:00.
MIDNIGHT = datetime(2027, 6, 6, 22, tzinfo=UTC)
# Monday and Tuesday from 02:00 to 04:00.
WINDOWS = [3, 120, 120]
OPENING = MIDNIGHT + timedelta(hours=2)
CLOSING = MIDNIGHT + timedelta(hours=4)


@pytest.fixture(autouse=True)
async def device(world: World) -> Device:
    """The device of a job "j" with the windows in Berlin, an hour before they open."""
    await set_time(world.database, OPENING - timedelta(hours=1))
    await world.add_devices(["pump"])
    await world.create(never_expires=True)
    await set_windows(world.database, world.tenant, "j", WINDOWS, "Europe/Berlin")
    return world.device("pump")


async def starts(device: Device) -> bool:
    return await device.start_next() is not None


async def earliest_start(start: Awaitable[Any]) -> str:
    """The time in the error of a start that is not due."""
    failure = await expect_error("EXECUTION_NOT_DUE", start)
    return failure.metadata["earliestStartAt"]


async def test_execution_starts_while_a_window_is_open(database: Database, device: Device) -> None:
    for at, is_open in [
        (OPENING - timedelta(seconds=10), False),
        (CLOSING, False),
        (OPENING + timedelta(days=6), False),
        (OPENING + timedelta(days=1), True),
        (OPENING, True),
    ]:
        await set_time(database, at)
        assert await all_pending(device) == ["j"] * is_open, at
    await set_time(database, CLOSING + timedelta(seconds=10))
    assert not await starts(device)
    await set_time(database, CLOSING - timedelta(seconds=30))
    assert await starts(device)


async def test_started_execution_outlives_its_window(database: Database, device: Device) -> None:
    await set_time(database, OPENING)
    await device.start("j")
    await set_time(database, CLOSING)

    assert await all_pending(device) == ["j"]
    assert (await device.start("j")).status == pb.JobExecution.IN_PROGRESS
    assert await starts(device)
    await device.update("j", "IN_PROGRESS", status_details={"percent": 50})


async def test_start_fails_with_the_next_opening(database: Database, device: Device) -> None:
    for at, opening in (
        (OPENING - timedelta(hours=1), "2027-06-07T00:00:00Z"),
        (CLOSING + timedelta(days=1), "2027-06-14T00:00:00Z"),
    ):
        await set_time(database, at)
        assert await earliest_start(device.start("j")) == opening
        assert await earliest_start(device.update("j", "IN_PROGRESS")) == opening


async def test_start_fails_with_the_opening_after_backoff(world: World, device: Device) -> None:
    await set_time(world.database, OPENING)
    for not_before, earliest in [
        (OPENING + timedelta(hours=1), OPENING + timedelta(hours=1)),
        (CLOSING, OPENING + timedelta(days=1)),
    ]:
        await world.owner_value(
            "UPDATE jobs.job_executions SET not_before = $2 WHERE tenant_id = $1", not_before
        )
        assert await earliest_start(device.start("j")) == f"{earliest:%Y-%m-%dT%H:%M:%SZ}"
        assert await all_pending(device) == []
        assert not await starts(device)


async def test_start_fails_when_the_job_starts_during_it(world: World, device: Device) -> None:
    start_at = OPENING - timedelta(minutes=30)
    await world.create("later", start_at=start_at, never_expires=True)
    await set_windows(world.database, world.tenant, "later", WINDOWS, "Europe/Berlin")
    offset = await world.database.owner.fetchval("SELECT jobs.clock_time() - clock_timestamp()")
    # As after a long wait for the job lock: jobs.now() is the start of the transaction.
    clock_time = (
        "CREATE OR REPLACE FUNCTION jobs.clock_time() RETURNS timestamptz LANGUAGE sql VOLATILE"
        " PARALLEL SAFE RETURN clock_timestamp()"
        f" + interval '{offset.total_seconds() + 45 * 60} seconds'"
    )

    async with replaced_function(world.database, "jobs.clock_time", clock_time):
        assert await earliest_start(device.start("later")) == "2027-06-07T00:00:00Z"


async def test_end_is_accepted_while_windows_are_closed(world: World, device: Device) -> None:
    await device.update("j", "FAILED")

    assert await world.operator.status() == "COMPLETED"


@pytest.mark.parametrize(
    ("zone", "opening"),
    [
        ("Asia/Tokyo", datetime(2027, 6, 7, 17, tzinfo=UTC)),
        ("UTC", datetime(2027, 6, 7, 2, tzinfo=UTC)),
        # PostgreSQL does not know it.
        ("Europe/Atlantis", datetime(2027, 6, 7, 2, tzinfo=UTC)),
    ],
)
async def test_windows_open_in_the_zone_of_each_execution(
    world: World, device: Device, zone: str, opening: datetime
) -> None:
    await set_windows(world.database, world.tenant, "j", WINDOWS, None)
    await world.owner_value(
        "UPDATE jobs.job_executions SET time_zone = $2 WHERE tenant_id = $1", zone
    )

    assert await earliest_start(device.start("j")) == f"{opening:%Y-%m-%dT%H:%M:%SZ}"
    await set_time(world.database, opening)
    assert await starts(device)
