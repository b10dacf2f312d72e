"""A job that fails or is busy, or a slow search, does not delay other maintenance."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import TypeAlias

import asyncpg
import pytest

from jobs_grpc.db.database import Row
from jobs_grpc.db.owner_pool import StatementTimedOut
from jobs_grpc.maintenance.sweeper import Sweeper
from jobs_grpc.maintenance.task import JobKey, MaintenanceTask
from tests.support.database import Database, moved_back, rows_locked
from tests.support.waiting import TIMEOUT, read_until, wait_until
from tests.support.world import World

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
async def failure_trigger(database: Database) -> None:
    await database.owner.execute(FAILURE_TRIGGER)


async def create_overdue(world: World, jobs: str = "abc") -> None:
    """Create jobs, each with one execution past its timeout; the first job's timed out first."""
    await world.add_devices(["pump"])
    for age, job_id in enumerate(jobs):
        await world.create(job_id, in_progress_timeout_minutes=1)
        await world.device("pump").start(job_id)
        await world.execute(
            "UPDATE jobs.job_executions SET times_out_at = now() - make_interval(mins => 60 - $3)"
            " WHERE tenant_id = $1 AND job_id = $2",
            job_id,
            age,
        )


async def timed_out(world: World) -> str:
    jobs = (await world.operator.list()).jobs
    return "".join(sorted(job.job_id for job in jobs if job.execution_counts.timed_out))


