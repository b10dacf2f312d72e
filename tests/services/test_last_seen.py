"""Last seen: which calls count, when the times are stored, and what happens if they can't be."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from jobs_grpc.config import Config
from jobs_grpc.db import last_seen
from jobs_grpc.db.database import Database as ServerDatabase
from jobs_grpc.db.last_seen import INSERT_LAST_SEEN, UPDATE_LAST_SEEN, LastSeen
from tests.support.database import Database, request_session, rows_locked
from tests.support.failures import expect_error
from tests.support.metrics import METRICS_ON, scrape
from tests.support.report_streams import message, report, reporting, respond
from tests.support.server import running_server
from tests.support.waiting import read_until, wait_until, wait_until_true
from tests.support.world import World

OFTEN = {"JOBS_LAST_SEEN_INTERVAL": "0.05"}
RARELY = {"JOBS_LAST_SEEN_INTERVAL": "3600"}
OFF = {"JOBS_LAST_SEEN_INTERVAL": "0"}


async def seen(database: Database, tenant: str) -> dict[str, datetime]:
    rows = await database.owner.fetch(
        "SELECT device_id, last_seen_at FROM jobs.devices"
        " WHERE tenant_id = $1 AND last_seen_at IS NOT NULL",
        tenant,
    )
    return {row["device_id"]: row["last_seen_at"] for row in rows}


async def wait_until_seen(database: Database, tenant: str, devices: Iterable[str]) -> None:
    """Return when exactly these devices of a tenant have been seen."""
    expected = set(devices)
    await read_until(lambda: seen(database, tenant), lambda times: set(times) == expected)


async def update(
    connection: asyncpg.Connection, tenant: str, ages: dict[str, float], min_change: float = 0.0
) -> None:
    """Store the ages of devices in a session of the request role."""
    devices = sorted(ages)
    values = tenant, devices, [ages[device] for device in devices]
    if await connection.fetchval(UPDATE_LAST_SEEN, *values, min_change):
        await connection.execute(INSERT_LAST_SEEN, *values)


async def test_devices_that_call_report_or_watch_are_seen(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, ["poller", "starter", "watcher", "b1", "b2", "absent"])
    await database.add_labels(tenant, {"poller": {"model": "x200"}})
    before = datetime.now(UTC) - timedelta(seconds=1)

    async with running_server(database.request_dsn, **OFTEN) as server:
        await server.device(tenant, "poller").pending()
        await expect_error("INVALID_FIELD", server.device(tenant, "starter").start(""))
        async with reporting(server, tenant) as bridge:
            reports = (report(device, "SUCCEEDED") for device in ("b1", "b2", "unknown"))
            await respond(bridge, message(*reports))
        await server.device(tenant, "unknown too").pending()
        watch = server.device(tenant, "watcher").watch()
        await anext(watch)

        await wait_until_seen(database, tenant, ["poller", "starter", "watcher", "b1", "b2"])
        [device] = (await server.fleet(tenant).list(device_id_prefix="poller")).devices
        await watch.aclose()

    times = (await seen(database, tenant)).values()
    assert before < min(times)
    assert max(times) < datetime.now(UTC) + timedelta(seconds=1)
    assert device.last_seen_at.ToDatetime(UTC) in times
    assert dict(device.labels) == {"model": "x200"}


async def test_last_seen_follows_an_open_watch(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_seen, "_WATCH_SECONDS", 0.0)
    await database.add_devices(tenant, ["d1"])
    times: set[datetime] = set()

    async def has_changed() -> bool:
        times.update((await seen(database, tenant)).values())
        return len(times) > 1

    async with running_server(database.request_dsn, **OFTEN) as server:
        watch = server.device(tenant, "d1").watch()
        await anext(watch)
        await wait_until(has_changed)
        await watch.aclose()


async def test_nothing_is_marked_or_stored_if_the_interval_is_zero(world: World) -> None:
    await world.add_devices(["d1"])

    async with running_server(world.database.request_dsn, **OFF, **METRICS_ON) as server:
        await server.device(world.tenant, "d1").pending()
        assert (await scrape(server.app.metrics_address)).value("jobs_last_seen_queued") == 0
    assert await seen(world.database, world.tenant) == {}


@pytest.mark.slow
async def test_last_seen_survives_an_outage_and_is_logged_once(
    database: Database, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    await database.add_devices(tenant, ["d1", "d2"])

    async with running_server(database.request_dsn, **OFTEN) as server:
        await server.device(tenant, "d1").pending()
        await wait_until_seen(database, tenant, ["d1"])

        caplog.set_level(logging.WARNING)
        await database.owner.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT 0')
        try:
            await database.owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await expect_error("DATABASE_UNAVAILABLE", server.device(tenant, "d2").pending())
            await wait_until_true(lambda: "unavailable" in caplog.text)
            assert set(await seen(database, tenant)) == {"d1"}
        finally:
            await database.owner.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT -1')
        await wait_until_seen(database, tenant, ["d1", "d2"])

    lines = [r.message for r in caplog.records if r.name == last_seen.logger.name]
    assert len(lines) <= 1, lines


async def test_marks_are_stored_at_the_shutdown_and_metrics_count_them_and_those_dropped(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_seen, "MAX_QUEUED", 4)
    await database.add_devices(tenant, 3)
    async with running_server(database.request_dsn, **RARELY, **METRICS_ON) as server:
        for device in ("d00001", "d00002", "d00003", "d00001"):
            await server.device(tenant, device).pending()
        metrics = await scrape(server.app.metrics_address)

        assert await seen(database, tenant) == {}

    assert metrics.value("jobs_last_seen_queued") == 2
    assert metrics.value("jobs_last_seen_dropped_total") == 1
    assert set(await seen(database, tenant)) == {"d00001", "d00002"}  # at the shutdown


async def test_marks_are_limited_and_a_tenant_with_many_leaves_room_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(last_seen, "MAX_QUEUED", 200)
    config = Config.from_env({"JOBS_DATABASE_URL": "postgresql://unused"})
    marks = LastSeen(config, ServerDatabase(config))

    for tenant, count, total in (("large", 110, (100, 10)), ("other", 60, (150, 20))):
        for number in range(count):
            marks.mark(tenant, f"device-{number}")
        assert (marks.queued, marks.dropped) == total
    for number in range(60):
        marks.mark(f"tenant-{number}", "device")
    assert (marks.queued, marks.dropped) == (200, 30)


async def test_last_seen_never_moves_back(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, ["d1"])
    async with request_session(database) as (connection, _):
        await update(connection, tenant, {"d1": 10.0})
        first = await seen(database, tenant)
        await update(connection, tenant, {"d1": 3600.0})
        assert await seen(database, tenant) == first

        await update(connection, tenant, {"d1": 0.0}, min_change=60.0)
        assert await seen(database, tenant) == first
        await update(connection, tenant, {"d1": 0.0}, min_change=5.0)
        assert (await seen(database, tenant))["d1"] > first["d1"]


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_last_seen_keeps_the_later_time_when_two_servers_insert_the_row(world: World) -> None:
    await world.add_devices(["d1"])
    async with (
        request_session(world.database) as (one, _),
        request_session(world.database) as (other, _),
    ):
        async with one.transaction():
            await update(one, world.tenant, {"d1": 0.0})
            second = await world.blocked(update(other, world.tenant, {"d1": 3600.0}))
        await second

    assert (await seen(world.database, world.tenant))["d1"] > datetime.now(UTC) - timedelta(
        minutes=30
    )


async def test_last_seen_skips_rows_that_are_locked(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, ["d1", "d2", "d3"])
    await database.add_labels(tenant, {"d1": {}, "d2": {}})
    locked = rows_locked(database, "jobs.devices", tenant_id=tenant, device_id="d1")
    async with request_session(database) as (connection, _), locked:
        # It would fail if it waited for the row to the end.
        await update(connection, tenant, {"d1": 0.0, "d2": 0.0, "d3": 0.0})

    assert set(await seen(database, tenant)) == {"d2", "d3"}


async def test_last_seen_holds_no_locks_while_it_waits_for_the_insert_of_a_row(
    database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["d1", "d2"])
    await database.add_labels(tenant, {"d1": {}})
    async with request_session(database) as (connection, _):
        async with database.owner.transaction():
            await database.add_labels(tenant, {"d2": {}})
            storing = await database.blocked(update(connection, tenant, {"d1": 0.0, "d2": 0.0}))
            await database.owner.execute(
                "SELECT FROM jobs.devices WHERE tenant_id = $1 AND device_id = 'd1'"
                " FOR UPDATE NOWAIT",
                tenant,
            )
        await storing

    assert set(await seen(database, tenant)) == {"d1", "d2"}


async def test_last_seen_of_another_tenant_is_not_changed(database: Database, tenant: str) -> None:
    await database.add_devices(f"{tenant}-other", ["d1"])
    async with request_session(database) as (connection, _):
        await update(connection, tenant, {"d1": 0.0})

    assert await seen(database, tenant) == await seen(database, f"{tenant}-other") == {}
