"""A job that fails, or is busy, is that job's matter: the others are swept as if it were not."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db import schema
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.server import Server
from tests.support.waiting import TIMEOUT, wait_until

# What the database says when it is asked to time out the job "b", for which a test sets the
# trouble: a SQLSTATE, or "slow".
TROUBLE = """
    CREATE TABLE public.trouble (tenant_id text PRIMARY KEY, trouble text NOT NULL);
    CREATE FUNCTION public.trouble() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        v_trouble text := (SELECT t.trouble FROM public.trouble t
                           WHERE t.tenant_id = NEW.tenant_id AND NEW.job_id = 'b');
    BEGIN
        IF v_trouble = 'slow' THEN
            PERFORM pg_sleep(600);
        ELSIF v_trouble IS NOT NULL THEN
            RAISE EXCEPTION 'trouble' USING ERRCODE = v_trouble;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER trouble BEFORE UPDATE ON jobs.job_executions
        FOR EACH ROW WHEN (NEW.status = 'TIMED_OUT') EXECUTE FUNCTION public.trouble();
"""


@pytest.fixture(scope="module")
async def troubled(database: Database) -> Database:
    """The module's database, with a trigger that makes trouble."""
    await database.owner.execute(TROUBLE)
    return database


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    """A sweeper that waits as long as a test does for a job that is busy."""
    async with Sweeper(database.owner_dsn, lock_wait=4 * TIMEOUT) as sweeper:
        yield sweeper


async def overdue(
    database: Database, server: Server, operator: Operator, jobs: str = "abc"
) -> None:
    """One device that is past its deadline in each of the jobs; the first for the longest."""
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
    """The jobs of which the one execution has timed out."""
    jobs = (await operator.list()).jobs
    return "".join(sorted(job.job_id for job in jobs if job.execution_counts.timed_out))


async def make_trouble(database: Database, operator: Operator, trouble: str | None) -> None:
    """Set or end the trouble with the tenant's job "b"."""
    await database.owner.execute("DELETE FROM public.trouble WHERE tenant_id = $1", operator.tenant)
    if trouble is not None:
        await database.owner.execute(
            "INSERT INTO public.trouble VALUES ($1, $2)", operator.tenant, trouble
        )


