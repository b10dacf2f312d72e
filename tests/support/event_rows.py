"""Events of jobs that exist only in the log."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from tests.support.database import Database

_QUEUE = """
    INSERT INTO jobs.event_queue
        (tenant_id, job_id, number, type, occurred_at, status, counts, user_id, details)
    VALUES ($1, $2, $3, $4, coalesce($5, jobs.clock_time()), 'IN_PROGRESS', '{1,0,0,0,0,0,0}',
            $6, $7)
"""
_NEXT_NUMBER = """
    SELECT coalesce(max(number), 0) + 1 FROM jobs.event_queue WHERE tenant_id = $1 AND job_id = $2
"""
_QUEUE_MANY = """
    INSERT INTO jobs.event_queue (tenant_id, job_id, number, type, occurred_at, status, counts)
    SELECT $1, $3 || n % $4::integer, n, 'job.paused', now(), 'IN_PROGRESS', '{0,0,1,0,0,0,0}'
    FROM generate_series(1, $2::integer) AS n
"""
_STORE = """
    INSERT INTO jobs.events
        (tenant_id, position, job_id, type, occurred_at, status, counts, details)
    SELECT $1, $2::bigint + n, $3 || n % $6::integer, $4, jobs.clock_time(), 'IN_PROGRESS',
           '[0,0,1,0,0,0,0]', $7::jsonb
    FROM generate_series(1, $5::integer) AS n
"""
_SET_HEAD = """
    INSERT INTO jobs.event_heads (tenant_id, position, event_count) VALUES ($1, $2, $3)
    ON CONFLICT (tenant_id)
    DO UPDATE SET position = $2, event_count = event_heads.event_count + $3
"""


async def queue_event(
    connection: asyncpg.Connection,
    tenant: str,
    job_id: str = "j",
    type_: str = "job.updated",
    *,
    occurred_at: datetime | None = None,
    user: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Queue an event, as add_event does. The caller serializes those of a job."""
    number = await connection.fetchval(_NEXT_NUMBER, tenant, job_id)
    text = None if details is None else json.dumps(details)
    await connection.execute(_QUEUE, tenant, job_id, number, type_, occurred_at, user, text)


async def queue_events(
    connection: asyncpg.Connection, tenant: str, count: int, *, job_id: str = "job-", jobs: int = 10
) -> None:
    """Queue events of jobs without queued events, which are named job_id + "0" and so on."""
    await connection.execute(_QUEUE_MANY, tenant, count, job_id, jobs)


async def store_events(
    database: Database,
    tenant: str,
    count: int,
    *,
    days_ago: float = 0,
    type_: str = "job.updated",
    job_id: str = "job-",
    jobs: int = 10,
    details: Mapping[str, Any] | None = None,
) -> int:
    """Add events with consecutive positions to the log; return the last position.

    Their jobs are named job_id + "0" and so on. The tenant must have no later event.
    """
    stored_at = datetime.now(UTC) - timedelta(days=days_ago)
    before = int(stored_at.timestamp() * 1_000_000)
    text = None if details is None else json.dumps(details)
    await database.owner.execute(_STORE, tenant, before, job_id, type_, count, jobs, text)
    await database.owner.execute(_SET_HEAD, tenant, before + count, count)
    return before + count
