"""Plans that were made while a tenant was small are discarded within seconds."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from jobs_grpc.config import Config
from jobs_grpc.db.database import Database as Pool
from tests.support.database import Database
from tests.support.waiting import wait_until

# PostgreSQL can switch to a generic plan after five calls.
_CALLS_UNTIL_GENERIC = 8

# New statistics would invalidate the cached plans.
_NO_AUTOVACUUM = """
    ALTER TABLE jobs.jobs SET (autovacuum_enabled = off);
    ALTER TABLE jobs.job_progress SET (autovacuum_enabled = off);
    ALTER TABLE jobs.job_executions SET (autovacuum_enabled = off);
"""

_JOBS = """
    SELECT count(*) FROM generate_series($2::integer, $3) n,
        LATERAL jobs.create_job($1, 'job-' || n, 'reboot', '{}', 'd00001', NULL, false, 24,
                                NULL, NULL, 1, NULL)
"""
# A session sees its own counters at once; other sessions see them later.
_ROWS_READ = """
    CREATE OR REPLACE FUNCTION public.rows_read() RETURNS integer LANGUAGE sql VOLATILE AS $$
        SELECT sum(pg_stat_get_xact_tuples_returned(c.oid))
        FROM pg_class c
        WHERE c.relnamespace = 'jobs'::regnamespace AND c.relkind IN ('r', 'i')
    $$;
    CREATE OR REPLACE FUNCTION public.rows_read_by_get_job(tenant text) RETURNS integer
    LANGUAGE plpgsql AS $$
    DECLARE
        before integer := public.rows_read();
    BEGIN
        PERFORM FROM jobs.get_job(tenant, 'job-1', 10);
        RETURN public.rows_read() - before;
    END $$
"""


async def rows_read(pool: Pool, tenant: str) -> int:
    """Return the number of table rows and index entries that a GetJob reads."""
    [(rows,)] = await pool.fetch("SELECT public.rows_read_by_get_job($1)", tenant)
    assert isinstance(rows, int)
    return rows


class Clock:
    """A clock that stands still until it is started."""

    def __init__(self) -> None:
        self.running = False

    def __call__(self) -> float:
        return time.monotonic() if self.running else 0.0


@pytest.fixture
def clock() -> Clock:
    """The pool's clock."""
    return Clock()


@pytest.fixture
async def small(database: Database, tenant: str, clock: Clock) -> AsyncIterator[Pool]:
    """Two connections with cached plans for a tenant with one job."""
    config = Config.from_env({"JOBS_DATABASE_URL": database.request_dsn, "JOBS_POOL_MAX_SIZE": "2"})
    await database.owner.execute(_NO_AUTOVACUUM)
    await database.owner.execute("TRUNCATE jobs.jobs, jobs.job_progress, jobs.job_executions")
    for name, jobs in ((tenant, 1), (f"{tenant}-other", 200)):
        await database.add_devices(name, 1)
        await database.owner.fetch(_JOBS, name, 1, jobs)
    await database.owner.execute("ANALYZE")
    await database.owner.execute(_ROWS_READ)
    pool = Pool(config, clock)
    try:
        await pool.check()
        # The clock stands still, so that no plans are discarded.
        for _ in range(_CALLS_UNTIL_GENERIC):
            await asyncio.gather(*(rows_read(pool, tenant) for _ in range(2)))
        yield pool
    finally:
        await pool.close()


@pytest.mark.slow
async def test_call_reads_few_rows_after_the_tenant_has_grown(
    database: Database, tenant: str, small: Pool, clock: Clock
) -> None:
    await database.owner.fetch(_JOBS, tenant, 2, 5000)

    clock.running = True

    async def reads_few_rows() -> bool:
        return await rows_read(small, tenant) < 20

    await wait_until(reads_few_rows)


@pytest.mark.slow
async def test_call_reads_few_rows_when_connections_are_never_idle(
    database: Database, tenant: str, small: Pool, clock: Clock
) -> None:
    await database.owner.fetch(_JOBS, tenant, 2, 5000)
    clock.running = True
    counts: list[int] = []

    async def read_repeatedly() -> None:
        while True:
            counts.append(await rows_read(small, tenant))

    async def reads_few_rows() -> bool:
        del counts[:-10]
        return len(counts) == 10 and max(counts) < 20

    callers = [asyncio.create_task(read_repeatedly()) for _ in range(6)]
    try:
        await wait_until(reads_few_rows)
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)


async def test_close_returns_when_the_last_statement_has_finished(
    database: Database, small: Pool
) -> None:
    running = asyncio.create_task(small.fetch("SELECT $1::text, pg_sleep(0.3)", "t"))

    async def has_started() -> bool:
        sleeping = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        return bool(await database.owner.fetch(sleeping))

    await wait_until(has_started)

    # Less than the time after which close() terminates the connections.
    async with asyncio.timeout(4):
        await small.close()

    assert await running