@pytest.mark.parametrize("trouble", ["40P01", "40001", "57014", "XX001", "slow"])
async def test_what_fails_for_one_job_is_passed_over_and_told_once(
    troubled: Database,
    server: Server,
    operator: Operator,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    await overdue(troubled, server, operator)
    await make_trouble(troubled, operator, trouble)

    async with Sweeper(troubled.owner_dsn, statement_timeout=0.5) as sweeper:
        await sweeper.run_once()
        assert await timed_out(operator) == "ac"
        await sweeper.run_once()
        (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert (
            record.getMessage() == "skipping job: maintenance failed; it is retried in every sweep"
        )
        assert (vars(record)["tenant"], vars(record)["job"]) == (operator.tenant, "b")

        await make_trouble(troubled, operator, None)
        await sweeper.run_once()
    assert await timed_out(operator) == "abc"


async def test_a_statement_that_took_too_long_does_not_cost_the_session(
    troubled: Database, server: Server, operator: Operator
) -> None:
    await overdue(troubled, server, operator)
    await make_trouble(troubled, operator, "slow")
    separator = "&" if "?" in troubled.owner_dsn else "?"
    dsn = f"{troubled.owner_dsn}{separator}application_name=too-slow"
    sessions = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'too-slow'"

    async with Sweeper(dsn, statement_timeout=0.5) as sweeper:
        await sweeper.run_once()
        before = await troubled.owner.fetchval(sessions)
        await sweeper.run_once()
        assert await troubled.owner.fetchval(sessions) == before
        assert len(before) == 1
    await make_trouble(troubled, operator, None)


@pytest.mark.parametrize("trouble", ["08006", "53200", "57P01", "58030", "25006"])
async def test_what_speaks_of_the_server_ends_the_tick(
    troubled: Database, server: Server, operator: Operator, sweeper: Sweeper, trouble: str
) -> None:
    await overdue(troubled, server, operator)
    await make_trouble(troubled, operator, trouble)

    with pytest.raises(asyncpg.PostgresError) as raised:
        await sweeper.run_once()

    assert raised.value.sqlstate == trouble
    assert await timed_out(operator) == "a"
    await make_trouble(troubled, operator, None)
    await sweeper.run_once()
    assert await timed_out(operator) == "abc"


async def test_a_job_that_failed_comes_after_those_that_did_not(
    troubled: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    """It is due for longer than "c", which is done while it has still to be waited for."""
    await overdue(troubled, server, operator, "b")
    await make_trouble(troubled, operator, "XX001")
    await sweeper.run_once()
    await make_trouble(troubled, operator, None)
    await overdue(troubled, server, operator, "c")

    async with job_lock_held(troubled, operator.tenant, "b"):
        sweeping = asyncio.create_task(sweeper.run_once())
        await troubled.wait_for_blocked_sessions(1)
        assert await timed_out(operator) == "c"
    await sweeping

    assert await timed_out(operator) == "bc"


async def test_jobs_that_are_free_do_not_wait_for_those_that_are_busy(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await overdue(database, server, operator, "abcd")

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


async def test_jobs_that_stay_busy_are_waited_for_a_second_altogether(
    database: Database, server: Server, operator: Operator
) -> None:
    jobs = "abcdefghijkl"
    await overdue(database, server, operator, jobs)
    holder = await asyncpg.connect(database.owner_dsn)
    try:
        async with Sweeper(database.owner_dsn) as sweeper, holder.transaction():
            await holder.execute(
                "SELECT FROM jobs.job_progress WHERE tenant_id = $1 FOR UPDATE", operator.tenant
            )
            start = time.monotonic()
            await sweeper.run_once()
            elapsed = time.monotonic() - start
    finally:
        await holder.close()

    assert await timed_out(operator) == ""
    assert 0.5 < elapsed < 4  # A second, and some for a busy machine.


async def test_a_deadline_is_kept_although_a_tick_waits_for_others(
    database: Database, server: Server, operator: Operator
) -> None:
    """It comes when the tick has just looked, and is to wait for busy jobs for a second."""
    await overdue(database, server, operator, "abcde")
    holder = await asyncpg.connect(database.owner_dsn)
    try:
        async with Sweeper(database.owner_dsn) as sweeper, holder.transaction():
            await holder.execute(
                "SELECT FROM jobs.job_progress WHERE tenant_id = $1 FOR UPDATE", operator.tenant
            )
            await operator.create(job_id="late", target_all=True, in_progress_timeout_minutes=1)
            await server.device(operator.tenant, "pump").start("late")
            following = asyncio.create_task(sweeper.run())
            await database.wait_for_blocked_sessions(1)
            times_out_at = await database.owner.fetchval(
                "UPDATE jobs.job_executions SET times_out_at = clock_timestamp()"
                " WHERE tenant_id = $1 AND job_id = 'late' RETURNING times_out_at",
                operator.tenant,
            )

            async def over() -> bool:
                return await timed_out(operator) == "late"

            await wait_until(over)
            following.cancel()
            await asyncio.wait({following})
    finally:
        await holder.close()

    (execution,) = (await operator.get("late")).executions
    late = execution.last_updated_at.ToDatetime(UTC) - times_out_at
    assert late.total_seconds() < 1.8


async def test_if_most_jobs_fail_the_log_tells_of_some(
    troubled: Database, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not the jobs' fault. Their counts are wrong, so nothing can be taken off them."""
    await troubled.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")
    for table in ("jobs", "job_progress", "job_executions"):
        await troubled.owner.execute(
            f"INSERT INTO jobs.{table} SELECT (jsonb_populate_record(t,"
            " jsonb_build_object('job_id', 'j' || n))).*"
            f" FROM jobs.{table} t, generate_series(1, 250) n WHERE tenant_id = $1",
            operator.tenant,
        )
    queued = "UPDATE jobs.job_progress SET queued = $2 WHERE tenant_id = $1"
    finalized = "SELECT count(*) FROM jobs.jobs WHERE tenant_id = $1 AND finalized"
    await troubled.owner.execute(queued, operator.tenant, 1)

    async with Sweeper(troubled.owner_dsn) as sweeper:
        for _ in range(4):
            await sweeper.run_once()
        assert await troubled.owner.fetchval(finalized, operator.tenant) == 0
        assert 100 <= len(caplog.records) < 110

        await troubled.owner.execute(queued, operator.tenant, 2)
        await sweeper.run_once()
    assert await troubled.owner.fetchval(finalized, operator.tenant) == 251


async def test_a_settlement_does_not_wait_for_a_job_that_is_busy(
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


async def test_deadlines_of_jobs_that_are_gone_take_no_ones_place(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    """A forced cancel ends what runs, and so does a deletion; their rows are written later."""
    await sweeper.run_once()
    await overdue(database, server, operator)
    await operator.cancel("a", force=True)
    await database.owner.execute(
        "UPDATE jobs.jobs SET deleted_at = now() WHERE tenant_id = $1 AND job_id = 'b'",
        operator.tenant,
    )

    due = await database.owner.fetch(
        schema.read_sql("maintenance/timed_out_executions.sql"), 1, [], []
    )

    assert [(row["tenant_id"], row["job_id"]) for row in due] == [(operator.tenant, "c")]
    counts = (await operator.get("a")).execution_counts
    assert counts == pb.ExecutionCounts(rejected=1)
    await sweeper.run_once()


async def test_a_job_that_was_deleted_meanwhile_has_no_deadlines(
    database: Database, server: Server, operator: Operator
) -> None:
    await overdue(database, server, operator, "a")
    await database.owner.execute(
        "UPDATE jobs.jobs SET deleted_at = now() WHERE tenant_id = $1", operator.tenant
    )

    time_out = "SELECT jobs.time_out_executions($1, 'a', '{pump}', 0)"
    assert await database.owner.fetchval(time_out, operator.tenant) == 0

    await database.owner.execute(
        "UPDATE jobs.jobs SET deleted_at = NULL WHERE tenant_id = $1", operator.tenant
    )
    assert await database.owner.fetchval(time_out, operator.tenant) == 1
