"""The sweeper sequences queued events, and purges old ones."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs_grpc.maintenance.event_tasks import PurgeEvents
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.database import Database, replaced_function, rows_locked
from tests.support.event_rows import queue_event, queue_events, store_events
from tests.support.failures import expect_error
from tests.support.postgres import connected
from tests.support.world import World

ROOT = Path(__file__).parents[2]


async def rows_of(world: World, tenant: str = "", table: str = "events") -> int:
    sql = f"SELECT count(*) FROM jobs.{table} WHERE tenant_id = $1"
    count: int = await world.database.owner.fetchval(sql, tenant or world.tenant)
    return count


async def event_count(world: World) -> int:
    sql = "SELECT event_count FROM jobs.event_heads WHERE tenant_id = $1"
    count: int = await world.owner_value(sql)
    return count


async def check_count(world: World, count: int) -> None:
    """Check the number of events, and that it is stored."""
    assert await rows_of(world) == await event_count(world) == count


async def store(world: World, count: int, **fields: Any) -> int:
    """Add events to the log; return the last position."""
    return await store_events(world.database, world.tenant, count, **fields)


async def queue(world: World, *tenants: str) -> None:
    for tenant in tenants or (world.tenant,):
        await queue_event(world.database.owner, tenant, "j")


async def purge(world: World, max_events: int = 1_000_000) -> None:
    position: int | None = 0
    while position is not None:
        position = await world.owner_value(
            "SELECT jobs.purge_events($1, 7, $2, 10, $3)", max_events, position
        )


async def create_job(world: World, job_id: str = "j") -> None:
    await world.add_devices(["pump"])
    await world.create(job_id)
    await world.events.list()


async def history(world: World, job_id: str = "j") -> list[str]:
    """The types of the events in the history of a job."""
    return [event.type for event in (await world.events.history(job_id)).events]


async def positions(world: World) -> list[int]:
    return [event.position for event in await world.events.list_all()]


async def check_purged(world: World, position: int) -> None:
    failure = await expect_error("EVENTS_PURGED", world.events.list(after_position=position))
    assert failure.metadata["position"] == str(position)


async def test_sweeper_sequences_the_events_of_all_tenants(world: World, sweeper: Sweeper) -> None:
    await queue(world, *(f"{world.tenant}-{n}" for n in range(150)))

    await sweeper.run_events()

    assert await world.rows(
        "SELECT count(*), sum(event_count) FROM jobs.events JOIN jobs.event_heads USING (tenant_id)"
        " WHERE tenant_id LIKE $1 || '-%'"
    ) == [(150, 150)]
    left = "SELECT count(*) FROM jobs.event_queue WHERE tenant_id LIKE $1 || '-%'"
    assert await world.owner_value(left) == 0


async def test_search_reads_a_bounded_number_of_events_in_one_query(world: World) -> None:
    before, many, few = (f"{world.tenant}-{n}" for n in range(3))
    await queue_events(world.database.owner, many, 30)
    await queue(world, few)

    async def search(limit: int, after: str) -> list[str]:
        rows = await world.database.owner.fetch(
            "SELECT * FROM jobs.tenants_with_queued_events($1, $2)", limit, after
        )
        return [row["tenant_id"] for row in rows]

    assert await search(20, before) == [many]
    assert await search(31, before) == [many, few]
    assert await search(1, many) == [few]


async def test_sweeper_sequences_more_than_a_statement(world: World, sweeper: Sweeper) -> None:
    """Also of a tenant behind one with many queued events."""
    few = f"{world.tenant}-2"
    await queue_events(world.database.owner, world.tenant, 4500, jobs=100)
    await queue(world, few)

    await sweeper.run_events()

    await check_count(world, 4500)
    assert await rows_of(world, few) == 1


@pytest.mark.parametrize(
    ("queued", "detail_bytes", "least", "most"), [(4500, 0, 2000, 2000), (400, 30_000, 10, 100)]
)
async def test_statement_sequences_a_bounded_number_of_events_and_bytes(
    world: World, *, queued: int, detail_bytes: int, least: int, most: int
) -> None:
    """Repeated as long as it returns true, it sequences all, those of each job in order."""
    await world.database.owner.executemany(
        "INSERT INTO jobs.event_queue"
        " (tenant_id, job_id, number, type, occurred_at, status, counts, details)"
        " VALUES ($1, $2, $3, 'job.updated', now(), 'IN_PROGRESS', '{}', $4)",
        [
            (
                *(world.tenant, f"j{n % 7}", n),
                json.dumps({"count": n, "x": os.urandom(detail_bytes).hex()}),
            )
            for n in range(queued)
        ],
    )
    moved = [0]
    more = True

    while more:
        more = await world.owner_value("SELECT jobs.sequence_queued_events($1)")
        moved.append(await event_count(world))
        assert moved[-1] - moved[-2] <= most

    assert moved[1] >= least
    await check_count(world, queued)
    rows = await world.rows(
        "SELECT job_id, (details->'count')::integer FROM jobs.events"
        " WHERE tenant_id = $1 ORDER BY position"
    )
    for job in range(7):
        numbers = [number for job_id, number in rows if job_id == f"j{job}"]
        assert numbers == list(range(job, queued, 7))


async def test_list_tells_that_more_events_are_queued_than_it_sequences(world: World) -> None:
    await queue_events(world.database.owner, world.tenant, 12_000, jobs=1)

    pages = [await world.events.list(types=["job.tripped"])]
    while pages[-1].has_more:
        position = pages[-1].position
        pages.append(await world.events.list(types=["job.tripped"], after_position=position))

    assert len(pages) > 1
    assert await rows_of(world) == 12_000


async def test_tenant_of_another_sequencer_is_skipped(world: World, sweeper: Sweeper) -> None:
    other = f"{world.tenant}-2"
    await queue(world)
    await sweeper.run_events()
    await queue(world, world.tenant, other)

    async with rows_locked(world.database, "jobs.event_heads", tenant_id=world.tenant):
        await sweeper.run_events()
        assert (await rows_of(world), await rows_of(world, other)) == (1, 1)
    await sweeper.run_events()

    assert await rows_of(world) == 2


@pytest.mark.single_node("replaces a function")
async def test_tenant_that_fails_does_not_stop_the_others(
    world: World, sweeper: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    other = f"{world.tenant}-2"
    await queue(world, world.tenant, other)
    (task,) = (task for task in sweeper.tasks if task.name == "queued_events")

    definition = (
        "CREATE OR REPLACE FUNCTION jobs.sequence_queued_events(p_tenant_id text)"
        " RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
        f" IF p_tenant_id = '{world.tenant}' THEN RAISE EXCEPTION 'broken'; END IF;"
        " PERFORM jobs.sequence_events(p_tenant_id, true); RETURN false; END $$"
    )
    async with replaced_function(world.database, "jobs.sequence_queued_events", definition):
        await sweeper.run_events()
        await sweeper.run_events()

    assert await rows_of(world, other) == 1
    assert task.errors == 2
    assert task.overdue_seconds() > 0
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == [
        "maintenance of a tenant's events failed; the next runs try again"
    ]
    await sweeper.run_events()
    assert (await rows_of(world), task.overdue_seconds()) == (1, 0)


async def test_sequenced_events_wake_idle_webhooks(world: World, sweeper: Sweeper) -> None:
    await world.execute(
        "INSERT INTO jobs.webhooks"
        " (tenant_id, webhook_id, url, created_at, position, previous_position, key_id, enabled,"
        "  due_at)"
        " VALUES ($1, 'idle', '', now(), 0, 0, 'k', true, NULL),"
        " ($1, 'disabled', '', now(), 0, 0, 'k', false, NULL),"
        " ($1, 'retries', '', now(), 0, 0, 'k', true, now() + interval '1 hour')"
    )
    await queue(world)

    await sweeper.run_events()

    due = "SELECT webhook_id FROM jobs.webhooks WHERE tenant_id = $1 AND due_at <= now()"
    assert await world.rows(due) == [("idle",)]


async def test_old_events_of_jobs_that_are_gone_are_purged(world: World) -> None:
    await store(world, 25, days_ago=9)
    old = await store(world, 25, days_ago=8)
    last = await store(world, 5, days_ago=6)

    await purge(world)

    await check_count(world, 5)
    assert await positions(world) == list(range(last - 4, last + 1))
    assert len((await world.events.list(after_position=old)).events) == 5
    await check_purged(world, old - 1)


async def test_reader_who_has_read_all_events_can_continue_after_any_time(world: World) -> None:
    last = await store(world, 25, days_ago=30)

    await purge(world)

    page = await world.events.list(after_position=last)
    assert (list(page.events), page.position) == ([], last)


async def test_history_stays_until_the_job_is_purged(world: World, sweeper: Sweeper) -> None:
    await create_job(world)
    await create_job(world, "gone")
    created = (await world.events.list()).position
    await world.operator.cancel("j")
    await world.operator.delete("j")
    await world.execute("UPDATE jobs.jobs SET deleted_at = NULL WHERE tenant_id = $1")
    await world.events.list()
    await world.execute("DELETE FROM jobs.jobs WHERE tenant_id = $1 AND job_id = 'gone'")
    before = await history(world)
    try:
        await world.pass_time(8 * 86400)
        await purge(world)

        assert await history(world) == before
        assert await event_count(world) == len(before)
        assert await positions(world) == []
        await check_purged(world, created)
        await expect_error("JOB_NOT_FOUND", history(world, "gone"))

        await world.execute("UPDATE jobs.jobs SET deleted_at = jobs.now() WHERE tenant_id = $1")
        await sweeper.run_cleanup()

        await check_count(world, 0)
        await expect_error("JOB_NOT_FOUND", history(world))
    finally:
        await world.database.set_time_offset(0)


async def test_events_of_a_purged_job_stay_in_the_stream(world: World, sweeper: Sweeper) -> None:
    await create_job(world)
    await world.operator.cancel("j")
    await world.operator.delete("j")

    await sweeper.run_cleanup()

    found = [event.type for event in await world.events.list_all()]
    assert found[:2] == ["job.created", "job.canceled"]
    assert await rows_of(world, table="event_queue") == await rows_of(world, table="jobs") == 0


async def test_oldest_events_beyond_the_maximum_are_purged(world: World) -> None:
    await create_job(world)
    created = (await world.events.list()).position
    last = await store(world, 50)

    await purge(world, max_events=20)

    await check_count(world, 20)
    assert await positions(world) == list(range(last - 19, last + 1))
    assert await history(world) == []
    await check_purged(world, created)


async def test_events_of_executions_beyond_the_maximum_are_purged_first(world: World) -> None:
    await create_job(world)
    before = await history(world)
    await store(world, 3, type_="job.paused", job_id="gone-")
    last = await store(world, 100, type_="executions.finished", job_id="fleet-")

    await purge(world, max_events=40)

    await check_count(world, 40)
    kept = 40 - len(before)
    assert await positions(world) == list(range(last - kept + 1, last + 1))
    assert await history(world) == before
    await check_purged(world, last - kept - 1)
    assert len((await world.events.list(after_position=last - kept)).events) == kept


async def test_events_of_executions_outside_the_stream_are_purged_first(world: World) -> None:
    await create_job(world, "j0")
    await store(world, 30, type_="executions.finished", job_id="j", jobs=1)
    last = await store(world, 5, job_id="j", jobs=1)
    left = await world.owner_value(
        "UPDATE jobs.event_heads SET purged_position = position WHERE tenant_id = $1"
        " RETURNING event_count"
    )
    assert left > 35

    await purge(world, max_events=left - 25)

    types = await history(world, "j0")
    assert (types.count("executions.finished"), types.count("job.updated")) == (5, 5)
    assert (await world.events.list(after_position=last)).events == []


async def test_histories_leave_half_of_the_maximum_to_the_stream(world: World) -> None:
    await create_job(world, "j0")
    await store(world, 60, job_id="j", jobs=1)
    await store(world, 10, type_="executions.finished")

    await purge(world, max_events=40)

    types = [event.type for event in await world.events.list_all()]
    assert types == ["job.updated"] * 30 + ["executions.finished"] * 10


async def test_purge_between_reading_and_the_end_of_a_call_is_noticed(world: World) -> None:
    """The call waits for the head, on which a purge has just removed the events."""
    old = await store(world, 20, days_ago=8)
    await store(world, 1)
    await queue(world)

    async with connected(world.database.owner_dsn) as session, session.transaction():
        await session.execute("SELECT jobs.purge_events($1, 7, 1000000, 1000)", world.tenant)
        reading = await world.blocked(world.events.list(after_position=old - 10))
    await expect_error("EVENTS_PURGED", reading)


async def test_purge_continues_in_the_next_sweep_when_its_time_is_used_up() -> None:
    """The tenants take turns, so that one with many events does not delay the others."""
    now = 0.0
    left = {"a": 4, "b": 2, "c": 1}
    purged: list[str] = []

    async def fetch(sql: str, *args: Any) -> Sequence[Any]:
        nonlocal now
        if "tenants_with_events" in sql:
            return [(name, True) for name in left]
        tenant = args[0]
        purged.append(tenant)
        left[tenant] -= 1
        now += 0.3
        return [(left[tenant] or None,)]

    task = PurgeEvents(fetch, 7, 1_000_000, clock=lambda: now)
    steps: list[int] = []
    while any(left.values()):
        before = len(purged)
        await task.step()
        steps.append(len(purged) - before)

    assert purged == ["a", "b", "c", "a", "b", "a", "a"]
    assert steps == [2, 2, 2, 1]


async def test_purge_goes_over_all_tenants_once_a_minute(database: Database, world: World) -> None:
    tenants = [f"{world.tenant}-{n}" for n in range(3)]

    async def rows() -> list[int]:
        return [await rows_of(world, tenant) for tenant in tenants]

    for name in tenants[:2]:
        await store_events(database, name, 5, days_ago=8)
    now = 0.0
    task = PurgeEvents(database.owner.fetch, 7, 1_000_000, clock=lambda: now)

    await task.step()
    assert await rows() == [0, 0, 0]

    await store_events(database, tenants[2], 5, days_ago=8)
    await task.step()
    assert await rows() == [0, 0, 5]

    now = 61.0
    await task.step()
    assert await rows() == [0, 0, 0]


async def test_documented_statement_purges_positions_before_a_restore(world: World) -> None:
    await create_job(world)
    restored = (await world.events.list()).position
    before = (await world.events.history("j")).events
    section = (ROOT / "docs" / "operations" / "backup.md").read_text()
    statement = section.split("```sql\n")[1].split("```")[0].strip().removesuffix(";")

    await world.execute(f"{statement} WHERE tenant_id = $1")

    await world.operator.cancel("j")
    for position in (restored, restored + 1000):
        await check_purged(world, position)
    assert "job.canceled" in [event.type for event in (await world.events.list()).events]
    assert (await world.events.history("j")).events[: len(before)] == before
