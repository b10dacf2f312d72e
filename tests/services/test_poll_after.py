"""The time after which the server asks polling devices to poll again."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held
from tests.support.server import DEFAULT_OPTIONS, Server, running_server
from tests.support.waiting import wait_until
from tests.support.windows import set_time, set_windows

MIDDLE = replace(DEFAULT_OPTIONS, random=lambda: 0.5)


async def seconds_until_next_poll(device: Device) -> float:
    """What an empty list of pending executions asks for."""
    return (await device.pending()).poll_after.ToTimedelta().total_seconds()


async def test_empty_start_and_last_page_have_poll_after(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["fan"])
    device = server.device(operator.tenant, "fan")
    for job_id in ("first", "second"):
        await operator.create(job_id=job_id, target_all=True)

    first_page = await device.pending(limit=1)
    last_page = await device.pending(limit=1, page_token=first_page.next_page_token)
    assert not first_page.HasField("poll_after")
    assert last_page.executions
    assert 30 <= last_page.poll_after.ToTimedelta().total_seconds() < 90

    started = await device.start_next_response()
    assert started.HasField("execution")
    assert not started.HasField("poll_after")
    await operator.cancel("first", force=True)
    await operator.cancel("second", force=True)
    nothing = await device.start_next_response()
    assert not nothing.HasField("execution")
    assert 30 <= nothing.poll_after.ToTimedelta().total_seconds() < 90


async def test_poll_after_is_between_half_and_one_and_a_half_of_the_setting(
    database: Database, tenant: str
) -> None:
    draws = [0.999, 0.5, 0.0]
    options = replace(DEFAULT_OPTIONS, random=draws.pop)
    async with running_server(database.request_dsn, options, JOBS_POLL_AFTER="10") as server:
        device = server.device(tenant, "fan")
        intervals = [await seconds_until_next_poll(device) for _ in range(3)]

    assert intervals == [5, 10, 14.99]


@pytest.mark.parametrize(
    ("limits", "blocked", "expected"),
    [
        # The call itself is in flight as well.
        ({"JOBS_MAX_TENANT_CALLS": "4"}, 1, 10),
        ({"JOBS_MAX_TENANT_CALLS": "4"}, 2, 25),
        ({"JOBS_MAX_TENANT_CALLS": "4"}, 3, 40),
        ({"JOBS_MAX_CALLS": "4"}, 3, 40),
    ],
    ids=["half of the tenant's limit", "three quarters", "all", "all of the server's limit"],
)
async def test_poll_after_is_longer_while_many_calls_are_in_flight(
    database: Database, tenant: str, limits: dict[str, str], blocked: int, expected: float
) -> None:
    names = [f"valve-{number}" for number in range(blocked)]
    await database.add_devices(tenant, [*names, "fan"])
    async with running_server(
        database.request_dsn, MIDDLE, JOBS_POLL_AFTER="10", **limits
    ) as server:
        await server.operator(tenant).create(job_id="j", target_all=True)
        device = server.device(tenant, "fan")
        assert await seconds_until_next_poll(device) == 10

        async with job_lock_held(database, tenant, "j"):
            starts = [
                asyncio.ensure_future(server.device(tenant, name).start("j")) for name in names
            ]

            async def asks_for_the_expected_time() -> bool:
                return await seconds_until_next_poll(device) == expected

            await database.wait_for_blocked_sessions(1)
            await wait_until(asks_for_the_expected_time)
        await asyncio.gather(*starts)

        async def asks_for_the_normal_time() -> bool:
            return await seconds_until_next_poll(device) == 10

        await wait_until(asks_for_the_normal_time)


@pytest.mark.parametrize("call", ["list", "start"])
async def test_poll_after_ends_when_a_window_opens_with_the_delay_of_the_device(
    database: Database, server: Server, operator: Operator, call: str
) -> None:
    opening = datetime(2027, 6, 7, 2, tzinfo=UTC)
    device = await device_with_window(database, server, operator, opening)
    delay = await database.owner.fetchval("SELECT jobs.opening_delay($1)", device.name)
    assert 5 < delay < 20
    try:
        await set_time(database, opening - timedelta(seconds=10))
        response = await (device.pending() if call == "list" else device.start_next_response())
    finally:
        await database.set_time_offset(0)

    assert delay < response.poll_after.ToTimedelta().total_seconds() <= delay + 10


async def test_poll_after_is_random_while_the_next_opening_is_far(
    database: Database, server: Server, operator: Operator
) -> None:
    opening = datetime.now(UTC) + timedelta(hours=12)
    device = await device_with_window(database, server, operator, opening)

    assert 30 <= await seconds_until_next_poll(device) < 90


async def test_poll_after_ends_with_a_backoff(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["fan"])
    await operator.create(job_id="j", target_all=True)
    now: datetime = await database.owner.fetchval("SELECT jobs.clock_time()")
    await database.owner.execute(
        "UPDATE jobs.job_executions SET not_before = $2 WHERE tenant_id = $1",
        operator.tenant,
        now + timedelta(seconds=20),
    )

    device = server.device(operator.tenant, "fan")
    assert 0 < await seconds_until_next_poll(device) <= 20


async def device_with_window(
    database: Database, server: Server, operator: Operator, opening: datetime
) -> Device:
    """A device with a job that has a window of 15 minutes a day."""
    await database.add_devices(operator.tenant, ["fan"])
    await operator.create(job_id="j", target_all=True, never_expires=True)
    minute = 60 * opening.hour + opening.minute
    await set_windows(database, operator.tenant, "j", [127, minute, 15])
    return server.device(operator.tenant, "fan")
