"""The sweeper times out executions that are IN_PROGRESS for too long."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from datetime import UTC

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.store import ExecutionUpdate
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held, request_session
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until

TIMEOUT_JOB = {"target_all": True, "in_progress_timeout_minutes": 30}


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    """A sweeper of the module's database that waits for busy jobs as long as a test takes."""
    async with Sweeper(database.owner_dsn, lock_wait=4 * TIMEOUT) as sweeper:
        yield sweeper


@pytest.fixture
async def device(database: Database, server: Server, operator: Operator) -> Device:
    """One of two devices; its execution of the job "j" is IN_PROGRESS past its timeout."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", **TIMEOUT_JOB)
    device = server.device(operator.tenant, "pump")
    await device.start("j", status_details={"percent": 10})
    await database.make_overdue(operator.tenant, "j")
    return device


async def test_execution_times_out_when_its_timeout_has_passed(
    device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    before = await device.get("j")

    await sweeper.run_once()

    execution = await device.get("j")
    assert execution.status == pb.JobExecution.TIMED_OUT
    assert execution.status_details == {"reason": "in progress for too long"}
    assert execution.started_at == before.started_at
    assert execution.version == before.version + 1
    assert execution.last_updated_at.ToDatetime() > before.last_updated_at.ToDatetime()
    assert not execution.HasField("times_out_at")
    job = await operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert job.execution_counts == pb.ExecutionCounts(queued=1, timed_out=1)
    assert job.failed_count == 1


async def test_report_is_rejected_when_execution_has_timed_out(
    device: Device, sweeper: Sweeper
) -> None:
    await sweeper.run_once()

    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED") as failure:
        await device.update("j", "SUCCEEDED")
    assert (
        failure.message == "The execution of job j on device pump is finished in status TIMED_OUT"
    )
    assert not (await device.pending()).executions


async def test_job_completes_when_its_last_execution_times_out(
    server: Server, device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    await server.device(operator.tenant, "valve").update("j", "SUCCEEDED")

    await sweeper.run_once()

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == job.updated_at == (await device.get("j")).last_updated_at
    assert job.execution_counts == pb.ExecutionCounts(succeeded=1, timed_out=1)


async def test_expired_job_completes_when_its_last_execution_in_progress_times_out(
    database: Database, device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    await database.expire(operator.tenant, "j")
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS

    await sweeper.run_once()

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == (await device.get("j")).last_updated_at
    assert job.execution_counts == pb.ExecutionCounts(timed_out=2)


async def test_canceled_job_stays_canceled_when_an_execution_times_out(
    device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    await operator.cancel("j")

    await sweeper.run_once()

    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert job.execution_counts == pb.ExecutionCounts(timed_out=1, rejected=1)


async def test_execution_does_not_time_out_when_job_is_force_canceled(
    device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    await operator.cancel("j", force=True)
    before = await device.get("j")
    assert not before.HasField("times_out_at")

    await sweeper.run_once()

    assert await device.get("j") == before
    job = await operator.get("j")
    assert job.execution_counts == pb.ExecutionCounts(rejected=2)


async def test_execution_stays_in_progress_when_its_timeout_has_not_passed(
    server: Server, device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    await operator.create(job_id="unlimited", target_all=True)
    await device.start("unlimited")
    valve = server.device(operator.tenant, "valve")
    await valve.start("j")
    await device.update("j", "IN_PROGRESS", extend_timeout_minutes=5)
    before = [await device.get("j"), await device.get("unlimited"), await valve.get("j")]

    await sweeper.run_once()

    assert before == [await device.get("j"), await device.get("unlimited"), await valve.get("j")]


async def test_one_sweep_times_out_more_than_one_batch(
    database: Database, operator: Operator, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, 2500)
    await operator.create(job_id="j", **TIMEOUT_JOB)
    await database.owner.execute(
        "WITH running AS (UPDATE jobs.job_executions SET status = 'IN_PROGRESS',"
        " times_out_at = now() - interval '1 minute' WHERE tenant_id = $1 RETURNING 1)"
        " UPDATE jobs.job_progress SET queued = 0, in_progress = (SELECT count(*) FROM running)"
        " WHERE tenant_id = $1",
        operator.tenant,
    )

    await sweeper.run_once()

    job = await operator.get("j", executions_limit=0)
    assert job.status == pb.Job.COMPLETED
    assert job.execution_counts == pb.ExecutionCounts(timed_out=2500)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_report_wins_when_it_gets_the_job_lock_before_the_sweeper(
    database: Database, device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    """The sweeper has found the execution and waits for the report to commit."""
    async with request_session(database) as (reporting, store):
        async with reporting.transaction():
            await store.update_executions(
                operator.tenant, [ExecutionUpdate("j", "pump", "SUCCEEDED")], wait_ms=30000
            )
            sweeping = asyncio.create_task(sweeper.run_once())
            await database.wait_for_blocked_sessions(1)
        await sweeping

    job = await operator.get("j")
    assert job.execution_counts == pb.ExecutionCounts(queued=1, succeeded=1)


async def test_progress_report_extends_the_timeout_when_it_gets_the_job_lock_first(
    database: Database, device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        progress = asyncio.create_task(device.update("j", "IN_PROGRESS", extend_timeout_minutes=10))
        await database.wait_for_blocked_sessions(1)
        sweeping = asyncio.create_task(sweeper.run_once())
        await database.wait_for_blocked_sessions(2)
    await sweeping

    assert await progress == await device.get("j")


async def test_execution_times_out_when_the_sweeper_gets_the_job_lock_before_the_report(
    database: Database, device: Device, operator: Operator
) -> None:
    """The report waits for the sweeper to commit, and is rejected."""
    sweeping = await asyncpg.connect(database.owner_dsn)
    try:
        async with sweeping.transaction():
            await sweeping.execute(
                "SELECT jobs.time_out_executions($1, 'j', '{pump}', 0)", operator.tenant
            )
            report = asyncio.create_task(device.update("j", "SUCCEEDED"))
            await database.wait_for_blocked_sessions(1)
        with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
            await report
    finally:
        await sweeping.close()

    job = await operator.get("j")
    assert job.execution_counts == pb.ExecutionCounts(queued=1, timed_out=1)


def test_sweep_interval_is_at_most_one_second() -> None:
    """The documented limit is two seconds: one until the next sweep, one to run it."""
    assert inspect.signature(Sweeper).parameters["interval"].default <= 1


@pytest.mark.slow
async def test_server_times_out_executions(
    database: Database, device: Device, operator: Operator
) -> None:
    async with running_server(
        database.request_dsn, JOBS_OWNER_DATABASE_URL=database.owner_dsn
    ) as server:
        valve = server.device(operator.tenant, "valve")
        await valve.start("j")
        times_out_at = await database.owner.fetchval(
            "UPDATE jobs.job_executions"
            " SET times_out_at = (SELECT clock_timestamp() + interval '1 second')"
            " WHERE tenant_id = $1 AND device_id = 'valve' RETURNING times_out_at",
            operator.tenant,
        )

        async def timed_out() -> bool:
            return (await valve.get("j")).status == pb.JobExecution.TIMED_OUT

        await wait_until(timed_out)
        execution = await valve.get("j")

    assert execution.last_updated_at.ToDatetime(UTC) >= times_out_at

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.execution_counts == pb.ExecutionCounts(timed_out=2)
