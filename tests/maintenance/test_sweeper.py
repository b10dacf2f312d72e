"""The sweeper: its cost, its handling of failures, and several sweepers at once."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import asyncpg
import pytest

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev import embedded_postgres
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.database import Database, new_database
from tests.support.postgres import Postgres, new_data_dir
from tests.support.server import starting_server
from tests.support.waiting import TIMEOUT, wait_until, wait_until_equal
from tests.support.world import World

# Each search of a sweep with its arguments, and the indexes that it uses.
SEARCHES: dict[str, tuple[list[object], set[str]]] = {
    "timed_out_executions": ([1000, [], []], {"job_executions_by_times_out_at"}),
    "stages_due": ([100, [], []], {"jobs_by_stage_due_at"}),
    "stopped_rollouts": ([10_000], {"jobs_waiting_by_pause_cause", "jobs_tripped_by_canceled_at"}),
    "jobs_to_finalize": ([100, [], []], {"jobs_to_finalize"}),
    "jobs_past_retention": ([100, [], [], 30], {"jobs_finished_by_updated_at"}),
    "jobs_to_purge": ([100, [], []], {"jobs_by_deleted_at"}),
    "count_scheduled_jobs": ([10_000], {"jobs_of_all_tenants_by_start_at"}),
    "count_retrying_executions": ([10_000], {"job_progress_by_retrying"}),
}

# 4,000 jobs that need no maintenance: in progress with executions IN_PROGRESS; completed;
# canceled and finalized; expired with executions IN_PROGRESS, and finalized.
NOTHING_DUE = """
    WITH job AS (
        INSERT INTO jobs.jobs
            (tenant_id, job_id, document_type, document_params, target_all, status, expires_at,
             completed_at, canceled_at, cancel_reason, finalized, created_at, updated_at)
        SELECT $1 || n % 50, 'j' || n, 'reboot', '{}', true,
               (ARRAY['IN_PROGRESS', 'COMPLETED', 'CANCELED', 'IN_PROGRESS'])[kind]
                   ::jobs.job_status,
               now() + CASE kind WHEN 4 THEN interval '-1 hour' ELSE interval '1 hour' END,
               CASE kind WHEN 2 THEN now() END, CASE kind WHEN 3 THEN now() END,
               CASE kind WHEN 3 THEN 'no' END, kind > 1, now(), now()
        FROM generate_series(1, 4000) n, LATERAL (SELECT 1 + n % 4 AS kind) AS k
        RETURNING tenant_id, job_id, status
    )
    INSERT INTO jobs.job_executions
        (tenant_id, job_id, device_id, status, queued_at, times_out_at, last_updated_at)
    SELECT tenant_id, job_id, 'd' || d,
           CASE status WHEN 'IN_PROGRESS' THEN 'IN_PROGRESS' ELSE 'SUCCEEDED' END
               ::jobs.execution_status,
           now(), CASE status WHEN 'IN_PROGRESS' THEN now() + interval '1 hour' END, now()
    FROM job, generate_series(1, 5) d
"""


@asynccontextmanager
async def sweepers(database: Database, count: int) -> AsyncIterator[list[Sweeper]]:
    """Open several sweepers, as several replicas do."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Sweeper(database.owner_dsn, lock_wait=4 * TIMEOUT))
            for _ in range(count)
        ]


@asynccontextmanager
async def long_lock_timeout(database: Database) -> AsyncIterator[None]:
    """Replace the lock_timeout of one second in SQL functions, which is short on a busy machine."""
    functions = [
        row["definition"]
        for row in await database.owner.fetch(
            "SELECT pg_get_functiondef(oid) AS definition FROM pg_proc"
            " WHERE pronamespace = 'jobs'::regnamespace"
            " AND proconfig::text LIKE '%lock_timeout=1s%'"
        )
    ]
    assert functions
    try:
        for definition in functions:
            changed = re.sub("(lock_timeout TO) '1s'", rf"\1 '{TIMEOUT}s'", definition)
            assert changed != definition
            await database.owner.execute(changed)
        yield
    finally:
        for definition in functions:
            await database.owner.execute(definition)


