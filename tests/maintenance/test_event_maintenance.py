"""The sweeper sequences queued events, and purges old ones."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from grpc import StatusCode

from jobs_grpc.maintenance.event_tasks import PurgeEvents
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Events, Operator
from tests.support.database import Database, replaced_function, rows_locked
from tests.support.event_rows import queue_event, queue_events, store_events
from tests.support.failures import expect_failure
from tests.support.server import Server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def events(server: Server, tenant: str) -> Events:
    return server.events(tenant)


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    async with Sweeper(database.owner_dsn) as sweeper:
        yield sweeper


@pytest.fixture
async def job(database: Database, operator: Operator, events: Events) -> str:
    """A job whose first event has a position."""
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    await events.list()
    return "j"


async def rows_of(database: Database, tenant: str, table: str = "jobs.events") -> int:
    count: int = await database.owner.fetchval(
        f"SELECT count(*) FROM {table} WHERE tenant_id = $1", tenant
    )
    return count


async def event_count(database: Database, tenant: str) -> int:
    count: int = await database.owner.fetchval(
        "SELECT event_count FROM jobs.event_heads WHERE tenant_id = $1", tenant
    )
    return count


async def purge(database: Database, tenant: str, max_events: int = 1_000_000) -> None:
    """Purge with small batches."""
    position: int | None = 0
    while position is not None:
        position = await database.owner.fetchval(
            "SELECT jobs.purge_events($1, 7, $2, 10, $3)", tenant, max_events, position
        )


async def test_sweeper_sequences_the_events_of_all_tenants(
    database: Database, sweeper: Sweeper, tenant: str
) -> None:
    tenants = [f"{tenant}-{n}" for n in range(150)]
    for name in tenants:
        await queue_event(database.owner, name, "j")

    await sweeper.run_events()

    for name in tenants:
        assert (await rows_of(database, name), await event_count(database, name)) == (1, 1)
        assert await rows_of(database, name, "jobs.event_queue") == 0


async def test_search_reads_a_bounded_number_of_events_in_one_query(
    database: Database, tenant: str
) -> None:
    many, few = f"{tenant}-1", f"{tenant}-2"
    await queue_events(database.owner, many, 30)
    await queue_event(database.owner, few, "j")

    async def search(limit: int, after: str) -> list[str]:
        rows = await database.owner.fetch(
            "SELECT * FROM jobs.tenants_with_queued_events($1, $2)", limit, after
        )
        return [row["tenant_id"] for row in rows]

    after = f"{tenant}-0"
    assert await search(20, after) == [many]
    assert await search(31, after) == [many, few]
    assert await search(1, many) == [few]


async def test_sweeper_finds_tenants_behind_one_with_many_queued_events(
    database: Database, sweeper: Sweeper, tenant: str
) -> None:
    many, few = f"{tenant}-1", f"{tenant}-2"
    await queue_events(database.owner, many, 1500)
    await queue_event(database.owner, few, "j")

    await sweeper.run_events()

    assert (await rows_of(database, many), await rows_of(database, few)) == (1500, 1)


async def test_sweeper_sequences_more_events_than_a_statement_moves(
    database: Database, sweeper: Sweeper, tenant: str
) -> None:
    await queue_events(database.owner, tenant, 25_000, jobs=100)

    await sweeper.run_events()

    assert await event_count(database, tenant) == await rows_of(database, tenant) == 25_000


@pytest.mark.parametrize(
    ("queued", "detail_bytes", "least", "most"), [(4500, 0, 2000, 2000), (400, 30_000, 10, 100)]
)
async def test_statement_sequences_a_bounded_number_of_events_and_bytes(
    database: Database,
    tenant: str,
    *,
    queued: int,
    detail_bytes: int,
    least: int,
    most: int,
) -> None:
    """Repeated as long as it returns true, it sequences all, those of each job in order."""
    await database.owner.executemany(
        "INSERT INTO jobs.event_queue"
        " (tenant_id, job_id, number, type, occurred_at, status, counts, details)"
        " VALUES ($1, $2, $3, 'job.updated', now(), 'IN_PROGRESS', '{}', $4)",
        [
            (tenant, f"j{n % 7}", n, json.dumps({"count": n, "x": os.urandom(detail_bytes).hex()}))
            for n in range(queued)
        ],
    )
    moved = [0]
    more = True

    while more:
        more = await database.owner.fetchval("SELECT jobs.sequence_queued_events($1)", tenant)
        moved.append(await event_count(database, tenant))
        assert moved[-1] - moved[-2] <= most

    assert moved[1] >= least
    assert moved[-1] == await rows_of(database, tenant) == queued
    rows = await database.owner.fetch(
        "SELECT job_id, (details->'count')::integer AS number FROM jobs.events"
        " WHERE tenant_id = $1 ORDER BY position",
        tenant,
    )
    for job in range(7):
        numbers = [row["number"] for row in rows if row["job_id"] == f"j{job}"]
        assert numbers == list(range(job, queued, 7))


async def test_list_tells_that_more_events_are_queued_than_it_sequences(
    database: Database, events: Events, tenant: str
) -> None:
    await queue_events(database.owner, tenant, 12_000, jobs=1)

    pages = [await events.list(types=["job.tripped"])]
    while pages[-1].has_more:
        position = pages[-1].position
        pages.append(await events.list(types=["job.tripped"], after_position=position))

    assert len(pages) > 1
    assert await rows_of(database, tenant) == 12_000


async def test_tenant_whose_events_another_session_sequences_is_skipped(
    database: Database, sweeper: Sweeper, tenant: str
) -> None:
    await queue_event(database.owner, tenant, "j")
    await sweeper.run_events()
    await queue_event(database.owner, tenant, "j")
    other = f"{tenant}-2"
    await queue_event(database.owner, other, "j")

    async with rows_locked(database, "jobs.event_heads", tenant_id=tenant):
        await sweeper.run_events()
        assert await rows_of(database, tenant) == 1
        assert await rows_of(database, other) == 1
    await sweeper.run_events()

    assert await rows_of(database, tenant) == 2


@pytest.mark.single_node("replaces a function")
async def test_tenant_that_fails_does_not_stop_the_others(
    database: Database, sweeper: Sweeper, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (tenant, f"{tenant}-2"):
        await queue_event(database.owner, name, "j")
    (task,) = (task for task in sweeper.tasks if task.name == "queued_events")

    definition = (
        "CREATE OR REPLACE FUNCTION jobs.sequence_queued_events(p_tenant_id text)"
        " RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
        f" IF p_tenant_id = '{tenant}' THEN RAISE EXCEPTION 'broken'; END IF;"
        " PERFORM jobs.sequence_events(p_tenant_id, true); RETURN false; END $$"
    )
    async with replaced_function(database, "jobs.sequence_queued_events", definition):
        await sweeper.run_events()
        await sweeper.run_events()

    assert await rows_of(database, f"{tenant}-2") == 1
    assert task.errors == 2
    assert task.overdue_seconds() > 0
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == [
        "maintenance of a tenant's events failed; the next runs try again"
    ]
    await sweeper.run_events()
    assert (await rows_of(database, tenant), task.overdue_seconds()) == (1, 0)


async def test_sequenced_events_wake_idle_webhooks(
    database: Database, sweeper: Sweeper, tenant: str
) -> None:
    await database.owner.execute(
        "INSERT INTO jobs.webhooks"
        " (tenant_id, webhook_id, url, created_at, position, previous_position, key_id, enabled,"
        "  due_at)"
        " VALUES ($1, 'idle', '', now(), 0, 0, 'k', true, NULL),"
        " ($1, 'disabled', '', now(), 0, 0, 'k', false, NULL),"
        " ($1, 'retries', '', now(), 0, 0, 'k', true, now() + interval '1 hour')",
        tenant,
    )
    await queue_event(database.owner, tenant, "j")

    await sweeper.run_events()

    due = await database.owner.fetch(
        "SELECT webhook_id FROM jobs.webhooks WHERE tenant_id = $1 AND due_at <= now()", tenant
    )
    assert [row["webhook_id"] for row in due] == ["idle"]


async def test_old_events_of_jobs_that_are_gone_are_purged(
    database: Database, events: Events, tenant: str
) -> None:
    await store_events(database, tenant, 25, days_ago=9)
    old = await store_events(database, tenant, 25, days_ago=8)
    last = await store_events(database, tenant, 5, days_ago=6)

    await purge(database, tenant)

    assert await rows_of(database, tenant) == await event_count(database, tenant) == 5
    assert [e.position for e in await events.list_all()] == list(range(last - 4, last + 1))
    assert len((await events.list(after_position=old)).events) == 5
    with expect_failure(StatusCode.OUT_OF_RANGE, "EVENTS_PURGED") as failure:
        await events.list(after_position=old - 1)
    assert failure.metadata == {"position": str(old - 1), "purgedPosition": str(old)}


async def test_reader_who_has_read_all_events_can_continue_after_any_time(
    database: Database, events: Events, tenant: str
) -> None:
    last = await store_events(database, tenant, 25, days_ago=30)

    await purge(database, tenant)

    page = await events.list(after_position=last)
    assert (list(page.events), page.position) == ([], last)


async def test_history_stays_until_the_job_is_purged(
    database: Database, operator: Operator, events: Events, sweeper: Sweeper
) -> None:
    tenant = operator.tenant
    await database.add_devices(tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    await operator.create(job_id="gone", target_all=True)
    created = (await events.list()).position
    await operator.cancel("j")
    await operator.delete("j")
    for job_id in ("j", "gone"):
        await database.owner.execute(
            "UPDATE jobs.jobs SET deleted_at = NULL WHERE tenant_id = $1 AND job_id = $2",
            tenant,
            job_id,
        )
    await events.list()
    await database.owner.execute(
        "DELETE FROM jobs.jobs WHERE tenant_id = $1 AND job_id = 'gone'", tenant
    )
    history = [event.type for event in (await events.history("j")).events]
    try:
        await database.pass_time(8 * 86400)
        await purge(database, tenant)

        assert [event.type for event in (await events.history("j")).events] == history
        assert await event_count(database, tenant) == len(history)
        assert await events.list_all() == []
        with expect_failure(StatusCode.OUT_OF_RANGE, "EVENTS_PURGED"):
            await events.list(after_position=created)
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            await events.history("gone")

        await database.owner.execute(
            "UPDATE jobs.jobs SET deleted_at = jobs.now() WHERE tenant_id = $1", tenant
        )
        await sweeper.run_cleanup()

        assert await rows_of(database, tenant) == await event_count(database, tenant) == 0
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            await events.history("j")
    finally:
        await database.set_time_offset(0)


async def test_events_of_a_purged_job_stay_in_the_stream(
    database: Database, operator: Operator, events: Events, sweeper: Sweeper, job: str
) -> None:
    await operator.cancel(job)
    await operator.delete(job)

    await sweeper.run_cleanup()

    found = [event.type for event in await events.list_all()]
    assert found[:2] == ["job.created", "job.canceled"]
    assert await rows_of(database, operator.tenant, "jobs.event_queue") == 0
    assert await rows_of(database, operator.tenant, "jobs.jobs") == 0


async def test_oldest_events_beyond_the_maximum_are_purged(
    database: Database, events: Events, tenant: str, job: str
) -> None:
    created = (await events.list()).position
    last = await store_events(database, tenant, 50)

    await purge(database, tenant, max_events=20)

    assert await rows_of(database, tenant) == await event_count(database, tenant) == 20
    assert [e.position for e in await events.list_all()] == list(range(last - 19, last + 1))
    assert (await events.history(job)).events == []
    with expect_failure(StatusCode.OUT_OF_RANGE, "EVENTS_PURGED"):
        await events.list(after_position=created)


async def test_events_of_executions_beyond_the_maximum_are_purged_first(
    database: Database, events: Events, tenant: str, job: str
) -> None:
    history = [event.type for event in (await events.history(job)).events]
    await store_events(database, tenant, 3, type_="job.paused", job_id="gone-")
    last = await store_events(database, tenant, 100, type_="executions.finished", job_id="fleet-")

    await purge(database, tenant, max_events=40)

    assert await rows_of(database, tenant) == await event_count(database, tenant) == 40
    kept = 40 - len(history)
    assert [e.position for e in await events.list_all()] == list(range(last - kept + 1, last + 1))
    assert [event.type for event in (await events.history(job)).events] == history
    with expect_failure(StatusCode.OUT_OF_RANGE, "EVENTS_PURGED"):
        await events.list(after_position=last - kept - 1)
    assert len((await events.list(after_position=last - kept)).events) == kept


async def test_events_of_executions_that_left_the_stream_are_purged_before_others(
    database: Database, operator: Operator, events: Events
) -> None:
    tenant = operator.tenant
    await database.add_devices(tenant, ["pump"])
    await operator.create(job_id="j0", target_all=True)
    await events.list()
    await store_events(database, tenant, 30, type_="executions.finished", job_id="j", jobs=1)
    last = await store_events(database, tenant, 5, job_id="j", jobs=1)
    left = await database.owner.fetchval(
        "UPDATE jobs.event_heads SET purged_position = position WHERE tenant_id = $1"
        " RETURNING event_count",
        tenant,
    )
    assert left > 35

    await purge(database, tenant, max_events=left - 25)

    types = [event.type for event in (await events.history("j0")).events]
    assert types.count("executions.finished") == 5
    assert types.count("job.updated") == 5
    assert (await events.list(after_position=last)).events == []


async def test_histories_leave_half_of_the_maximum_to_the_stream(
    database: Database, operator: Operator, events: Events
) -> None:
    tenant = operator.tenant
    await database.add_devices(tenant, ["pump"])
    await operator.create(job_id="j0", target_all=True)
    await events.list()
    await store_events(database, tenant, 60, job_id="j", jobs=1)
    await store_events(database, tenant, 10, type_="executions.finished")

    await purge(database, tenant, max_events=40)

    types = [event.type for event in await events.list_all()]
    assert types == ["job.updated"] * 30 + ["executions.finished"] * 10


async def test_purge_between_reading_and_the_end_of_a_call_is_noticed(
    database: Database, server: Server, events: Events, tenant: str
) -> None:
    """The call waits for the head, on which a purge has just removed the events."""
    old = await store_events(database, tenant, 20, days_ago=8)
    await store_events(database, tenant, 1)
    await queue_event(database.owner, tenant, "j")

    session = await asyncpg.connect(database.owner_dsn)
    async with session.transaction():
        await session.execute("SELECT jobs.purge_events($1, 7, 1000000, 1000)", tenant)
        reading = asyncio.create_task(events.list(after_position=old - 10))
        await database.wait_for_blocked_sessions(1)
    with expect_failure(StatusCode.OUT_OF_RANGE, "EVENTS_PURGED"):
        await reading
    await session.close()


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


async def test_purge_goes_over_all_tenants_once_a_minute(database: Database, tenant: str) -> None:
    for name in (f"{tenant}-1", f"{tenant}-2"):
        await store_events(database, name, 5, days_ago=8)
    now = 0.0
    task = PurgeEvents(database.owner.fetch, 7, 1_000_000, clock=lambda: now)

    await task.step()
    assert await rows_of(database, f"{tenant}-1") == await rows_of(database, f"{tenant}-2") == 0

    await store_events(database, f"{tenant}-3", 5, days_ago=8)
    await task.step()
    assert await rows_of(database, f"{tenant}-3") == 5

    now = 61.0
    await task.step()
    assert await rows_of(database, f"{tenant}-3") == 0


async def test_positions_before_a_restore_are_purged_by_the_documented_statement(
    database: Database, operator: Operator, events: Events, job: str
) -> None:
    restored = (await events.list()).position
    history = await events.history(job)
    lost = restored + 1000
    section = (ROOT / "docs" / "operations" / "upgrades.md").read_text().split("## Backups")[1]
    statement = section.split("```sql\n")[1].split("```")[0]

    await database.owner.execute(
        statement.strip().removesuffix(";") + f" WHERE tenant_id = '{operator.tenant}'"
    )

    await operator.cancel(job)
    for position in (restored, lost):
        with expect_failure(StatusCode.OUT_OF_RANGE, "EVENTS_PURGED"):
            await events.list(after_position=position)
    assert "job.canceled" in [event.type for event in (await events.list()).events]
    assert (await events.history(job)).events[: len(history.events)] == history.events
