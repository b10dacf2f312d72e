"""Migrations that create and drop indexes outside a transaction, while calls go on.

A session with an open transaction stops the build at a known point: CREATE INDEX CONCURRENTLY waits
for transactions that have written to the table before it reads the table, and for older snapshots
at the end.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db import migrate as runner
from jobs_grpc.db import migration_progress
from jobs_grpc.db.index_migrations import index_statements
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.db.schema import Migration, SchemaError
from tests.support.database import Database
from tests.support.server import running_server
from tests.support.waiting import wait_until

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


@pytest.fixture
def run(fresh: Database) -> Callable[[], Awaitable[list[str]]]:
    """A function that migrates the test's database."""
    role = RequestRole.from_dsn(fresh.request_dsn)
    return lambda: migrate(fresh.owner_dsn, role)


@asynccontextmanager
async def _open_transaction(database: Database, sql: str) -> AsyncIterator[None]:
    """Hold a transaction open that ran `sql`."""
    session = await asyncpg.connect(database.owner_dsn)
    try:
        async with session.transaction():
            await session.execute(sql)
            yield
    finally:
        await session.close()


async def _is_valid(database: Database, index: str = "test_index") -> bool | None:
    """Return whether an index can be used; None if it does not exist."""
    valid: bool | None = await database.owner.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('jobs.' || $1)", index
    )
    return valid


async def _recorded(database: Database) -> bool:
    count = "SELECT count(*) FROM jobs.migrations WHERE version = 9001"
    return bool(await database.owner.fetchval(count))


async def _building_sessions(database: Database) -> Sequence[int]:
    rows = await database.owner.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND state = 'active' AND query LIKE '%INDEX CONCURRENTLY%' AND pid <> pg_backend_pid()"
    )
    return [row["pid"] for row in rows]


