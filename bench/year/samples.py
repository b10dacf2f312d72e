"""The rows that calls read, and the work that maintenance has left."""

from collections.abc import Awaitable, Callable, Mapping

import asyncpg

from jobs_grpc.db.store import ExecutionUpdate, Store
from tests.support.database import Database, request_session
from tests.support.list_jobs import list_jobs
from tests.support.rows_read import rows_read

# The searches of maintenance, which return nothing when everything is done.
_SEARCHES = {
    "stages_due": "SELECT * FROM jobs.stages_due(100, '{}', '{}')",
    "timed_out_executions": "SELECT * FROM jobs.timed_out_executions(1000, '{}', '{}')",
    # A note is deleted when its devices have joined, or when a scan is due instead.
    "tenants_with_device_changes": "SELECT * FROM jobs.tenants_with_device_changes(1000, '')",
    "scans_due": "SELECT * FROM jobs.scans_due(100, '{}', '{}')",
    "jobs_to_finalize": "SELECT * FROM jobs.jobs_to_finalize(100, '{}', '{}')",
    "jobs_past_retention": "SELECT * FROM jobs.jobs_past_retention(100, '{}', '{}', 21)",
    "jobs_to_purge": "SELECT * FROM jobs.jobs_to_purge(100, '{}', '{}')",
}
_URGENT = ("stages_due", "timed_out_executions", "tenants_with_device_changes", "scans_due")
"""The searches for work that the next step depends on."""
_METRICS = {"stopped_rollouts": "SELECT * FROM jobs.stopped_rollouts(10000)"}
_EVENTS_INDEXES = """
    SELECT i.indexrelid::regclass::text, s.leaf_pages, s.avg_leaf_density
    FROM pg_index i CROSS JOIN LATERAL public.pgstatindex(i.indexrelid) s
    WHERE i.indrelid = 'jobs.events'::regclass
    ORDER BY 1
"""

Read = Callable[[Store, str, str, str], Awaitable[object]]
"""Makes the request of a call from a tenant, a daily job and a device."""

_READS: Mapping[str, Read] = {
    "StartNextExecution": lambda s, t, j, d: s.update_executions(
        t, [ExecutionUpdate(None, d, None, must_be_next=True)], wait_ms=1000
    ),
    "ListPendingExecutions": lambda s, t, j, d: s.list_pending_executions(t, device_id=d, limit=11),
    "ListDeviceExecutions": lambda s, t, j, d: s.list_device_executions(
        t,
        device_id=d,
        job_id=None,
        status=None,
        before_queued_at=None,
        before_job_id=None,
        limit=11,
    ),
    "GetJob": lambda s, t, j, d: s.get_job(t, job_id=j, executions_limit=11),
    "ListJobs": lambda s, t, j, d: list_jobs(s, t, limit=51),
    "ListJobExecutions": lambda s, t, j, d: s.list_job_executions(
        t, job_id=j, status=None, after_device_id="", limit=101
    ),
    "ListEvents": lambda s, t, j, d: s.list_events(
        t, after_position=0, from_position=None, types=None, job_id=None, limit=21
    ),
    "ListJobEvents": lambda s, t, j, d: s.list_job_events(
        t, job_id=j, newest_first=False, last_position=None, limit=101, types=None
    ),
}


async def rows_of_calls(
    database: Database, tenant: str, job_id: str, device: str
) -> dict[str, int]:
    """Return the rows that each call reads, by the name of the figure.

    Calls run as the request role; searches and metrics, as the owner.
    """
    rows = {}
    async with request_session(database) as (connection, store):
        for name, read in _READS.items():
            rows[name] = await rows_read(connection, read(store, tenant, job_id, device))
    for name, search in (_SEARCHES | _METRICS).items():
        rows[name] = await rows_read(database.owner, database.owner.fetch(search))
    return {f"rows that {name} reads": read for name, read in rows.items()}


async def events_indexes(owner: asyncpg.Connection) -> str:
    """Return how many leaf pages the indexes of `events` have, and how full these are."""
    await owner.execute("CREATE EXTENSION IF NOT EXISTS pgstattuple SCHEMA public")
    rows = await owner.fetch(_EVENTS_INDEXES)
    return "; ".join("{}: {} leaf pages, {:.0f} % full".format(*row) for row in rows)


async def is_maintained(owner: asyncpg.Connection, *, only_urgent: bool) -> bool:
    """Return whether maintenance has nothing to do, or with `only_urgent`, nothing urgent."""
    for name in _URGENT if only_urgent else _SEARCHES:
        if await owner.fetchrow(_SEARCHES[name]):
            return False
    return only_urgent or not await owner.fetchval("SELECT EXISTS (SELECT FROM jobs.event_queue)")