@pytest.fixture
async def set_failure(failure_trigger: None, world: World) -> AsyncIterator[SetFailure]:
    """A function that sets or clears the failure of the tenant's job "b"."""

    async def set_or_clear(failure: str | None) -> None:
        await world.execute("DELETE FROM public.failure WHERE tenant_id = $1")
        if failure is not None:
            await world.execute("INSERT INTO public.failure VALUES ($1, $2)", failure)

    yield set_or_clear
    await set_or_clear(None)


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["40P01", "40001", "57014", "XX001", "slow"])
@pytest.mark.single_node("needs a trigger")
async def test_failing_job_is_skipped_and_logged_once(
    world: World, set_failure: SetFailure, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    await create_overdue(world)
    await set_failure(failure)

    # The other failures must not time out on a busy machine.
    statement_timeout = 0.5 if failure == "slow" else TIMEOUT
    async with Sweeper(world.database.owner_dsn, statement_timeout=statement_timeout) as sweeper:
        await sweeper.run_once()
        assert await timed_out(world) == "ac"
        await sweeper.run_once()
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert record.getMessage() == "maintenance of a job failed; the next sweeps try again"
        # Only an error that a retry does not solve is a defect, with a traceback.
        is_defect = failure == "XX001"
        assert record.levelno == (logging.ERROR if is_defect else logging.WARNING)
        assert bool(record.exc_info) == is_defect
        assert (vars(record)["tenant"], vars(record)["job"]) == (world.tenant, "b")

        await set_failure(None)
        await sweeper.run_once()
    assert await timed_out(world) == "abc"


@pytest.mark.slow
@pytest.mark.single_node("needs a trigger")
async def test_session_is_kept_after_a_timeout(world: World, set_failure: SetFailure) -> None:
    await create_overdue(world)
    await set_failure("slow")
    owner, owner_dsn = world.database.owner, world.database.owner_dsn
    dsn = f"{owner_dsn}{'&' if '?' in owner_dsn else '?'}application_name=too-slow"
    sessions = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'too-slow'"

    async with Sweeper(dsn, statement_timeout=0.5) as sweeper:
        await sweeper.run_once()
        before = await owner.fetchval(sessions)
        await sweeper.run_once()
        assert await owner.fetchval(sessions) == before
        assert len(before) == 1


@pytest.mark.parametrize("failure", ["08006", "53100", "57P01", "25006"])
@pytest.mark.single_node("needs a trigger")
async def test_sweep_ends_when_the_server_is_unavailable(
    world: World, sweeper: Sweeper, set_failure: SetFailure, failure: str
) -> None:
    await create_overdue(world)
    await set_failure(failure)

    with pytest.raises(asyncpg.PostgresError) as raised:
        await sweeper.run_once()

    assert raised.value.sqlstate == failure
    assert await timed_out(world) == "a"
    await set_failure(None)
    await sweeper.run_once()
    assert await timed_out(world) == "abc"


async def test_slow_search_does_not_stop_the_tasks_after_it(
    world: World, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def time_out(_: object) -> Sequence[Row]:
        raise StatementTimedOut("no response in 30 s")

    await world.add_devices(["pump"])
    await world.create()
    await world.operator.cancel("j")
    await world.operator.delete("j")
    monkeypatch.setattr(sweeper._cleanup[0], "_find", time_out)

    with pytest.raises(StatementTimedOut):
        await sweeper.run_once()

    assert await world.rows("SELECT FROM jobs.jobs WHERE tenant_id = $1") == []


@pytest.mark.single_node("needs a trigger")
async def test_failed_job_is_swept_after_later_ones(
    world: World, sweeper: Sweeper, set_failure: SetFailure
) -> None:
    """The job "b" was due before "c", but "c" times out while the sweeper waits for "b"."""
    await create_overdue(world, "b")
    await set_failure("XX001")
    await sweeper.run_once()
    await set_failure(None)
    await create_overdue(world, "c")

    async with world.lock_held("b"):
        sweeping = await world.blocked(sweeper.run_once())
        assert await timed_out(world) == "c"
    await sweeping

    assert await timed_out(world) == "bc"


async def test_free_job_is_processed_before_busy_ones(world: World, sweeper: Sweeper) -> None:
    await create_overdue(world, "abcd")

    async with world.lock_held("a"), world.lock_held("b"), world.lock_held("c"):
        sweeping = await world.blocked(sweeper.run_once())
        assert await timed_out(world) == "d"
    await sweeping

    assert await timed_out(world) == "abcd"


@pytest.mark.slow
async def test_sweep_waits_a_second_in_total(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    time_out = Sweeper._time_out

    async def time_out_and_note_wait(
        sweeper: Sweeper, job: JobKey, rows: Sequence[Row], wait_ms: int
    ) -> bool:
        if job[0] == world.tenant:  # Other tests can leave jobs.
            waits.append(wait_ms)
        return await time_out(sweeper, job, rows, wait_ms)

    monkeypatch.setattr(Sweeper, "_time_out", time_out_and_note_wait)
    await create_overdue(world, "abcdefghijkl")
    async with rows_locked(world.database, "jobs.job_progress", tenant_id=world.tenant):
        await world.sweep()

    assert await timed_out(world) == ""
    # The first pass does not wait. The second pass ends after a second; on a busy machine, that is
    # before it has tried all jobs.
    assert waits[:12] == [0] * 12
    assert waits[12:]
    assert set(waits[12:]) == {84}  # A twelfth of a second, rounded up.


async def test_late_sweep_is_followed_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An execution becomes overdue just after the search, while the sweeper waits for a job."""
    hour = 3600.0
    now = 0.0
    monkeypatch.setattr(
        "jobs_grpc.maintenance.sweeper.time", SimpleNamespace(monotonic=lambda: now)
    )
    await create_overdue(world, "a")
    await world.create("late", in_progress_timeout_minutes=1)
    await world.device("pump").start("late")

    async with Sweeper(world.database.owner_dsn, interval=hour, lock_wait=4 * TIMEOUT) as sweeper:
        async with world.lock_held("a"):
            sweeping = await world.blocked(sweeper.run())
            await world.make_overdue("late")
            now += hour
        try:
            await read_until(lambda: timed_out(world), lambda jobs: "late" in jobs)
        finally:
            sweeping.cancel()
            await asyncio.wait({sweeping})


@pytest.mark.slow
@pytest.mark.single_node("needs a trigger")
async def test_log_lists_at_most_about_100_failures_per_sweep(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The counts of all jobs are wrong, so finalizing them would make the counts negative."""
    await world.add_devices(["pump", "valve"])
    await world.create()
    await world.operator.cancel("j")
    for table in ("jobs", "job_progress", "job_executions"):
        await world.execute(
            f"INSERT INTO jobs.{table} SELECT (jsonb_populate_record(t,"
            " jsonb_build_object('job_id', 'j' || n))).*"
            f" FROM jobs.{table} t, generate_series(1, 150) n WHERE tenant_id = $1"
        )
    queued = "UPDATE jobs.job_progress SET queued = $2 WHERE tenant_id = $1"
    finalized = "SELECT count(*) FROM jobs.jobs WHERE tenant_id = $1 AND finalized"
    await world.execute(queued, 1)

    # With time for the second pass to try all jobs again, also on a busy machine.
    async with Sweeper(world.database.owner_dsn, lock_wait=60) as sweeper:
        for _ in range(3):
            await sweeper.run_once()
        assert await world.owner_value(finalized) == 0
        assert 100 <= len(caplog.records) < 110

        await world.execute(queued, 2)

        async def all_jobs_finalized() -> bool:
            await sweeper.run_once()
            return bool(await world.owner_value(finalized) == 151)

        # On a slow machine, one run does not have the time for all jobs.
        await wait_until(all_jobs_finalized)


async def test_free_job_is_finalized_before_a_busy_one(world: World, sweeper: Sweeper) -> None:
    await world.add_devices(["pump"])
    await world.create("a", "b")
    for job_id in "ab":
        await world.operator.cancel(job_id)
    finalized = "SELECT array_agg(job_id) FROM jobs.jobs WHERE tenant_id = $1 AND finalized"

    async with world.lock_held("a"):
        sweeping = await world.blocked(sweeper.run_once())
        assert await world.owner_value(finalized) == ["b"]
    await sweeping

    assert len(await world.owner_value(finalized)) == 2


async def test_executions_time_out_after_ended_jobs(world: World, sweeper: Sweeper) -> None:
    """A forced cancel or a deletion has ended these executions; their rows are updated later."""
    await sweeper.run_once()
    await create_overdue(world)
    await world.operator.cancel("a", force=True)
    await world.execute(
        "UPDATE jobs.jobs SET deleted_at = now() WHERE tenant_id = $1 AND job_id = 'b'"
    )
    earlier = moved_back("interval '1 hour'", "times_out_at")
    await world.execute(
        f"UPDATE jobs.job_executions SET {earlier} WHERE tenant_id = $1 AND job_id IN ('a', 'b')"
    )
    timeouts = MaintenanceTask("timed_out_executions", 1, sweeper._fetch, sweeper._time_out)

    await timeouts.run(lock_wait=0)

    stored = await world.rows(
        "SELECT job_id, status::text FROM jobs.job_executions WHERE tenant_id = $1"
    )
    assert dict(stored) == {"a": "IN_PROGRESS", "b": "IN_PROGRESS", "c": "TIMED_OUT"}
    assert await world.operator.counts("a") == {"rejected": 1}
    await sweeper.run_once()


async def test_search_excludes_jobs_by_tenant_and_job_id(database: Database) -> None:
    """A job of another tenant is found even if both ids joined by "/" look the same."""
    transaction = database.owner.transaction()
    await transaction.start()
    await database.owner.execute(
        "INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_all,"
        " status, canceled_at, cancel_reason, deleted_at, created_at, updated_at)"
        " SELECT tenant_id, job_id, 'reboot', '{}', true, 'CANCELED', now(), 'no', now(),"
        " now(), now()"
        " FROM unnest('{a/b, b}'::text[], '{c, c/a}'::text[]) AS key (tenant_id, job_id)"
    )
    sql = "SELECT * FROM jobs.jobs_to_purge($1, $2, $3)"
    found = await database.owner.fetch(sql, 100, ["a/b"], ["c"])
    await transaction.rollback()

    keys = [(row["tenant_id"], row["job_id"]) for row in found]
    assert ("b", "c/a") in keys
    assert ("a/b", "c") not in keys


async def test_execution_does_not_time_out_when_job_is_deleted(world: World) -> None:
    await create_overdue(world, "a")
    time_out = "SELECT jobs.time_out_executions($1, 'a', '{pump}', 0)"
    await world.execute("UPDATE jobs.jobs SET deleted_at = now() WHERE tenant_id = $1")
    assert await world.owner_value(time_out) == 0

    await world.execute("UPDATE jobs.jobs SET deleted_at = NULL WHERE tenant_id = $1")
    assert await world.owner_value(time_out) == 1