@pytest.mark.parametrize("blocker", BLOCKERS.values(), ids=BLOCKERS)
async def test_interrupted_build_is_repeated(
    fresh: Database,
    add_migration: Callable[[str], None],
    run: Callable[[], Awaitable[list[str]]],
    blocker: str,
) -> None:
    add_migration(BUILD)
    async with _open_transaction(fresh, blocker):
        first = asyncio.ensure_future(run())
        await fresh.wait_for_blocked_sessions(1)
        [pid] = await _building_sessions(fresh)
        await fresh.owner.execute(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await first
    assert await _is_valid(fresh) is False
    assert not await _recorded(fresh)

    assert await run() == APPLIED

    assert await _is_valid(fresh)
    assert await run() == []


async def test_cancel_of_migrate_ends_the_build_in_the_server(
    fresh: Database,
    add_migration: Callable[[str], None],
    run: Callable[[], Awaitable[list[str]]],
) -> None:
    """Ctrl-C cancels `migrate` in this way."""
    add_migration(BUILD)
    async with _open_transaction(fresh, BLOCKERS["writer"]):
        first = asyncio.ensure_future(run())
        await fresh.wait_for_blocked_sessions(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

        assert not await _building_sessions(fresh)

    assert await run() == APPLIED
    assert await _is_valid(fresh)


async def test_finished_build_is_kept_when_it_was_not_recorded(
    fresh: Database,
    add_migration: Callable[[str], None],
    run: Callable[[], Awaitable[list[str]]],
) -> None:
    add_migration(BUILD)
    await run()
    index = await fresh.owner.fetchval("SELECT 'jobs.test_index'::regclass::oid")
    await fresh.owner.execute("DELETE FROM jobs.migrations WHERE version = 9001")

    assert await run() == APPLIED

    assert await fresh.owner.fetchval("SELECT 'jobs.test_index'::regclass::oid") == index


async def test_migration_is_recorded_only_when_all_its_statements_succeeded(
    fresh: Database,
    add_migration: Callable[[str], None],
    run: Callable[[], Awaitable[list[str]]],
) -> None:
    add_migration(
        f"{BUILD}CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS test_unique"
        " ON public.device_state (tenant_id);"
    )
    await fresh.add_devices("t", 2)

    with pytest.raises(asyncpg.UniqueViolationError):
        await run()

    assert await _is_valid(fresh)
    assert not await _recorded(fresh)
    await fresh.owner.execute("DELETE FROM public.device_state WHERE device_id = 'd00001'")
    assert await run() == APPLIED
    assert await _recorded(fresh)


async def test_second_runner_waits_for_the_build_of_the_first(
    fresh: Database,
    add_migration: Callable[[str], None],
    run: Callable[[], Awaitable[list[str]]],
) -> None:
    """The first waits for older snapshots at its end, so the second must not hold one."""
    add_migration(BUILD)
    async with _open_transaction(fresh, BLOCKERS["writer"]):
        first = asyncio.ensure_future(run())
        await fresh.wait_for_blocked_sessions(1)
        second = asyncio.ensure_future(run())

        async def second_waits() -> bool:
            return bool(
                await fresh.owner.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND query LIKE '%advisory_lock($1)'"
                )
            )

        await wait_until(second_waits)

    assert await first == APPLIED
    assert await second == []


async def test_index_is_dropped_after_functions_were_replaced(
    fresh: Database,
    add_migration: Callable[[str], None],
    run: Callable[[], Awaitable[list[str]]],
) -> None:
    """While the drop waits for old transactions, no call runs a function that needs the index."""
    add_migration(DROP)
    await fresh.owner.execute(
        "DROP FUNCTION jobs.cancel_job; UPDATE jobs.schema_code SET checksum = 'another version'"
    )
    async with _open_transaction(fresh, BLOCKERS["writer"]):
        migrating = asyncio.ensure_future(run())
        await fresh.wait_for_blocked_sessions(1)

        assert await fresh.owner.fetchval("SELECT to_regproc('jobs.cancel_job') IS NOT NULL")

    assert await migrating == [APPLIED[1], APPLIED[0]]
    assert await _is_valid(fresh, "job_executions_newest_first") is None


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
    fresh: Database,
    add_migration: Callable[[str], None],
    run: Callable[[], Awaitable[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    migration: str,
    blocker: str,
) -> None:
    """The migration waits for the blocker; each call succeeds before the blocker ends.

    A migration with a lock timeout would fail meanwhile.
    """
    monkeypatch.setattr(runner, "_SET_LOCK_TIMEOUT", "SET lock_timeout = '1ms'")
    await fresh.add_devices("t", 2)
    async with running_server(fresh.request_dsn, JOBS_OWNER_DATABASE_URL=fresh.owner_dsn) as server:
        operator, device = server.operator("t"), server.device("t", "d00001")
        add_migration(migration)
        async with _open_transaction(fresh, blocker):
            migrating = asyncio.ensure_future(run())
            await fresh.wait_for_blocked_sessions(1)

            job_id = (await operator.create(target_all=True)).job_id
            assert len((await device.pending()).executions) == 1
            started = await device.start_next()
            assert started
            await device.update(job_id, pb.JobExecution.FAILED)
            await operator.retry(job_id, pb.JobExecution.FAILED)
            await operator.executions(job_id)
            await operator.cancel(job_id)
            await operator.delete(job_id)

            assert len(await _building_sessions(fresh)) == 1
            assert not migrating.done()
        await migrating


async def test_progress_names_the_phase_and_what_the_build_waits_for(
    fresh: Database, add_migration: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration_progress, "_INTERVAL_SECONDS", 0.01)
    add_migration(BUILD)
    lines: list[str] = []
    role = RequestRole.from_dsn(fresh.request_dsn)

    async def reported() -> bool:
        return any("waiting for process" in line for line in lines)

    async with _open_transaction(fresh, BLOCKERS["writer"]):
        migrating = asyncio.ensure_future(migrate(fresh.owner_dsn, role, lines.append))
        await wait_until(reported)
        blocker = await fresh.owner.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'idle in transaction'"
        )

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
