"""Adds events to jobs without changing anything else."""

import asyncpg

_ADD = """
    SELECT p.number,
           jobs.add_event($1, $2, jobs.clock_time(), 'job.updated', NULL,
                          jsonb_build_object('retried_count', p.number))
    FROM (
        SELECT event_count + 1 AS number
        FROM jobs.job_progress
        WHERE tenant_id = $1 AND job_id = $2
        FOR UPDATE
    ) p
"""


async def connect_writer(request_dsn: str, tenant: str) -> asyncpg.Connection:
    """Open a session of the request role that can add events of a tenant."""
    connection = await asyncpg.connect(request_dsn)
    await connection.execute("SELECT set_config('app.tenant_id', $1, false)", tenant)
    return connection


async def add_event(connection: asyncpg.Connection, tenant: str, job_id: str) -> int:
    """Add an event under the job lock. Return its number in the job, which is its retried_count."""
    number: int = await connection.fetchval(_ADD, tenant, job_id)
    return number
