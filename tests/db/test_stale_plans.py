"""Plans that were made while a tenant was small do not outlive that by more than seconds."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from jobs_grpc.config import Config
from jobs_grpc.db.database import Database as Pool
from tests.support.database import Database
from tests.support.waiting import wait_until

# PostgreSQL may keep a plan for any arguments after five calls.
_CALLS_UNTIL_GENERIC = 8

# Statistics that come by themselves would have plans made anew.
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
# What a session has read is counted at once, and added up until it is told to everybody.
_ROWS_READ = """
    CREATE OR REPLACE FUNCTION public.rows_read() RETURNS integer LANGUAGE sql VOLATILE AS $$
        SELECT sum(pg_stat_get_xact_tuples_returned(c.oid))
        FROM pg_class c
        WHERE c.relnamespace = 'jobs'::regnamespace AND c.relkind IN ('r', 'i')
    $$;
    CREATE OR REPLACE FUNCTION public.rows_read_for_a_job(tenant text) RETURNS integer
    LANGUAGE plpgsql AS $$
    DECLARE
        before integer := public.rows_read();
    BEGIN
        PERFORM FROM jobs.get_job(tenant, 'job-1', 10);
        RETURN public.rows_read() - before;
    END $$
"""


async def rows_read(pool: Pool, tenant: str) -> int:
    """How many rows of tables, and entries of indexes, a GetJob goes through."""
    [(rows,)] = await pool.fetch("SELECT public.rows_read_for_a_job($1)", tenant)
    assert isinstance(rows, int)
    return rows


class Clock:
    """A clock that stands still until it is started."""

    def __init__(self) -> None:
        self.running = False

    def __call__(self) -> float:
        return time.monotonic() if self.running else 0.0


@pytest.fixture
async def small(database: Database, tenant: str) -> AsyncIterator[Pool]:
    """Two connections with cached plans for a tenant with one job."""
    config = Config.from_env({"JOBS_DATABASE_URL": database.request_dsn, "JOBS_POOL_MAX_SIZE": "2"})
    await database.owner.execute(_NO_AUTOVACUUM)
    await database.owner.execute("TRUNCATE jobs.jobs, jobs.job_progress, jobs.job_executions")
    for name, jobs in ((tenant, 1), (f"{tenant}-other", 200)):
        await database.add_devices(name, 1)
        await database.owner.fetch(_JOBS, name, 1, jobs)
    await database.owner.execute("ANALYZE")
    await database.owner.execute(_ROWS_READ)
    clock = Clock()
    pool = Pool(config, clock)
    try:
        await pool.check()
        # The clock stands still, so the leases don't expire while the plans are made.
        for _ in range(_CALLS_UNTIL_GENERIC):
            await asyncio.gather(*(rows_read(pool, tenant) for _ in range(2)))
        clock.running = True
        yield pool
    finally:
        await pool.close()


async def test_a_tenant_that_has_grown_is_read_by_its_keys(
    database: Database, tenant: str, small: Pool
) -> None:
    await database.owner.fetch(_JOBS, tenant, 2, 5000)

    # Else this test tests nothing.
    assert await rows_read(small, tenant) > 5000

    async def few() -> bool:
        await small.check()
        return await rows_read(small, tenant) < 20

    await wait_until(few)


async def test_so_it_is_if_no_connection_has_a_rest(
    database: Database, tenant: str, small: Pool
) -> None:
    await database.owner.fetch(_JOBS, tenant, 2, 5000)
    most: list[int] = []

    async def read_on() -> None:
        while True:
            most.append(await rows_read(small, tenant))

    async def few() -> bool:
        del most[:-10]
        return len(most) == 10 and max(most) < 20

    callers = [asyncio.create_task(read_on()) for _ in range(6)]
    try:
        await wait_until(few)
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)


async def test_what_ends_while_the_pool_closes_does_not_hold_it_up(
    database: Database, small: Pool
) -> None:
    under_way = asyncio.create_task(small.fetch("SELECT $1::text, pg_sleep(0.3)", "t"))

    async def begun() -> bool:
        sleeping = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        return bool(await database.owner.fetch(sleeping))

    await wait_until(begun)

    # Less than after which it would be cut off.
    async with asyncio.timeout(4):
        await small.close()

    assert await under_way
