"""How many entries of which index each function reads in a database with a million executions.

PostgreSQL counts them. The calls run as the request role, with custom plans where a function
has them, and with generic plans.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.store import ExecutionUpdate, Row, Store
from jobs_grpc.services.rollout_json import failure_criteria_json
from tests.support.database import store_on
from tests.support.list_jobs import list_jobs
from tests.support.postgres import Postgres, connect

pytestmark = [pytest.mark.slow, pytest.mark.single_node("EXPLAIN and index scans of one node")]

TENANT = "t"
JOBS, DEVICES = 4, 250_000
SMALL_JOBS = 20_000

# In the middle of the small jobs, which are a minute apart.
EARLIER = datetime.now(UTC) - timedelta(minutes=10_000)
HALF_AN_HOUR = timedelta(minutes=30)

_FLEET = """
    INSERT INTO device_state (tenant_id, device_id)
    SELECT $1, 'd' || lpad(n::text, 6, '0') FROM generate_series(1, $2) n
"""
_SMALL_JOBS = """
    INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_device_id,
                           target_all, created_at, updated_at)
    SELECT $1, 'small-' || n, 'reboot', '{}', 'd000001', false,
           now() - n * interval '1 minute', now()
    FROM generate_series(1, $2) n
"""
_SMALL_PROGRESS = """
    INSERT INTO jobs.job_progress (tenant_id, job_id, queued)
    SELECT tenant_id, job_id, 1 FROM jobs.jobs WHERE job_id LIKE 'small-%'
"""

_ONE_CANCELED = """
    UPDATE jobs.jobs SET status = 'CANCELED', canceled_at = now(), cancel_reason = 'r'
    WHERE job_id = 'small-10000'
"""

_ATTEMPTS = """
    INSERT INTO jobs.execution_attempts (tenant_id, job_id, device_id, execution_number, version,
                                         status, queued_at, last_updated_at)
    SELECT $1, 'j0', 'd' || lpad(n::text, 6, '0'), 1, 2, 'FAILED', now(), now()
    FROM generate_series(1, 10000) n
"""

# Every tenth device fails with the code E1, and ten devices with E2.
_FAILURES = """
    UPDATE jobs.job_executions
    SET status = 'FAILED', failure_code = CASE WHEN device_id LIKE '%0003' THEN 'E2' ELSE 'E1' END
    WHERE tenant_id = $1 AND job_id = 'j3' AND device_id LIKE '%3'
"""
_FAILURE_COUNTS = """
    INSERT INTO jobs.job_failures (tenant_id, job_id, status, failure_code, executions)
    SELECT tenant_id, job_id, status, failure_code, count(*)
    FROM jobs.job_executions WHERE failure_code IS NOT NULL GROUP BY 1, 2, 3, 4
"""

# All counts that a job can have.
_FULL_COUNTS = """
    INSERT INTO jobs.job_failures (tenant_id, job_id, status, failure_code, executions)
    SELECT $1, 'j2', 'FAILED', 'old-' || n, 0 FROM generate_series(1, 100) n
"""

# The oldest job, "staged", has a tenth of the devices in 99 stages. Half of the first stage, which
# has 500 devices, is released; 100 executions of the other half are canceled. It awaits an
# approval.
_GROUP = """
    INSERT INTO device_group_members (tenant_id, group_id, device_id)
    SELECT $1, 'tenth', device_id FROM device_state
    WHERE tenant_id = $1 AND device_id LIKE '%2'
"""
_STAGED = """
    SELECT execution_count FROM jobs.create_job(
        $1, 'staged',
        (SELECT jsonb_build_object(
            'document_type', 'x', 'target_group_id', 'tenth', 'expires_in_hours', 24,
            'rollout', jsonb_build_object('stages', jsonb_agg(jsonb_build_object(
                'display_name', '', 'percent', CASE WHEN n = 1 THEN 2 ELSE 1 END))))
         FROM generate_series(1, 99) n),
        '{}', NULL, 2000000, NULL, 24
    )
"""
_HALF_RELEASED = """
    UPDATE jobs.jobs
    SET release_end = 250, awaiting_approval = true, created_at = now() - interval '1 year'
    WHERE job_id = 'staged'
"""
_CANCELED_WHILE_HELD = """
    UPDATE jobs.job_executions SET status = 'REJECTED'
    WHERE tenant_id = $1 AND job_id = 'staged' AND rank BETWEEN 301 AND 400
