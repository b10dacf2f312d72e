"""A job that fails or is busy, or a slow search, does not delay other maintenance."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import TypeAlias

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.database import Row
from jobs_grpc.db.owner_pool import StatementTimedOut
from jobs_grpc.maintenance.sweeper import Sweeper
from jobs_grpc.maintenance.task import JobKey, MaintenanceTask
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held, moved_back
from tests.support.server import Server
from tests.support.waiting import TIMEOUT, wait_until

# A trigger that fails when the job "b" times out. A test sets the failure: a SQLSTATE, or "slow".
FAILURE_TRIGGER = """
    CREATE TABLE public.failure (tenant_id text PRIMARY KEY, failure text NOT NULL);
    CREATE FUNCTION public.failure() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        v_failure text := (SELECT t.failure FROM public.failure t
                           WHERE t.tenant_id = NEW.tenant_id AND NEW.job_id = 'b');
    BEGIN
        IF v_failure = 'slow' THEN
            PERFORM pg_sleep(600);
        ELSIF v_failure IS NOT NULL THEN
            RAISE EXCEPTION 'test failure' USING ERRCODE = v_failure;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER failure BEFORE UPDATE ON jobs.job_executions
        FOR EACH ROW WHEN (NEW.status = 'TIMED_OUT') EXECUTE FUNCTION public.failure();
"""


SetFailure: TypeAlias = Callable[[str | None], Awaitable[None]]


@pytest.fixture(scope="module")
async def failing_database(database: Database) -> Database:
    """The module's database, with FAILURE_TRIGGER."""
    await database.owner.execute(FAILURE_TRIGGER)
    return database


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    """A sweeper that waits for busy jobs as long as a test takes."""
    async with Sweeper(database.owner_dsn, lock_wait=4 * TIMEOUT) as sweeper:
        yield sweeper


async def create_overdue(
    database: Database, server: Server, operator: Operator, jobs: str = "abc"
) -> None:
    """Create jobs, each with one execution past its timeout; the first job's timed out first."""
    await database.add_devices(operator.tenant, ["pump"])
    for age, job_id in enumerate(jobs):
        await operator.create(job_id=job_id, target_all=True, in_progress_timeout_minutes=1)
        await server.device(operator.tenant, "pump").start(job_id)
        await database.owner.execute(
            "UPDATE jobs.job_executions SET times_out_at = now() - make_interval(mins => 60 - $3)"
            " WHERE tenant_id = $1 AND job_id = $2",
            operator.tenant,
            job_id,
            age,
        )


async def timed_out(operator: Operator) -> str:
    """Return the jobs whose execution has timed out."""
    jobs = (await operator.list()).jobs
    return "".join(sorted(job.job_id for job in jobs if job.execution_counts.timed_out))


@pytest.fixture
async def set_failure(failing_database: Database, tenant: str) -> AsyncIterator[SetFailure]:
    """A function that sets or clears the failure of the tenant's job "b"."""
    owner = failing_database.owner

    async def set_or_clear(failure: str | None) -> None:
        await owner.execute("DELETE FROM public.failure WHERE tenant_id = $1", tenant)
        if failure is not None:
            await owner.execute("INSERT INTO public.failure VALUES ($1, $2)", tenant, failure)

    yield set_or_clear
    await set_or_clear(None)


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["40P01", "40001", "57014", "XX001", "slow"])
@pytest.mark.single_node("needs a trigger")
async def test_failing_job_is_skipped_and_logged_once(
    failing_database: Database,
    server: Server,
    operator: Operator,
    set_failure: SetFailure,
    caplog: pytest.LogCaptureFixture,
    failure: str,
) -> None:
    await create_overdue(failing_database, server, operator)
    await set_failure(failure)

    # The other failures must not time out on a busy machine.
    statement_timeout = 0.5 if failure == "slow" else TIMEOUT
    async with Sweeper(failing_database.owner_dsn, statement_timeout=statement_timeout) as sweeper:
        await sweeper.run_once()
        assert await timed_out(operator) == "ac"
        await sweeper.run_once()
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert record.getMessage() == "maintenance of a job failed; the next sweeps try again"
        # Only an error that a retry does not solve is a defect, with a traceback.
        is_defect = failure == "XX001"
        assert record.levelno == (logging.ERROR if is_defect else logging.WARNING)
        assert bool(record.exc_info) == is_defect
        assert (vars(record)["tenant"], vars(record)["job"]) == (operator.tenant, "b")

        await set_failure(None)
        await sweeper.run_once()
    assert await timed_out(operator) == "abc"