@pytest.fixture(scope="module")
async def idle(cluster: tuple[Postgres, str]) -> AsyncIterator[asyncpg.Connection]:
    """A session in a separate database with jobs that need no maintenance, analyzed."""
    async with new_database(*cluster) as database:
        await database.owner.execute(NOTHING_DUE, "tenant-")
        await database.owner.execute("ANALYZE jobs.jobs, jobs.job_executions")
        yield database.owner


async def _entries_read(session: asyncpg.Connection) -> dict[str, tuple[int, int]]:
    """Return the scans of each table and index, and the entries read, that the session counted."""
    rows = await session.fetch(
        "SELECT relname::text, pg_stat_get_xact_numscans(oid) AS scans,"
        " pg_stat_get_xact_tuples_returned(oid) AS entries"
        " FROM pg_class WHERE relnamespace = 'jobs'::regnamespace AND relkind IN ('r', 'i')"
    )
    return {row["relname"]: (row["scans"], row["entries"]) for row in rows}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.single_node("index scans that the session itself counts")
async def test_idle_search_is_one_index_probe(idle: asyncpg.Connection, name: str) -> None:
    args, indexes = SEARCHES[name]
    parameters = ", ".join(f"${n}" for n in range(1, len(args) + 1))
    sql = f"SELECT * FROM jobs.{name}({parameters})"
    # Without the pages that the first calls of a session read to plan.
    for _ in range(2):
        await idle.fetch(sql, *args)

    # In one transaction, because a session reports and resets its counts between transactions.
    async with idle.transaction():
        before = await _entries_read(idle)
        plan = await idle.fetch(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {sql}", *args)
        after = await _entries_read(idle)

    assert {name for name in after if after[name] != before[name]} == indexes
    assert all(after[index][1] == before[index][1] for index in indexes)
    text = "\n".join(row[0] for row in plan)
    pages = re.search(r"shared hit=(\d+)", text)
    assert pages is not None
    assert int(pages[1]) <= 4, text


@pytest.mark.single_node("index scans that the session itself counts")
async def test_sweep_is_one_index_probe_per_search_when_nothing_is_due(
    cluster: tuple[Postgres, str], idle: asyncpg.Connection
) -> None:
    """The database reports the counts after the sweeper's sessions have ended."""
    dsn = cluster[0].dsn(await idle.fetchval("SELECT current_database()"))
    await idle.execute("SELECT pg_stat_force_next_flush()")
    before = await _scans(idle)

    async with Sweeper(dsn, retention_days=30) as sweeper:
        await sweeper.run_once()

    async def counts_reported() -> bool:
        return await _scans(idle) != before and await idle.fetchval(
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()"
        )

    await wait_until(counts_reported)
    after = await _scans(idle)
    scans = {name: count - before[name] for name, count in after.items() if count != before[name]}
    # The searches of events are of tenants.
    events = {"event_queue_pkey", "event_heads_pkey"}
    assert scans == dict.fromkeys(events.union(*(names for _, names in SEARCHES.values())), 1)


async def test_other_jobs_are_finalized_when_one_fails(
    world: World, sweeper: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    """The counts of "b" are wrong: finalizing it would make them negative."""
    set_queued = "UPDATE jobs.job_progress SET queued = $2 WHERE tenant_id = $1 AND job_id = 'b'"
    await _create_canceled(world, "abc", devices=2)
    await world.execute(set_queued, 1)

    await sweeper.run_once()
    await sweeper.run_once()

    assert await _stored(world) == {"a": "REJECTED", "b": "QUEUED", "c": "REJECTED"}
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == "maintenance of a job failed; the next sweeps try again"
    assert vars(record)["job"] == "b"
    assert record.exc_info

    await world.execute(set_queued, 2)
    await sweeper.run_once()

    assert (await _stored(world))["b"] == "REJECTED"


async def test_executions_of_a_failing_job_block_no_others(world: World, sweeper: Sweeper) -> None:
    """More than a batch of executions of "b" is due before the execution of "a".

    The counts of "b" are too small, so timing out its executions fails.
    """
    await world.add_devices(1500)
    await world.create("b")
    await world.create("a", target_device_id="d00001")
    await world.execute(
        "UPDATE jobs.job_executions SET status = 'IN_PROGRESS', times_out_at = now()"
        " - CASE WHEN job_id = 'b' THEN interval '2 minutes' ELSE interval '1 minute' END"
        " WHERE tenant_id = $1"
    )
    set_in_progress = (
        "UPDATE jobs.job_progress SET queued = 0, in_progress = $2"
        " WHERE tenant_id = $1 AND job_id = ANY ($3)"
    )
    await world.execute(set_in_progress, 1, ["a", "b"])

    await sweeper.run_once()

    assert await world.operator.counts("a") == {"timed_out": 1}
    await world.execute(set_in_progress, 1500, ["b"])
    await sweeper.run_once()
    assert await world.operator.counts("b") == {"timed_out": 1500}


async def test_busy_job_is_skipped_silently(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await _create_canceled(world, "ab")

    async with world.lock_held("a"):
        await world.sweep()
        assert await _stored(world) == {"a": "QUEUED", "b": "REJECTED"}

    await world.sweep()
    assert await _stored(world) == {"a": "REJECTED", "b": "REJECTED"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_two_concurrent_sweepers_time_out_an_execution_once(world: World) -> None:
    """Both have found the execution before the first of them gets the job lock."""
    await world.add_devices(["queued", "running"])
    await world.create(in_progress_timeout_minutes=1)
    running = world.device("running")
    version = (await running.start("j")).version
    await world.make_overdue()
    await world.expire()

    async with long_lock_timeout(world.database), sweepers(world.database, 2) as replicas:
        async with world.lock_held():
            runs = [asyncio.create_task(sweeper.run_once()) for sweeper in replicas]
            await world.database.wait_for_blocked_sessions(2)
        for run in runs:
            await run

    assert await world.operator.status() == "COMPLETED"
    assert await world.operator.counts() == {"timed_out": 2}
    assert (await running.get("j")).version == version + 1
    assert await world.owner_value(
        "SELECT timed_out = 2 AND queued = 0 AND in_progress = 0 FROM jobs.job_progress"
        " WHERE tenant_id = $1"
    )


async def test_concurrent_sweepers_keep_the_counts_correct(world: World) -> None:
    await _create_canceled(world, "abcd", devices=1500)
    await world.execute(
        "UPDATE jobs.jobs SET deleted_at = now() WHERE tenant_id = $1 AND job_id IN ('c', 'd')"
    )

    async with sweepers(world.database, 3) as replicas:
        await asyncio.gather(*(sweeper.run_once() for sweeper in replicas))

    assert await _stored(world) == {"a": "REJECTED", "b": "REJECTED"}
    for job_id in "ab":
        assert await world.operator.counts(job_id) == {"rejected": 1500}


@pytest.mark.slow
async def test_sweeper_continues_after_a_database_outage(caplog: pytest.LogCaptureFixture) -> None:
    """The sweeper starts without a database, and later the database stops again."""
    caplog.set_level(logging.INFO, "jobs_grpc.maintenance.sweeper")
    with new_data_dir() as data_dir:
        with embedded_postgres.running(data_dir, "fsync=off") as cluster:
            owner_dsn = cluster.dsn("postgres")
            await migrate(owner_dsn, RequestRole())
        async with Sweeper(owner_dsn, interval=0.01, outage_grace=0) as sweeper:
            sweeping = asyncio.create_task(sweeper.run())
            for _ in range(2):
                await wait_until(partial(_logged_by_both_loops, caplog, "failed; retrying"))
                with embedded_postgres.running(data_dir, "fsync=off"):
                    await wait_until(partial(_logged_by_both_loops, caplog, "succeeded again"))
                    caplog.clear()
            sweeping.cancel()
            await asyncio.wait({sweeping}, timeout=TIMEOUT)
            assert sweeping.cancelled()


@pytest.mark.parametrize(
    ("has_login", "problem", "lines"),
    [
        (True, "JOBS_OWNER_DATABASE_URL is subject to row-level security", 6),
        (False, "JOBS_OWNER_DATABASE_URL is not set", 1),
    ],
)
async def test_log_names_the_setting_when_no_login_of_the_owner_is_set(
    database: Database,
    caplog: pytest.LogCaptureFixture,
    *,
    has_login: bool,
    problem: str,
    lines: int,
) -> None:
    """Each loop logs a login that can't be used. A login that is not set is logged once."""
    variables = {"JOBS_OWNER_DATABASE_URL": database.request_dsn} if has_login else {}
    async with starting_server(database.request_dsn, **variables):
        await wait_until(lambda: _logged(caplog, problem, at_least=lines))

    assert sum(problem in record.getMessage() for record in caplog.records) == lines


async def test_calls_succeed_when_the_sweeper_has_failed(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here, the sweeper can't create its pool."""

    async def no_pool(*args: object, **kwargs: object) -> None:
        raise ValueError("no\npool")

    text = "maintenance has stopped"
    monkeypatch.setattr(Sweeper, "__aenter__", no_pool)
    async with world.with_background_work() as broken:
        await wait_until(lambda: _logged(caplog, text, at_least=1))
        assert not (await broken.operator.list()).jobs

    (record,) = [record for record in caplog.records if text in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert "ValueError('no\\npool')" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert not record.exc_info


async def test_stop_during_a_sweep_leaves_no_session(world: World) -> None:
    """The sweeper waits for a busy job when the server stops."""
    await _create_canceled(world, "j")
    owner_dsn = world.database.owner_dsn
    dsn = f"{owner_dsn}{'&' if '?' in owner_dsn else '?'}application_name=interrupted-sweep"
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'interrupted-sweep'"
    async with world.lock_held():
        async with starting_server(world.database.request_dsn, JOBS_OWNER_DATABASE_URL=dsn):
            await world.database.wait_for_blocked_sessions(1)
        await wait_until_equal(lambda: world.database.owner.fetchval(sessions), 0)
    assert (await _stored(world)) == {"j": "QUEUED"}


@pytest.mark.slow
async def test_cancel_stops_the_sweeper_when_a_connection_is_refused_meanwhile(
    sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = asyncio.Event()

    async def refused(*args: object) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionRefusedError from None

    monkeypatch.setattr(Sweeper, "run_cleanup", refused)
    sweeping = asyncio.create_task(sweeper.run())
    await started.wait()

    sweeping.cancel()
    await asyncio.wait({sweeping}, timeout=10)

    assert sweeping.cancelled()


async def _logged_by_both_loops(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    loops = ("timeouts", "cleanup")
    assert not any(record.exc_info for record in caplog.records)
    return all([await _logged(caplog, f"({loop}) {text}", at_least=1) for loop in loops])


async def _logged(caplog: pytest.LogCaptureFixture, text: str, *, at_least: int) -> bool:
    return sum(text in record.getMessage() for record in caplog.records) >= at_least


async def _scans(session: asyncpg.Connection) -> dict[str, int]:
    """Return the number of scans of each index, and of sequential scans of each table."""
    rows = await session.fetch(
        "SELECT indexrelname AS name, idx_scan AS scans FROM pg_stat_user_indexes"
        " WHERE schemaname = 'jobs'"
        " UNION ALL SELECT relname, seq_scan FROM pg_stat_user_tables WHERE schemaname = 'jobs'"
    )
    return {row["name"]: row["scans"] for row in rows}


async def _create_canceled(world: World, jobs: str, devices: int = 1) -> None:
    """Create jobs with names of one letter, and cancel them."""
    await world.add_devices(devices)
    for job_id in jobs:
        await world.create(job_id)
        await world.operator.cancel(job_id)


async def _stored(world: World) -> dict[str, str]:
    """Return the stored status of each job's executions, which all have the same one."""
    rows = await world.rows(
        "SELECT DISTINCT job_id, status::text FROM jobs.job_executions WHERE tenant_id = $1"
    )
    assert len(rows) == len(dict(rows))
    return dict(rows)
