"""Functions that find no row to lock do nothing, even if the job is committed a moment later."""

import asyncio

import asyncpg
import pytest

from tests.support.database import Database
from tests.support.postgres import connected
from tests.support.waiting import wait_until

# A job that was canceled long ago, so that each of the functions would change or delete it.
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
# For each function, a call and its result if it does nothing.
CALLS = {
    "time_out_executions": ("SELECT jobs.time_out_executions($1, 'j', '{pump}', 0)", 0),
    "finalize_executions": (
        "SELECT next_device_id FROM jobs.finalize_executions($1, 'j', '', 10, 0)",
        None,
    ),
    "apply_retention": ("SELECT jobs.apply_retention($1, 'j', 1, 0)", False),
    "purge_job": ("SELECT jobs.purge_job($1, 'j', '', 10, 0)", None),
    "delete_job": ("SELECT jobs.delete_job($1, 'j')", "JB005"),
}


async def call_function(session: asyncpg.Connection, sql: str, tenant: str) -> object:
    """The result of a call, or the SQLSTATE of its error."""
    try:
        return await session.fetchval(sql, tenant)
    except asyncpg.PostgresError as e:
        return e.sqlstate


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.single_node("LOCK TABLE on one node")
async def test_function_does_nothing_when_the_job_is_committed_after_the_function_tried_to_lock_it(
    database: Database, tenant: str, function: str
) -> None:
    """The job is committed between the call's first statement and its second one."""
    sql, no_effect = CALLS[function]
    async with (
        connected(database.owner_dsn) as creating,
        connected(database.owner_dsn) as calling,
    ):
        async with creating.transaction():
            await creating.execute("LOCK TABLE jobs.jobs")
            call = asyncio.create_task(call_function(calling, sql, tenant))

            async def is_blocked_or_done() -> bool:
                waiting = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted"
                pid = calling.get_server_pid()
                return call.done() or bool(await database.owner.fetchval(waiting, pid))

            await wait_until(is_blocked_or_done)
            await creating.execute(CREATE, tenant, function == "purge_job")
            await creating.execute(EXECUTION, tenant)
            await creating.execute(PROGRESS, tenant)
            created = await creating.fetchval(ROWS, tenant)
        assert await call == no_effect
    assert await database.owner.fetchval(ROWS, tenant) == created