@pytest.mark.slow
@pytest.mark.single_node("needs a trigger")
async def test_session_is_kept_after_a_statement_timed_out(
    failing_database: Database, server: Server, operator: Operator, set_failure: SetFailure
) -> None:
    await create_overdue(failing_database, server, operator)
    await set_failure("slow")
    separator = "&" if "?" in failing_database.owner_dsn else "?"
    dsn = f"{failing_database.owner_dsn}{separator}application_name=too-slow"
    sessions = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'too-slow'"

    async with Sweeper(dsn, statement_timeout=0.5) as sweeper:
        await sweeper.run_once()
        before = await failing_database.owner.fetchval(sessions)
        await sweeper.run_once()
        assert await failing_database.owner.fetchval(sessions) == before
        assert len(before) == 1


@pytest.mark.parametrize("failure", ["08006", "53100", "53200", "57P01", "58030", "25006"])
@pytest.mark.single_node("needs a trigger")
async def test_sweep_ends_when_the_server_is_unavailable(
    failing_database: Database,
    server: Server,
    operator: Operator,
    sweeper: Sweeper,
    set_failure: SetFailure,
    failure: str,
) -> None:
    await create_overdue(failing_database, server, operator)
    await set_failure(failure)

    with pytest.raises(asyncpg.PostgresError) as raised:
        await sweeper.run_once()

    assert raised.value.sqlstate == failure
    assert await timed_out(operator) == "a"
    await set_failure(None)
    await sweeper.run_once()
    assert await timed_out(operator) == "abc"


