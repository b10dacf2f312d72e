"""Who found no mutex to lock does nothing, even if the job is there a moment later."""

import asyncio

import asyncpg
import pytest

from tests.support.database import Database
from tests.support.waiting import wait_until

# A job that is over, has been for long, and is of interest to whoever comes first.
CREATE = """
    INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_all, status,
                           canceled_at, cancel_reason, deleted_at, created_at, updated_at)
    VALUES ($1, 'j', 'reboot', '{}', true, 'CANCELED', now() - interval '9 days', 'no',
            CASE WHEN $2 THEN now() END, now() - interval '9 days', now() - interval '9 days')
"""
EXECUTION = """
    INSERT INTO jobs.job_executions
        (tenant_id, job_id, device_id, status, queued_at, times_out_at, last_updated_at)
    VALUES ($1, 'j', 'pump', 'IN_PROGRESS', now(), now() - interval '1 day', now()),
           ($1, 'j', 'valve', 'QUEUED', now(), NULL, now())
"""
PROGRESS = """
    INSERT INTO jobs.job_progress (tenant_id, job_id, queued, in_progress) VALUES ($1, 'j', 1, 1)
"""
ROWS = """
    SELECT array_agg(t::text ORDER BY t::text) FROM (
        SELECT to_jsonb(j) FROM jobs.jobs j WHERE tenant_id = $1
        UNION ALL SELECT to_jsonb(e) FROM jobs.job_executions e WHERE tenant_id = $1
        UNION ALL SELECT to_jsonb(p) FROM jobs.job_progress p WHERE tenant_id = $1) AS t
"""
CALLS = {
    "time_out_executions": ("SELECT jobs.time_out_executions($1, 'j', '{pump}', 0)", 0),
    "finalize_job": ("SELECT jobs.finalize_job($1, 'j', '', 10, 0)", None),
    "apply_retention": ("SELECT jobs.apply_retention($1, 'j', 1, 0)", False),
    "purge_job": ("SELECT jobs.purge_job($1, 'j', '', 10, 0)", None),
    "delete_job": ("SELECT jobs.delete_job($1, 'j')", "JB005"),
}


async def answer(session: asyncpg.Connection, sql: str, tenant: str) -> object:
    """What a call answers, or the SQLSTATE it raises."""
    try:
        return await session.fetchval(sql, tenant)
    except asyncpg.PostgresError as e:
        return e.sqlstate


@pytest.mark.parametrize("function", CALLS)
async def test_a_job_that_appears_after_the_lock_is_left_alone(
    database: Database, tenant: str, function: str
) -> None:
    """Its creation has the table while the call goes from one statement to the next."""
    sql, nothing = CALLS[function]
    creating = await asyncpg.connect(database.owner_dsn)
    calling = await asyncpg.connect(database.owner_dsn)
    try:
        async with creating.transaction():
            await creating.execute("LOCK TABLE jobs.jobs")
            call = asyncio.create_task(answer(calling, sql, tenant))

            async def locked() -> bool:
                waiting = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted"
                pid = calling.get_server_pid()
                return call.done() or bool(await database.owner.fetchval(waiting, pid))

            await wait_until(locked)
            await creating.execute(CREATE, tenant, function == "purge_job")
            await creating.execute(EXECUTION, tenant)
            await creating.execute(PROGRESS, tenant)
            created = await creating.fetchval(ROWS, tenant)
        assert await call == nothing
    finally:
        await creating.close()
        await calling.close()
    assert await database.owner.fetchval(ROWS, tenant) == created
