"""Plans that were made while a tenant was small do not outlive that by more than a second."""

from jobs_grpc.config import Config
from jobs_grpc.database import Database as Pool
from tests.support import Database

# PostgreSQL may keep a plan for any arguments after five calls.
_CALLS_UNTIL_KEPT = 8

_JOBS = """
    SELECT count(*) FROM generate_series($2::integer, $3) n,
        LATERAL jobs.create_job($1, 'job-' || n, 'reboot', '{}', 'd00001', NULL, false, 24,
                                NULL, NULL, 1, NULL)
"""
# What a session has read is counted at once, and added up until it is told to everybody.
_ROWS_READ = """
    CREATE FUNCTION public.rows_read() RETURNS integer LANGUAGE sql VOLATILE AS $$
        SELECT sum(pg_stat_get_xact_tuples_returned(c.oid))
        FROM pg_class c
        WHERE c.relnamespace = 'jobs'::regnamespace AND c.relkind IN ('r', 'i')
    $$;
    CREATE FUNCTION public.rows_read_for_a_job(tenant text) RETURNS integer
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


async def test_a_tenant_that_has_grown_is_read_by_its_keys(database: Database, tenant: str) -> None:
    config = Config.from_env({"JOBS_DATABASE_URL": database.request_dsn, "JOBS_POOL_MAX_SIZE": "1"})
    for each, jobs in ((tenant, 1), ("another", 200)):
        await database.add_devices(each, 1)
        await database.owner.fetch(_JOBS, each, 1, jobs)
    await database.owner.execute("ANALYZE")
    await database.owner.execute(_ROWS_READ)
    pool = Pool(config)
    try:
        await pool.check()
        for _ in range(_CALLS_UNTIL_KEPT):
            await rows_read(pool, tenant)
        await database.owner.fetch(_JOBS, tenant, 2, 5000)

        # Else this test tests nothing.
        assert await rows_read(pool, tenant) > 5000
        await pool.check()

        assert await rows_read(pool, tenant) < 20
    finally:
        await pool.close()
