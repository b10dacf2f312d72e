"""The sweeper times out executions that are IN_PROGRESS for too long."""

import inspect
from datetime import UTC

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Device
from tests.support.failures import expect_error
from tests.support.postgres import connected
from tests.support.waiting import read_until
from tests.support.world import World, uncommitted_report


@pytest.fixture
async def device(world: World) -> Device:
    """One of two devices; its execution of the job "j" is IN_PROGRESS past its timeout."""
    await world.add_devices(["pump", "valve"])
    await world.create(in_progress_timeout_minutes=30)
    device = world.device("pump")
    await device.start("j", status_details={"percent": 10})
    await world.make_overdue()
    return device


async def test_execution_times_out_after_its_timeout(world: World, device: Device) -> None:
    before = await device.get("j")

    await world.sweep()

    execution = await device.get("j")
    assert execution.status == pb.JobExecution.TIMED_OUT
    assert execution.status_details == {"reason": "in progress for too long"}
    assert execution.started_at == before.started_at
    assert execution.version == before.version + 1
    assert execution.last_updated_at.ToDatetime() > before.last_updated_at.ToDatetime()
    assert not execution.HasField("times_out_at")
    job = await world.operator.get("j")
    assert (job.status, job.failed_count) == (pb.Job.IN_PROGRESS, 1)
    assert job.execution_counts == pb.ExecutionCounts(queued=1, timed_out=1)
    failure = await expect_error("EXECUTION_FINISHED", device.update("j", "SUCCEEDED"))
    problem = "The execution of job j on device pump is finished in status TIMED_OUT"
    assert failure.message == problem
    assert not (await device.pending()).executions


@pytest.mark.parametrize("expired", [False, True])
async def test_last_timeout_completes_job(world: World, device: Device, *, expired: bool) -> None:
    if expired:
        await world.expire()
    else:
        await world.device("valve").update("j", "SUCCEEDED")
    assert await world.operator.status() == "IN_PROGRESS"

    await world.sweep()

    job = await world.operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == job.updated_at == (await device.get("j")).last_updated_at
    counts = {"timed_out": 2} if expired else {"succeeded": 1, "timed_out": 1}
    assert await world.operator.counts() == counts


async def test_canceled_job_stays_canceled_after_a_timeout(world: World, device: Device) -> None:
    await world.operator.cancel("j")

    await world.sweep()

    assert await world.operator.status() == "CANCELED"
    assert await world.operator.counts() == {"timed_out": 1, "rejected": 1}


async def test_execution_of_a_forced_cancel_does_not_time_out(world: World, device: Device) -> None:
    await world.operator.cancel("j", force=True)
    before = await device.get("j")
    assert not before.HasField("times_out_at")

    await world.sweep()

    assert await device.get("j") == before
    assert await world.operator.counts() == {"rejected": 2}


async def test_execution_stays_in_progress_before_its_timeout(world: World, device: Device) -> None:
    valve = world.device("valve")
    await world.create("unlimited")
    await device.start("unlimited")
    await valve.start("j")
    await device.update("j", "IN_PROGRESS", extend_timeout_minutes=5)
    before = [await device.get("j"), await device.get("unlimited"), await valve.get("j")]

    await world.sweep()

    assert before == [await device.get("j"), await device.get("unlimited"), await valve.get("j")]


async def test_one_sweep_times_out_more_than_one_batch(world: World) -> None:
    await world.add_devices(1500)
    await world.create()
    await world.execute(
        "WITH running AS (UPDATE jobs.job_executions SET status = 'IN_PROGRESS',"
        " times_out_at = now() - interval '1 minute' WHERE tenant_id = $1 RETURNING 1)"
        " UPDATE jobs.job_progress SET queued = 0, in_progress = (SELECT count(*) FROM running)"
        " WHERE tenant_id = $1"
    )

    await world.sweep()

    assert await world.operator.status() == "COMPLETED"
    assert await world.operator.counts() == {"timed_out": 1500}


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_report_before_the_sweep_wins(world: World, device: Device, sweeper: Sweeper) -> None:
    """The sweeper has found the execution and waits for the report to commit."""
    async with uncommitted_report(world.database, device, "SUCCEEDED"):
        sweeping = await world.blocked(sweeper.run_once())
    await sweeping

    assert await world.operator.counts() == {"queued": 1, "succeeded": 1}


async def test_progress_report_extends_the_timeout_when_it_gets_the_job_lock_first(
    world: World, device: Device, sweeper: Sweeper
) -> None:
    progress, sweeping = await world.lock_in_order(
        device.update("j", "IN_PROGRESS", extend_timeout_minutes=10), sweeper.run_once()
    )
    await sweeping

    assert await progress == await device.get("j")


async def test_execution_times_out_before_a_report_that_waits(world: World, device: Device) -> None:
    """The report waits for the sweeper to commit, and is rejected."""
    async with connected(world.database.owner_dsn) as sweeping, sweeping.transaction():
        await sweeping.execute(
            "SELECT jobs.time_out_executions($1, 'j', '{pump}', 0)", world.tenant
        )
        report = await world.blocked(device.update("j", "SUCCEEDED"))
    await expect_error("EXECUTION_FINISHED", report)

    assert await world.operator.counts() == {"queued": 1, "timed_out": 1}


def test_sweep_interval_is_at_most_one_second() -> None:
    """The documented limit is two seconds: one until the next sweep, one to run it."""
    assert inspect.signature(Sweeper).parameters["interval"].default <= 1


@pytest.mark.slow
async def test_server_times_out_executions(world: World, device: Device) -> None:
    async with world.with_background_work() as sweeping:
        valve = sweeping.device("valve")
        await valve.start("j")
        times_out_at = await world.owner_value(
            "UPDATE jobs.job_executions"
            " SET times_out_at = (SELECT clock_timestamp() + interval '1 second')"
            " WHERE tenant_id = $1 AND device_id = 'valve' RETURNING times_out_at"
        )
        timed_out = pb.JobExecution.TIMED_OUT
        execution = await read_until(lambda: valve.get("j"), lambda e: e.status == timed_out)

    assert execution.last_updated_at.ToDatetime(UTC) >= times_out_at
    assert await world.operator.counts() == {"timed_out": 2}
