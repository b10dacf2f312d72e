"""Migrations that create and drop indexes outside a transaction, while calls go on.

A session with an open transaction stops the build at a known point: CREATE INDEX CONCURRENTLY waits
for transactions that have written to the table before it reads the table, and for older snapshots
at the end.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db import migrate as runner
from jobs_grpc.db import migration_progress
from jobs_grpc.db.index_migrations import index_statements
from jobs_grpc.db.migrate import migrate
from jobs_grpc.db.schema import Migration, SchemaError
from tests.support.database import Database
from tests.support.postgres import connected
from tests.support.server import running_server
from tests.support.waiting import wait_until_true

MARKER = "-- outside a transaction"
BUILD = f"""{MARKER}
CREATE INDEX CONCURRENTLY IF NOT EXISTS test_index
    ON jobs.job_executions (tenant_id, last_updated_at);
"""
DROP = f"""{MARKER}, after views and functions
DROP INDEX CONCURRENTLY IF EXISTS jobs.job_executions_newest_first;
"""

APPLIED = ["applied migration 9001 test", "applied views and functions"]

BLOCKERS = {
    "writer": "UPDATE jobs.job_executions SET version = version WHERE false",
    "old snapshot": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1",
}


@dataclass(frozen=True)
class Migrations(Database):
    """A migrated database, to which a test adds the migration 9001 with `add`."""

    add: Callable[[str], None]

    async def run(self, report: Callable[[str], None] | None = None) -> list[str]:
        """Migrate; return what was done."""
        return await migrate(self.owner_dsn, self.role, report)

    async def blocked_run(self) -> asyncio.Task[list[str]]:
        """Start to migrate, and return when it waits for a transaction."""
        return await self.blocked(self.run())


@pytest.fixture
def migrations(fresh: Database, add_migration: Callable[[str], None]) -> Migrations:
    return Migrations(fresh.owner_dsn, fresh.request_dsn, fresh.owner, add_migration)


@asynccontextmanager
async def _open_transaction(database: Database, sql: str) -> AsyncIterator[None]:
    """Hold a transaction open that ran `sql`."""
    async with connected(database.owner_dsn) as session, session.transaction():
        await session.execute(sql)
        yield


async def _is_valid(database: Database, index: str = "test_index") -> bool | None:
    """Return whether an index can be used; None if it does not exist."""
    valid: bool | None = await database.owner.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('jobs.' || $1)", index
    )
    return valid


async def _recorded(database: Database) -> bool:
    count = "SELECT count(*) FROM jobs.migrations WHERE version = 9001"
    return bool(await database.owner.fetchval(count))


_BUILDS = "state = 'active' AND query LIKE '%INDEX CONCURRENTLY%'"


@pytest.mark.parametrize("blocker", BLOCKERS.values(), ids=BLOCKERS)
async def test_interrupted_build_is_repeated(migrations: Migrations, blocker: str) -> None:
    migrations.add(BUILD)
    async with _open_transaction(migrations, blocker):
        first = await migrations.blocked_run()
        [pid] = await migrations.sessions(_BUILDS)
        await migrations.owner.execute(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await first
    assert await _is_valid(migrations) is False
    assert not await _recorded(migrations)

    assert await migrations.run() == APPLIED

    assert await _is_valid(migrations)
    assert await migrations.run() == []


async def test_cancel_of_migrate_ends_the_build_in_the_server(migrations: Migrations) -> None:
    """Ctrl-C cancels `migrate` in this way."""
    migrations.add(BUILD)
    async with _open_transaction(migrations, BLOCKERS["writer"]):
        first = await migrations.blocked_run()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

        assert not await migrations.sessions(_BUILDS)

    assert await migrations.run() == APPLIED
    assert await _is_valid(migrations)


async def test_finished_build_is_kept_when_it_was_not_recorded(migrations: Migrations) -> None:
    migrations.add(BUILD)
    await migrations.run()
    index = await migrations.owner.fetchval("SELECT 'jobs.test_index'::regclass::oid")
    await migrations.owner.execute("DELETE FROM jobs.migrations WHERE version = 9001")

    assert await migrations.run() == APPLIED

    assert await migrations.owner.fetchval("SELECT 'jobs.test_index'::regclass::oid") == index


async def test_migration_is_recorded_only_when_all_its_statements_succeeded(
    migrations: Migrations,
) -> None:
    migrations.add(
        f"{BUILD}CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS test_unique"
        " ON public.device_state (tenant_id);"
    )
    await migrations.add_devices("t", 2)

    with pytest.raises(asyncpg.UniqueViolationError):
        await migrations.run()

    assert await _is_valid(migrations)
    assert not await _recorded(migrations)
    await migrations.owner.execute("DELETE FROM public.device_state WHERE device_id = 'd00001'")
    assert await migrations.run() == APPLIED
    assert await _recorded(migrations)


async def test_second_runner_waits_for_the_build_of_the_first(migrations: Migrations) -> None:
    """The first waits for older snapshots at its end, so the second must not hold one."""
    migrations.add(BUILD)
    async with _open_transaction(migrations, BLOCKERS["writer"]):
        first = await migrations.blocked_run()
        second = asyncio.ensure_future(migrations.run())
        await migrations.wait_for_session("query LIKE '%advisory_lock($1)'")

    assert await first == APPLIED
    assert await second == []


async def test_index_is_dropped_after_functions_were_replaced(migrations: Migrations) -> None:
    """While the drop waits for old transactions, no call runs a function that needs the index."""
    migrations.add(DROP)
    await migrations.owner.execute(
        "DROP FUNCTION jobs.cancel_job; UPDATE jobs.schema_code SET checksum = 'another version'"
    )
    async with _open_transaction(migrations, BLOCKERS["writer"]):
        migrating = await migrations.blocked_run()

        assert await migrations.owner.fetchval("SELECT to_regproc('jobs.cancel_job') IS NOT NULL")

    assert await migrating == [APPLIED[1], APPLIED[0]]
    assert await _is_valid(migrations, "job_executions_newest_first") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("migration", "blocker"),
    [
        pytest.param(BUILD, BLOCKERS["writer"], id="before the build"),
        pytest.param(BUILD, BLOCKERS["old snapshot"], id="after the build"),
        pytest.param(DROP, BLOCKERS["writer"], id="drop"),
    ],
)
async def test_calls_do_not_wait_for_the_migration(
    migrations: Migrations, monkeypatch: pytest.MonkeyPatch, migration: str, blocker: str
) -> None:
    """The migration waits for the blocker; each call succeeds before the blocker ends.

    A migration with a lock timeout would fail meanwhile.
    """
    monkeypatch.setattr(runner, "_SET_LOCK_TIMEOUT", "SET lock_timeout = '1ms'")
    await migrations.add_devices("t", 2)
    async with running_server(
        migrations.request_dsn, JOBS_OWNER_DATABASE_URL=migrations.owner_dsn
    ) as server:
        operator, device = server.operator("t"), server.device("t", "d00001")
        migrations.add(migration)
        async with _open_transaction(migrations, blocker):
            migrating = await migrations.blocked_run()

            job_id = (await operator.create(target_all=True)).job_id
            assert len((await device.pending()).executions) == 1
            started = await device.start_next()
            assert started
            await device.update(job_id, pb.JobExecution.FAILED)
            await operator.retry(job_id, pb.JobExecution.FAILED)
            await operator.executions(job_id)
            await operator.cancel(job_id)
            await operator.delete(job_id)

            assert len(await migrations.sessions(_BUILDS)) == 1
            assert not migrating.done()
        await migrating


async def test_progress_names_the_phase_and_what_the_build_waits_for(
    migrations: Migrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration_progress, "_INTERVAL_SECONDS", 0.01)
    migrations.add(BUILD)
    lines: list[str] = []

    async with _open_transaction(migrations, BLOCKERS["writer"]):
        migrating = asyncio.ensure_future(migrations.run(lines.append))
        await wait_until_true(lambda: any("waiting for process" in line for line in lines))
        [blocker] = await migrations.sessions("state = 'idle in transaction'")

    await migrating
    assert (
        f"create index test_index: waiting for writers before build, waiting for process {blocker}"
        in lines
    )


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX CONCURRENTLY test_index ON jobs.jobs (job_id)",
        "CREATE INDEX IF NOT EXISTS test_index ON jobs.jobs (job_id)",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS test_index ON jobs (job_id)",
        "DROP INDEX CONCURRENTLY jobs.test_index",
        "DROP INDEX CONCURRENTLY IF EXISTS jobs.test_index CASCADE",
        "ALTER TABLE jobs.jobs ADD COLUMN IF NOT EXISTS x integer",
    ],
)
def test_statement_that_cannot_be_repeated_is_rejected(statement: str) -> None:
    with pytest.raises(SchemaError, match=r"^migration 9001 test: outside a transaction"):
        index_statements(Migration(9001, "test", f"{MARKER}\n{statement};"))


def test_statements_are_split_without_comments() -> None:
    sql = (
        f"{MARKER}\n-- Both; and:\nDROP INDEX CONCURRENTLY IF EXISTS jobs.a;\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS b\n    ON jobs.jobs (job_id);  -- last;\n"
    )

    assert index_statements(Migration(9001, "test", sql)) == [
        "DROP INDEX CONCURRENTLY IF EXISTS jobs.a",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS b\n    ON jobs.jobs (job_id)",
    ]