"""

# For a table (relkind "r") the number of sequential scans, for an index ("i") of entries read.
_COUNTERS = """
    SELECT c.relname::text,
           CASE c.relkind WHEN 'r' THEN pg_stat_get_xact_numscans(c.oid)
                          ELSE pg_stat_get_xact_tuples_returned(c.oid) END AS count
    FROM pg_class c
    WHERE c.relnamespace = 'jobs'::regnamespace AND c.relkind IN ('r', 'i')
"""

# PostgreSQL can switch to a generic plan after five calls.
_CALLS_UNTIL_GENERIC = 8


# The most index entries that a page may read. It is more than the page has, because entries of
# rolled-back transactions stay until vacuum, such as those of the jobs that other tests cancel.
PAGE, JOBS_PAGE = 1020, 80

# list_pending_executions: a page, and next_due_at.
PENDING = 2 * JOBS + 1

# A read of one row; a function that writes reads the rows of a job several times.
READ_ROW = 8
WRITE_ROW = 8 * 20

DEVICE, WRITTEN = "d125001", "d125000"
BATCH = 100


def _list_jobs(store: Store, **values: Any) -> Awaitable[Sequence[Row]]:
    return list_jobs(store, TENANT, limit=51, **values)


def _list_job_executions(store: Store, after: str) -> Awaitable[Row]:
    return store.list_job_executions(
        TENANT, job_id="j1", status=None, after_device_id=after, limit=1001
    )


def _list_failures(store: Store, code: str, status: str | None = None) -> Awaitable[Row]:
    return store.list_job_executions(
        TENANT, job_id="j3", status=status, failure_code=code, after_device_id="d100", limit=1001
    )


def _list_device_executions(store: Store) -> Awaitable[Sequence[Row]]:
    return store.list_device_executions(
        TENANT,
        device_id=DEVICE,
        job_id=None,
        status=None,
        before_queued_at=None,
        before_job_id=None,
        limit=51,
    )


def _list_pending(store: Store, **position: Any) -> Awaitable[Sequence[Row]]:
    return store.list_pending_executions(TENANT, device_id=DEVICE, **position, limit=11)


def _update(store: Store, *updates: ExecutionUpdate) -> Awaitable[Sequence[Row]]:
    return store.update_executions(TENANT, updates, wait_ms=1000)


_REPORTS = [
    ExecutionUpdate("j1", f"d{number * 2000:06}", "SUCCEEDED", with_document=False)
    for number in range(1, BATCH + 1)
]


def _failed_reports(job_id: str) -> list[ExecutionUpdate]:
    return [
        report._replace(job_id=job_id, status="FAILED", failure_code=f"E{number}")
        for number, report in enumerate(_REPORTS)
    ]


_STAGED_COUNTS = {
    "job_stages_pkey": 99 + READ_ROW,
    "job_executions_finished_unstarted_by_rank": 100 + READ_ROW,
}

# A call and the maximum number of entries that it reads of each index. It reads no others.
CALLS: dict[str, tuple[Callable[[Store], Awaitable[object]], dict[str, int]]] = {
    "get_job": (
        lambda store: store.get_job(TENANT, job_id="j1", executions_limit=1001),
        {"jobs_pkey": READ_ROW, "job_progress_pkey": READ_ROW, "job_executions_pkey": PAGE},
    ),
    "get_job: with stages": (
        lambda store: store.get_job(TENANT, job_id="staged", executions_limit=1001),
        {
            "jobs_pkey": READ_ROW,
            "job_progress_pkey": READ_ROW,
            "job_executions_pkey": PAGE,
            # For the counts of the job, for those of each stage, and for the stages.
            "job_stages_pkey": 3 * (99 + READ_ROW),
            "job_executions_finished_unstarted_by_rank": 2 * (100 + READ_ROW),
        },
    ),
    "list_jobs: awaiting approval": (
        lambda store: _list_jobs(store, awaiting_approval=True),
        {
            "jobs_awaiting_approval": READ_ROW,
            "job_progress_pkey": READ_ROW,
            "jobs_pkey": READ_ROW,
            **_STAGED_COUNTS,
        },
    ),
    "list_job_executions: held": (
        lambda store: store.list_job_executions(
            TENANT, job_id="staged", status="HELD", after_device_id="", limit=1001
        ),
        {
            "jobs_pkey": 2 * READ_ROW,
            "job_progress_pkey": 2 * READ_ROW,
            # Also reads the executions that are not held, which are 350.
            "job_executions_pkey": PAGE + 350,
            **_STAGED_COUNTS,
        },
    ),
    "get_jobs": (
        lambda store: store.get_jobs(TENANT, job_ids=["j1", "j2"]),
        {"jobs_pkey": READ_ROW, "job_progress_pkey": READ_ROW},
    ),
    "list_jobs": (
        _list_jobs,
        {"jobs_newest_first": JOBS_PAGE, "job_progress_pkey": 102, "jobs_pkey": JOBS_PAGE},
    ),
    "list_jobs: later page": (
        lambda store: _list_jobs(store, before_created_at=EARLIER, before_job_id="x"),
        {"jobs_newest_first": JOBS_PAGE, "job_progress_pkey": 102, "jobs_pkey": JOBS_PAGE},
    ),
    "list_jobs: common status": (
        lambda store: _list_jobs(store, statuses=["IN_PROGRESS"]),
        {"jobs_newest_first": JOBS_PAGE, "job_progress_pkey": 102, "jobs_pkey": JOBS_PAGE},
    ),
    "list_jobs: time range": (
        lambda store: _list_jobs(store, created_from=EARLIER, created_until=EARLIER + HALF_AN_HOUR),
        {"jobs_newest_first": JOBS_PAGE, "job_progress_pkey": 102, "jobs_pkey": JOBS_PAGE},
    ),
    "list_jobs: later page of a time range": (
        lambda store: _list_jobs(
            store,
            created_from=EARLIER - HALF_AN_HOUR,
            created_until=EARLIER + HALF_AN_HOUR,
            before_created_at=EARLIER,
            before_job_id="x",
        ),
        {"jobs_newest_first": JOBS_PAGE, "job_progress_pkey": 102, "jobs_pkey": JOBS_PAGE},
    ),
    "list_jobs: rare status": (
        lambda store: _list_jobs(store, statuses=["CANCELED"]),
        {"jobs_pkey": READ_ROW, "jobs_newest_first": JOBS_PAGE, "job_progress_pkey": READ_ROW},
    ),
    "list_job_executions": (
        lambda store: _list_job_executions(store, ""),
        {"jobs_pkey": READ_ROW, "job_executions_pkey": PAGE},
    ),
    "list_job_executions: later page": (
        lambda store: _list_job_executions(store, DEVICE),
        {"jobs_pkey": READ_ROW, "job_executions_pkey": PAGE},
    ),
    "list_job_executions: frequent failure code": (
        lambda store: _list_failures(store, "E1"),
        {"jobs_pkey": 2 * READ_ROW, "job_executions_by_failure_code": PAGE},
    ),
    "list_job_executions: rare failure code and status": (
        lambda store: _list_failures(store, "E2", "FAILED"),
        {"jobs_pkey": 2 * READ_ROW, "job_executions_by_failure_code": 20},
    ),
    "get_failure_summary": (
        lambda store: store.get_failure_summary(
            TENANT, job_id="j3", statuses=None, failure_codes=None
        ),
        {
            "jobs_pkey": READ_ROW,
            "job_failures_pkey": READ_ROW,
            "job_executions_by_failure_code": 250,
        },
    ),
    "list_device_executions": (
        _list_device_executions,
        {
            "jobs_pkey": JOBS_PAGE,
            "job_executions_newest_first": JOBS,
            "job_executions_pkey": JOBS,
        },
    ),
    "list_pending_executions": (
        _list_pending,
        {
            "jobs_pkey": JOBS_PAGE,
            "job_executions_queue_by_priority": PENDING,
            "job_executions_pkey": JOBS,
        },
    ),
    "list_pending_executions: later page": (
        lambda store: _list_pending(
            store,
            after_status="QUEUED",
            after_queue_order=0,
            after_queued_at=EARLIER,
            after_job_id="j0",
        ),
        {
            "jobs_pkey": JOBS_PAGE,
            "job_executions_queue_by_priority": PENDING,
            "job_executions_pkey": JOBS,
        },
    ),
    "changed_pending_fingerprints": (
        lambda store: store.changed_pending_fingerprints(
            [TENANT], device_ids=[DEVICE], limits=[11], fingerprints=[None]
        ),
        {"jobs_pkey": READ_ROW, "job_executions_queue_by_priority": READ_ROW},
    ),
    "changed_job_fingerprints": (
        lambda store: store.changed_job_fingerprints([TENANT], job_ids=["j1"], fingerprints=[None]),
        {"jobs_pkey": READ_ROW, "job_progress_pkey": READ_ROW},
    ),
    "get_execution": (
        lambda store: store.get_execution(TENANT, device_id=DEVICE, job_id="j1"),
        {"jobs_pkey": READ_ROW, "job_executions_pkey": READ_ROW},
    ),
    "list_execution_attempts": (
        lambda store: store.list_execution_attempts(
            TENANT, job_id="j0", device_id="d000100", before_number=None, limit=101
        ),
        {
            "jobs_pkey": READ_ROW,
            "job_executions_pkey": READ_ROW,
            "execution_attempts_pkey": READ_ROW,
        },
    ),
    "pause_job": (
        lambda store: store.pause_job(TENANT, job_id="j1", reason="r", paused_by=None, etag=""),
        {"jobs_pkey": WRITE_ROW, "job_progress_pkey": WRITE_ROW},
    ),
    "resume_job": (
        lambda store: store.resume_job(TENANT, job_id="j1", etag=""),
        {"jobs_pkey": WRITE_ROW, "job_progress_pkey": WRITE_ROW},
    ),
    "update_job": (
        lambda store: store.update_job(
            TENANT,
            job_id="staged",
            etag="",
            fields=["failure_criteria", "in_progress_timeout_minutes", "rollout.max_in_progress"],
            in_progress_timeout_minutes=5,
            rollout="{}",
            failure_criteria=json.dumps(
                failure_criteria_json(
                    [pb.FailureCriterion(count=1, scope=pb.FailureCriterion.STAGE)]
                )
            ),
        ),
        {
            "jobs_pkey": WRITE_ROW,
            "job_progress_pkey": WRITE_ROW,
            # Once for each of the 99 stages, and for the details before and after.
            "job_stages_pkey": 10 * 99 + READ_ROW,
            "job_failures_pkey": READ_ROW,
            "job_failure_criteria_pkey": WRITE_ROW,
            "job_criterion_counts_pkey": 10 * 99,
            # For job.updated, the rules, and the details before and after.
            "job_executions_finished_unstarted_by_rank": 5 * 100 + READ_ROW,
        },
    ),
    "cancel_job": (
        lambda store: store.cancel_job(TENANT, job_id="j1", reason="r", force=False),
        {"jobs_pkey": WRITE_ROW, "job_progress_pkey": WRITE_ROW},
    ),
    "cancel_execution": (
        lambda store: store.cancel_execution(
            TENANT, job_id="j1", device_id=WRITTEN, reason="r", force=False
        ),
        {"jobs_pkey": WRITE_ROW, "job_progress_pkey": WRITE_ROW, "job_executions_pkey": WRITE_ROW},
    ),
    "update_executions: start": (
        lambda store: _update(store, ExecutionUpdate("j1", WRITTEN, None)),
        {"jobs_pkey": WRITE_ROW, "job_progress_pkey": WRITE_ROW, "job_executions_pkey": WRITE_ROW},
    ),
    "update_executions: start of the next": (
        lambda store: _update(store, ExecutionUpdate(None, WRITTEN, None, must_be_next=True)),
        {
            "jobs_pkey": WRITE_ROW,
            "job_progress_pkey": WRITE_ROW,
            "job_executions_pkey": WRITE_ROW,
            "job_executions_queue_by_priority": WRITE_ROW,
        },
    ),
    "update_executions: batch of failures with new codes": (
        lambda store: _update(store, *_failed_reports("j1")),
        {
            "jobs_pkey": WRITE_ROW + 8 * BATCH,
            "job_progress_pkey": WRITE_ROW + 8 * BATCH,
            "job_executions_pkey": WRITE_ROW + 8 * BATCH,
            "job_failures_pkey": 8 * BATCH,
        },
    ),
    "update_executions: batch of failures with more codes than are counted": (
        lambda store: _update(store, *_failed_reports("j2")),
        {
            "jobs_pkey": WRITE_ROW + 8 * BATCH,
            "job_progress_pkey": WRITE_ROW + 8 * BATCH,
            "job_executions_pkey": WRITE_ROW + 8 * BATCH,
            "job_failures_pkey": 8 * BATCH,
        },
    ),
    "update_executions: batch of reports": (
        lambda store: _update(store, *_REPORTS),
        {
            "jobs_pkey": WRITE_ROW + 8 * BATCH,
            "job_progress_pkey": WRITE_ROW + 8 * BATCH,
            "job_executions_pkey": WRITE_ROW + 8 * BATCH,
        },
    ),
}


@dataclass(frozen=True)
class Large:
    """A database with JOBS jobs for DEVICES devices each, and its owner."""

    postgres: Postgres
    name: str
    owner: asyncpg.Connection


@pytest.fixture(scope="module")
async def large(cluster: tuple[Postgres, str]) -> AsyncIterator[Large]:
    """The large database, shared by all tests of this module."""
    postgres, template = cluster
    async with postgres.database(template) as name:
        owner = await connect(postgres.dsn(name))
        await owner.execute(_FLEET, TENANT, DEVICES)
        for number in range(JOBS):
            await owner.fetch(
                "SELECT jobs.create_job($1, $2,"
                ' \'{"document_type": "x", "target_all": true}\', \'{}\', NULL, 2000000, NULL, 24)',
                TENANT,
                f"j{number}",
            )
        await owner.execute(_GROUP, TENANT)
        await owner.execute(_STAGED, TENANT)
        await owner.execute(_HALF_RELEASED)
        await owner.execute(_CANCELED_WHILE_HELD, TENANT)
        await owner.execute(_SMALL_JOBS, TENANT, SMALL_JOBS)
        await owner.execute(_SMALL_PROGRESS)
        await owner.execute(_ONE_CANCELED)
        await owner.execute(_ATTEMPTS, TENANT)
        await owner.execute(_FAILURES, TENANT)
        await owner.execute(_FAILURE_COUNTS)
        await owner.execute(_FULL_COUNTS, TENANT)
        await owner.execute("VACUUM ANALYZE")
        yield Large(postgres, name, owner)
        await owner.close()


@pytest.fixture(scope="module")
async def caller(large: Large) -> AsyncIterator[asyncpg.Connection]:
    """A session of the request role."""
    caller = await asyncpg.connect(large.postgres.dsn(large.name, large.postgres.role))
    yield caller
    await caller.close()


@pytest.fixture(scope="module")
async def planner_log(large: Large) -> AsyncIterator[asyncpg.Connection]:
    """A session of the request role that receives a log message per planned statement."""
    if not await large.owner.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        pytest.skip("only a superuser may set log_planner_stats")
    setting = f"ALTER ROLE {large.postgres.role.name} IN DATABASE {large.name}"
    await large.owner.execute(f"{setting} SET log_planner_stats = on")
    caller = await asyncpg.connect(large.postgres.dsn(large.name, large.postgres.role))
    await large.owner.execute(f"{setting} RESET log_planner_stats")
    await caller.execute("SET client_min_messages = log")
    yield caller
    await caller.close()


async def _counters(caller: asyncpg.Connection) -> dict[str, int]:
    return {row["relname"]: row["count"] for row in await caller.fetch(_COUNTERS)}


async def _reads(
    caller: asyncpg.Connection, call: Callable[[Store], Awaitable[object]]
) -> dict[str, int]:
    """Make a call and roll it back. Return sequential scans by table and entries by index."""
    store = store_on(caller)
    transaction = caller.transaction()
    await transaction.start()
    try:
        before = await _counters(caller)
        await call(store)
        after = await _counters(caller)
    finally:
        await transaction.rollback()
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


@pytest.mark.parametrize("name", CALLS)
async def test_call_reads_no_more_entries_than_expected(
    caller: asyncpg.Connection, name: str
) -> None:
    call, maximum = CALLS[name]

    # Entries of rows that other cases wrote and rolled back: the first scan marks them as dead.
    await _reads(caller, call)
    for _ in range(_CALLS_UNTIL_GENERIC):
        reads = await _reads(caller, call)

        assert reads
        assert reads.keys() <= maximum.keys(), reads
        assert all(count <= maximum[index] for index, count in reads.items()), reads


async def _plannings(caller: asyncpg.Connection, call: Callable[[Store], Awaitable[object]]) -> int:
    """Return the number of statements that a call plans."""
    messages: list[str] = []

    def listen(connection: object, message: asyncpg.PostgresLogMessage) -> None:
        messages.append(message.message)

    caller.add_log_listener(listen)
    try:
        await _reads(caller, call)
    finally:
        caller.remove_log_listener(listen)
    return messages.count("PLANNER STATISTICS")


@pytest.mark.parametrize("name", CALLS)
async def test_call_plans_nothing_when_its_plans_are_cached(
    planner_log: asyncpg.Connection, name: str
) -> None:
    call, _ = CALLS[name]
    await planner_log.execute("DISCARD PLANS")
    assert await _plannings(planner_log, call)

    for _ in range(_CALLS_UNTIL_GENERIC):
        await _reads(planner_log, call)

    # New statistics can invalidate the plans in between, but not every time.
    assert 0 in [await _plannings(planner_log, call) for _ in range(3)]
