"""The sweeper ends executions that are in progress for too long."""

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

RUNNING = {"target_all": True, "in_progress_timeout_minutes": 30}


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    """A sweeper of the module's database that waits for jobs as long as a test does."""
    async with Sweeper(database.owner_dsn, lock_wait=4 * TIMEOUT) as sweeper:
        yield sweeper


@pytest.fixture
async def device(database: Database, server: Server, operator: Operator) -> Device:
    """One of two devices, IN_PROGRESS with the job "j" and past its deadline."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", **RUNNING)
    device = server.device(operator.tenant, "pump")
    await device.start("j", status_details={"percent": 10})
    await database.make_overdue(operator.tenant, "j")
    return device


async def test_an_execution_past_its_deadline_times_out(
    device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    running = await device.get("j")

    await sweeper.run_once()

    execution = await device.get("j")
    assert execution.status == pb.JobExecution.TIMED_OUT
    assert execution.status_details == {"reason": "in progress for too long"}
    assert execution.started_at == running.started_at
    assert execution.version == running.version + 1
    assert execution.last_updated_at.ToDatetime() > running.last_updated_at.ToDatetime()
    assert not execution.HasField("times_out_at")
    job = await operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert job.execution_counts == pb.ExecutionCounts(queued=1, timed_out=1)
    assert job.failed_count == 1


async def test_a_device_that_comes_too_late_is_told(device: Device, sweeper: Sweeper) -> None:
    await sweeper.run_once()

    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED") as failure:
        await device.update("j", "SUCCEEDED")
    assert failure.message == "Execution is finished in status TIMED_OUT"
    assert not (await device.pending()).executions


async def test_the_last_execution_to_time_out_completes_the_job(
    server: Server, device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    await server.device(operator.tenant, "valve").update("j", "SUCCEEDED")

    await sweeper.run_once()

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == job.updated_at == (await device.get("j")).last_updated_at
    assert job.execution_counts == pb.ExecutionCounts(succeeded=1, timed_out=1)


async def test_an_expired_job_ends_with_its_last_running_device(
    database: Database, device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    await database.expire(operator.tenant, "j")
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS

    await sweeper.run_once()

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == (await device.get("j")).last_updated_at
    assert job.execution_counts == pb.ExecutionCounts(timed_out=2)


async def test_a_canceled_job_stays_canceled(
    device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    await operator.cancel("j")

    await sweeper.run_once()

    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert job.execution_counts == pb.ExecutionCounts(timed_out=1, rejected=1)


async def test_what_a_forced_cancel_ended_does_not_time_out(
    device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    await operator.cancel("j", force=True)
    before = await device.get("j")
    assert not before.HasField("times_out_at")

    await sweeper.run_once()

    assert await device.get("j") == before
    job = await operator.get("j")
    assert job.execution_counts == pb.ExecutionCounts(rejected=2)


async def test_what_still_has_time_goes_on(
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


async def test_more_than_a_batch_times_out_in_one_run(
    database: Database, operator: Operator, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, 2500)
    await operator.create(job_id="j", **RUNNING)
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


async def test_a_report_that_has_the_job_first_counts(
    database: Database, device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    """The sweeper has found the execution, and waits for the report to commit."""
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


async def test_progress_that_has_the_job_first_keeps_it_going(
    database: Database, device: Device, operator: Operator, sweeper: Sweeper
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        progress = asyncio.create_task(device.update("j", "IN_PROGRESS", extend_timeout_minutes=10))
        await database.wait_for_blocked_sessions(1)
        sweeping = asyncio.create_task(sweeper.run_once())
        await database.wait_for_blocked_sessions(2)
    await sweeping

    assert await progress == await device.get("j")


async def test_a_sweep_that_has_the_job_first_ends_it(
    database: Database, device: Device, operator: Operator
) -> None:
    """The last report waits for the sweep to commit, and comes too late."""
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


async def test_a_serving_process_sweeps_by_itself(
    database: Database, device: Device, operator: Operator
) -> None:
    """Not before the deadline. How soon after it is the interval's matter, and the machine's."""
    async with running_server(
        database.request_dsn, JOBS_OWNER_DATABASE_URL=database.owner_dsn
    ) as server:
        valve = server.device(operator.tenant, "valve")
        await valve.start("j")
        times_out_at = await database.owner.fetchval(
            "UPDATE jobs.job_executions SET times_out_at = clock_timestamp() + interval '1 second'"
            " WHERE tenant_id = $1 AND device_id = 'valve' RETURNING times_out_at",
            operator.tenant,
        )

        async def timed_out() -> bool:
            return (await valve.get("j")).status == pb.JobExecution.TIMED_OUT

        await wait_until(timed_out)
        execution = await valve.get("j")

    assert execution.last_updated_at.ToDatetime(UTC) >= times_out_at
    # Two seconds are promised: one until it looks, one to do it in.
    assert inspect.signature(Sweeper).parameters["interval"].default <= 1
    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.execution_counts == pb.ExecutionCounts(timed_out=2)
