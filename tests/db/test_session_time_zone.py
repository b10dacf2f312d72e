"""Results do not depend on the time zone and the date style of the session.

initdb takes the time zone of the host, which can have daylight saving time. When its clocks change,
a day of an interval has 23 or 25 hours. The difference of two times has days as well.
"""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from jobs_grpc.db.store import Store
from tests.support.callers import Operator
from tests.support.database import Database, request_session
from tests.support.postgres import connected
from tests.support.world import World

# A day before the clocks of Berlin change, at 1:00 UTC.
BEFORE_CHANGES = [datetime(2037, 3, 28, tzinfo=UTC), datetime(2037, 10, 24, tzinfo=UTC)]


@pytest.fixture(params=BEFORE_CHANGES, ids=["spring", "autumn"])
async def now(request: pytest.FixtureRequest, database: Database) -> datetime:
    """The time of the database: a day before the clocks change."""
    time: datetime = request.param
    await database.set_time_offset((time - datetime.now(UTC)).total_seconds())
    return time


@pytest.fixture
async def berlin(database: Database) -> AsyncIterator[Store]:
    async with request_session(database) as (session, store):
        await session.execute("SET TimeZone = 'Europe/Berlin'")
        yield store


async def test_pause_stops_the_release_and_the_gate_when_the_clocks_change(
    world: World, now: datetime, berlin: Store
) -> None:
    await world.add_devices(100)
    first = {"device_count": 90, "releases_per_minute": 1}
    job = await world.create_staged(first, {"remainder": True}, expires_in_hours=100)
    active_since = (await job.stage_row(0))["active_since"]
    await world.pass_time(150)
    paused_at = (await world.operator.pause("j")).pause.paused_at.ToDatetime(UTC)
    await world.pass_time(60 * 3600)

    await berlin.resume_job(world.tenant, job_id="j", etag="")

    assert (await job.get()).stages[0].released_count == 2
    resumed_at = (await job.row())["updated_at"]
    moved = (await job.stage_row(0))["active_since"] - active_since
    assert moved == resumed_at - paused_at


async def test_expiry_keeps_its_distance_to_the_start_when_the_clocks_change(
    database: Database, operator: Operator, now: datetime, berlin: Store
) -> None:
    await database.add_devices(operator.tenant, 1)
    await _create(berlin, operator, now + timedelta(minutes=30))

    row, _ = await berlin.update_job(
        operator.tenant,
        job_id="j",
        etag="",
        fields=["start_at"],
        in_progress_timeout_minutes=None,
        rollout="{}",
        failure_criteria="[]",
        start_at=now + timedelta(days=8),  # without the codec of the pool
    )

    assert row["expires_at"] - row["start_at"] == timedelta(hours=24)


async def test_start_can_be_90_days_ahead_when_the_clocks_change(
    database: Database, operator: Operator, now: datetime, berlin: Store
) -> None:
    await database.add_devices(operator.tenant, 1)

    with pytest.raises(Exception, match="at most 90 days"):
        await _create(berlin, operator, now + timedelta(days=90, minutes=5))
    await _create(berlin, operator, now + timedelta(days=90, minutes=-5))


@pytest.mark.parametrize("date_style", ["ISO", "SQL, DMY", "Postgres, MDY", "German"])
async def test_read_time_does_not_depend_on_the_date_style(
    database: Database, date_style: str
) -> None:
    """Up to PostgreSQL 17, CST is a time zone of America, whatever the session has."""
    time = datetime(2037, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
    settings = {"DateStyle": date_style, "TimeZone": "Asia/Shanghai"}
    async with (
        connected(database.request_dsn, server_settings=settings) as session,
        session.transaction(),
    ):
        await session.execute("SELECT jobs.set_read_time($1)", time)

        assert await session.fetchval("SELECT jobs.read_time()") == time


async def _create(store: Store, operator: Operator, start_at: datetime) -> None:
    """Create the job "j" for all devices of the tenant."""
    request = {"document_type": "reboot", "target_all": True, "start_at": start_at.isoformat()}
    await store.create_job(
        operator.tenant,
        job_id="j",
        request=json.dumps(request),
        document_params="{}",
        created_by=None,
        max_targets=10,
        max_active_jobs=None,
        default_expires_in_hours=24,
    )
