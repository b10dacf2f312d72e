"""Plans that a session caches while the tables are small read few rows after they have grown.

PostgreSQL keeps a cached plan until the tables are analyzed, which may be much later.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from jobs_grpc.db.store import ExecutionUpdate, Store
from jobs_grpc.errors import JobsError
from tests.support.database import Database, request_session
from tests.support.list_jobs import list_jobs
from tests.support.postgres import Postgres, connect
from tests.support.rows_read import rows_read

pytestmark = [pytest.mark.slow, pytest.mark.single_node("plans that the session itself caches")]

TENANT = "t"
# PostgreSQL can switch to a generic plan after five calls.
_CALLS_UNTIL_GENERIC = 8

_NO_AUTOVACUUM = """
    ALTER TABLE jobs.jobs SET (autovacuum_enabled = off);
    ALTER TABLE jobs.job_progress SET (autovacuum_enabled = off);
    ALTER TABLE jobs.job_executions SET (autovacuum_enabled = off);
"""
# Restoring a dump builds indexes before primary keys. The planner compares them in this order.
_RESTORED = """
    ALTER TABLE jobs.jobs DROP CONSTRAINT jobs_pkey, ADD PRIMARY KEY (tenant_id, job_id);
    ALTER TABLE jobs.job_progress
        DROP CONSTRAINT job_progress_pkey, ADD PRIMARY KEY (tenant_id, job_id);
    ALTER TABLE jobs.job_executions
        DROP CONSTRAINT job_executions_pkey, ADD PRIMARY KEY (tenant_id, job_id, device_id);
"""
# Jobs $2 to $3, each for the devices d1 to d10.
_JOBS = """
    WITH job AS (
        INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_all,
                               created_by, created_at, updated_at)
        SELECT $1, 'job-' || n, 'reboot', '{}', true, 'olivia', now() - n * interval '1 minute',
               now()
        FROM generate_series($2::integer, $3::integer) n
        RETURNING *
    ), progress AS (
        INSERT INTO jobs.job_progress (tenant_id, job_id, queued) SELECT tenant_id, job_id, 10
        FROM job
    )
    INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, queued_at, last_updated_at)
    SELECT tenant_id, job_id, 'd' || d, created_at, created_at FROM job, generate_series(1, 10) d
"""


def _list_jobs(store: Store, **filters: Any) -> Awaitable[object]:
    return list_jobs(store, TENANT, limit=11, **filters)


def _create_again(store: Store) -> Awaitable[object]:
    return store.create_job(
        TENANT,
        job_id="job-1",
        request='{"document_type": "other", "target_device_id": "d1"}',
        document_params="{}",
        created_by=None,
        max_targets=1,
        max_active_jobs=None,
        default_expires_in_hours=24,
    )


def _update(store: Store, update: ExecutionUpdate) -> Awaitable[object]:
    return store.update_executions(TENANT, [update], wait_ms=1000)


# Each of these reads at most 80 rows.
CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "create_job: known job_id": _create_again,
    "get_job": lambda s: s.get_job(TENANT, job_id="job-1", executions_limit=11),
    "get_jobs": lambda s: s.get_jobs(TENANT, job_ids=["job-1"]),
    "list_jobs": _list_jobs,
    "list_jobs: status": lambda s: _list_jobs(s, statuses=["CANCELED"]),
    "list_jobs: document type": lambda s: _list_jobs(s, document_type="rare"),
    "list_jobs: creator": lambda s: _list_jobs(s, created_by="oscar"),
    "list_jobs: device": lambda s: _list_jobs(s, target_device_id="d1"),
    "list_jobs: group": lambda s: _list_jobs(s, target_group_id="pumps"),
    "list_job_executions": lambda s: s.list_job_executions(
        TENANT, job_id="job-1", status=None, after_device_id="", limit=11
    ),
    "list_pending_executions": lambda s: s.list_pending_executions(
        TENANT, device_id="d1", limit=11
    ),
    "list_device_executions": lambda s: s.list_device_executions(
        TENANT,
        device_id="d1",
        job_id=None,
        status=None,
        before_queued_at=None,
        before_job_id=None,
        limit=11,
    ),
    "get_execution": lambda s: s.get_execution(TENANT, device_id="d1", job_id="job-1"),
    "cancel_execution": lambda s: s.cancel_execution(
        TENANT, job_id="job-1", device_id="d1", reason="r", force=False
    ),
    "cancel_job": lambda s: s.cancel_job(TENANT, job_id="job-1", reason="r", force=False),
    "update_executions: start next": lambda s: _update(
        s, ExecutionUpdate(None, "d1", None, must_be_next=True)
    ),
    "update_executions: report": lambda s: _update(s, ExecutionUpdate("job-1", "d1", "FAILED")),
}


@pytest.fixture
async def growing(cluster: tuple[Postgres, str]) -> AsyncIterator[Database]:
    """A database with one job, analyzed, that is not analyzed again."""
    postgres, template = cluster
    async with postgres.database(template) as name:
        owner = await connect(postgres.dsn(name))
        await owner.execute(_NO_AUTOVACUUM)
        await owner.execute(_JOBS, TENANT, 1, 1)
        await owner.execute("ANALYZE")
        yield Database(postgres.dsn(name), postgres.dsn(name, postgres.role), owner)
        await owner.close()


async def _read(
    session: asyncpg.Connection, store: Store, call: Callable[[Store], Awaitable[object]]
) -> int:
    """Return the number of rows that a call reads, even if it fails."""

    async def in_savepoint() -> None:
        with suppress(JobsError):
            async with session.transaction():
                await call(store)

    return await rows_read(session, in_savepoint())


@pytest.mark.parametrize("restored", [False, True])
async def test_cached_plans_read_few_rows_after_the_tables_have_grown(
    growing: Database, restored: bool
) -> None:
    if restored:
        await growing.owner.execute(_RESTORED)
    async with request_session(growing) as (session, store):
        for call in CALLS.values():
            for _ in range(_CALLS_UNTIL_GENERIC):
                await _read(session, store, call)

        await growing.owner.execute(_JOBS, TENANT, 2, 5000)

        rows = {name: await _read(session, store, call) for name, call in CALLS.items()}

    assert {name: count for name, count in rows.items() if count > 80} == {}