async def test_slow_search_does_not_stop_the_tasks_after_it(
    database: Database, operator: Operator, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def time_out(_: object) -> Sequence[Row]:
        raise StatementTimedOut("no response in 30 s")

    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")
    await operator.delete("j")
    monkeypatch.setattr(sweeper._cleanup[0], "_find", time_out)

    with pytest.raises(StatementTimedOut):
        await sweeper.run_once()

    stored = "SELECT count(*) FROM jobs.jobs WHERE tenant_id = $1"
    assert await database.owner.fetchval(stored, operator.tenant) == 0


@pytest.mark.single_node("needs a trigger")
async def test_job_that_failed_is_processed_after_others(
    failing_database: Database,
    server: Server,
    operator: Operator,
    sweeper: Sweeper,
    set_failure: SetFailure,
) -> None:
    """The job "b" was due before "c", but "c" times out while the sweeper waits for "b"."""
    await create_overdue(failing_database, server, operator, "b")
    await set_failure("XX001")
    await sweeper.run_once()
    await set_failure(None)
    await create_overdue(failing_database, server, operator, "c")

    async with job_lock_held(failing_database, operator.tenant, "b"):
        sweeping = asyncio.create_task(sweeper.run_once())
        await failing_database.wait_for_blocked_sessions(1)
        assert await timed_out(operator) == "c"
    await sweeping

    assert await timed_out(operator) == "bc"


async def test_free_job_is_processed_before_busy_ones(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await create_overdue(database, server, operator, "abcd")

    async with (
        job_lock_held(database, operator.tenant, "a"),
        job_lock_held(database, operator.tenant, "b"),
        job_lock_held(database, operator.tenant, "c"),
    ):
        sweeping = asyncio.create_task(sweeper.run_once())
        await database.wait_for_blocked_sessions(1)
        assert await timed_out(operator) == "d"
    await sweeping

    assert await timed_out(operator) == "abcd"


@pytest.mark.slow
async def test_sweep_waits_one_second_for_all_busy_jobs_together(
    database: Database, server: Server, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    time_out = Sweeper._time_out

    async def time_out_and_note_wait(
        sweeper: Sweeper, job: JobKey, rows: Sequence[Row], wait_ms: int
    ) -> bool:
        if job[0] == operator.tenant:  # Other tests can leave jobs.
            waits.append(wait_ms)
        return await time_out(sweeper, job, rows, wait_ms)

    monkeypatch.setattr(Sweeper, "_time_out", time_out_and_note_wait)
    await create_overdue(database, server, operator, "abcdefghijkl")
    holder = await asyncpg.connect(database.owner_dsn)
    try:
        async with Sweeper(database.owner_dsn) as sweeper, holder.transaction():
            await holder.execute(
                "SELECT FROM jobs.job_progress WHERE tenant_id = $1 FOR UPDATE", operator.tenant
            )
            await sweeper.run_once()
    finally:
        await holder.close()

    assert await timed_out(operator) == ""
    # The first pass does not wait. The second pass ends after a second; on a busy machine, that is
    # before it has tried all jobs.
    assert waits[:12] == [0] * 12
    assert waits[12:]
    assert set(waits[12:]) == {84}  # A twelfth of a second, rounded up.


async def test_next_sweep_starts_at_once_when_a_sweep_took_longer_than_the_interval(
    database: Database, server: Server, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An execution becomes overdue just after the search, while the sweeper waits for a job."""
    hour = 3600.0
    now = 0.0
    monkeypatch.setattr(
        "jobs_grpc.maintenance.sweeper.time", SimpleNamespace(monotonic=lambda: now)
    )
    await create_overdue(database, server, operator, "a")
    await operator.create(job_id="late", target_all=True, in_progress_timeout_minutes=1)
    await server.device(operator.tenant, "pump").start("late")

    async def late_timed_out() -> bool:
        return "late" in await timed_out(operator)

    async with Sweeper(database.owner_dsn, interval=hour, lock_wait=4 * TIMEOUT) as sweeper:
        async with job_lock_held(database, operator.tenant, "a"):
            sweeping = asyncio.create_task(sweeper.run())
            await database.wait_for_blocked_sessions(1)
            await database.make_overdue(operator.tenant, "late")
            now += hour
        try:
            await wait_until(late_timed_out)
        finally:
            sweeping.cancel()
            await asyncio.wait({sweeping})


@pytest.mark.slow
@pytest.mark.single_node("needs a trigger")
async def test_log_has_about_100_lines_when_more_jobs_fail(
    failing_database: Database, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    """The counts of all jobs are wrong, so finalizing them would make the counts negative."""
    await failing_database.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")
    for table in ("jobs", "job_progress", "job_executions"):
        await failing_database.owner.execute(
            f"INSERT INTO jobs.{table} SELECT (jsonb_populate_record(t,"
            " jsonb_build_object('job_id', 'j' || n))).*"
            f" FROM jobs.{table} t, generate_series(1, 250) n WHERE tenant_id = $1",
            operator.tenant,
        )
    queued = "UPDATE jobs.job_progress SET queued = $2 WHERE tenant_id = $1"
    finalized = "SELECT count(*) FROM jobs.jobs WHERE tenant_id = $1 AND finalized"
    await failing_database.owner.execute(queued, operator.tenant, 1)

    # With time for the second pass to try all jobs again, also on a busy machine.
    async with Sweeper(failing_database.owner_dsn, lock_wait=60) as sweeper:
        for _ in range(4):
            await sweeper.run_once()
        assert await failing_database.owner.fetchval(finalized, operator.tenant) == 0
        assert 100 <= len(caplog.records) < 110

        await failing_database.owner.execute(queued, operator.tenant, 2)

        async def all_jobs_finalized() -> bool:
            await sweeper.run_once()
            return bool(await failing_database.owner.fetchval(finalized, operator.tenant) == 251)

        # On a slow machine, one run does not have the time for all jobs.
        await wait_until(all_jobs_finalized)


async def test_free_job_is_finalized_before_a_busy_one(
    database: Database, operator: Operator, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, ["pump"])
    for job_id in "ab":
        await operator.create(job_id=job_id, target_all=True)
        await operator.cancel(job_id)
    finalized = "SELECT array_agg(job_id) FROM jobs.jobs WHERE tenant_id = $1 AND finalized"

    async with job_lock_held(database, operator.tenant, "a"):
        sweeping = asyncio.create_task(sweeper.run_once())
        await database.wait_for_blocked_sessions(1)
        assert await database.owner.fetchval(finalized, operator.tenant) == ["b"]
    await sweeping

    assert len(await database.owner.fetchval(finalized, operator.tenant)) == 2


async def test_executions_time_out_when_those_of_ended_jobs_come_first(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    """A forced cancel or a deletion has ended these executions; their rows are updated later."""
    await sweeper.run_once()
    await create_overdue(database, server, operator)
    await operator.cancel("a", force=True)
    await database.owner.execute(
        "UPDATE jobs.jobs SET deleted_at = now() WHERE tenant_id = $1 AND job_id = 'b'",
        operator.tenant,
    )
    earlier = moved_back("interval '1 hour'", "times_out_at")
    await database.owner.execute(
        f"UPDATE jobs.job_executions SET {earlier} WHERE tenant_id = $1 AND job_id IN ('a', 'b')",
        operator.tenant,
    )
    timeouts = MaintenanceTask("timed_out_executions", 1, sweeper._fetch, sweeper._time_out)

    await timeouts.run(lock_wait=0)

    stored = await database.owner.fetch(
        "SELECT job_id, status::text FROM jobs.job_executions WHERE tenant_id = $1 ORDER BY job_id",
        operator.tenant,
    )
    assert [tuple(row) for row in stored] == [
        ("a", "IN_PROGRESS"),
        ("b", "IN_PROGRESS"),
        ("c", "TIMED_OUT"),
    ]
    counts = (await operator.get("a")).execution_counts
    assert counts == pb.ExecutionCounts(rejected=1)
    await sweeper.run_once()


async def test_search_excludes_jobs_by_tenant_and_job_id(database: Database) -> None:
    """A job of another tenant is found even if both ids joined by "/" look the same."""
    sql = "SELECT * FROM jobs.jobs_to_purge($1, $2, $3)"
    transaction = database.owner.transaction()
    await transaction.start()
    try:
        await database.owner.execute(
            "INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_all,"
            " status, canceled_at, cancel_reason, deleted_at, created_at, updated_at)"
            " SELECT tenant_id, job_id, 'reboot', '{}', true, 'CANCELED', now(), 'no', now(),"
            " now(), now()"
            " FROM unnest('{a/b, b}'::text[], '{c, c/a}'::text[]) AS key (tenant_id, job_id)"
        )
        found = await database.owner.fetch(sql, 100, ["a/b"], ["c"])
    finally:
        await transaction.rollback()

    keys = [(row["tenant_id"], row["job_id"]) for row in found]
    assert ("b", "c/a") in keys
    assert ("a/b", "c") not in keys


async def test_execution_does_not_time_out_when_job_is_deleted(
    database: Database, server: Server, operator: Operator
) -> None:
    await create_overdue(database, server, operator, "a")
    await database.owner.execute(
        "UPDATE jobs.jobs SET deleted_at = now() WHERE tenant_id = $1", operator.tenant
    )

    time_out = "SELECT jobs.time_out_executions($1, 'a', '{pump}', 0)"
    assert await database.owner.fetchval(time_out, operator.tenant) == 0

    await database.owner.execute(
        "UPDATE jobs.jobs SET deleted_at = NULL WHERE tenant_id = $1", operator.tenant
    )
    assert await database.owner.fetchval(time_out, operator.tenant) == 1
