"""CancelExecution, alone and concurrent with reports and starts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.world import World

Counts = pb.ExecutionCounts


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The device "pump"; it and "valve" have a QUEUED execution of job "j"."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", target_all=True)
    return server.device(operator.tenant, "pump")


async def test_canceled_execution_becomes_rejected_with_the_reason_when_queued(
    pump: Device, operator: Operator
) -> None:
    execution = await operator.cancel_execution("j", "pump", reason="in repair")

    assert (execution.device_id, execution.status) == ("pump", pb.JobExecution.REJECTED)
    assert execution.status_details == {"reason": "in repair"}
    assert not execution.HasField("started_at")
    assert (execution.version, execution.execution_number) == (2, 1)
    job = await operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert job.execution_counts == Counts(rejected=1, queued=1)
    assert job.executions[0] == execution


async def test_device_cannot_start_or_report_a_canceled_execution(
    pump: Device, operator: Operator
) -> None:
    execution = await operator.cancel_execution("j", "pump")

    assert execution.status_details == {"reason": "canceled by operator"}  # the default
    assert not (await pump.pending()).executions
    assert await pump.start_next() is None
    for call in (pump.start("j"), pump.update("j", "SUCCEEDED"), pump.update("j", "REJECTED")):
        await expect_error("EXECUTION_FINISHED", call)


async def test_execution_in_progress_is_canceled_only_with_force(
    pump: Device, operator: Operator
) -> None:
    started = await pump.start("j", status_details={"percent": 10})

    failure = await expect_error("EXECUTION_IN_PROGRESS", operator.cancel_execution("j", "pump"))
    assert failure.metadata == {"jobId": "j", "deviceId": "pump"}
    assert await pump.get("j") == started

    execution = await operator.cancel_execution("j", "pump", reason="stuck", force=True)

    assert execution.status == pb.JobExecution.REJECTED
    assert execution.status_details == {"reason": "stuck"}
    assert execution.started_at == started.started_at
    assert (await operator.get("j")).execution_counts == Counts(rejected=1, queued=1)
    await expect_error("EXECUTION_FINISHED", pump.update("j", "SUCCEEDED"))


async def test_held_execution_is_canceled_and_is_held_again_when_retried(world: World) -> None:
    await world.add_devices(["pump", "valve"])
    start_at = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    await world.operator.create(job_id="scheduled", target_all=True, start_at=start_at)

    execution = await world.operator.cancel_execution("scheduled", "pump")

    assert execution.status == pb.JobExecution.REJECTED
    job = await world.operator.get("scheduled")
    assert job.execution_counts == Counts(rejected=1, held=1)
    await world.operator.retry("scheduled", "REJECTED", expires_in_hours=1)
    job = await world.operator.get("scheduled")
    assert (job.status, job.execution_counts.held) == (pb.Job.SCHEDULED, 2)
    assert job.expires_at.ToDatetime(UTC) == start_at + timedelta(hours=1)


@pytest.mark.parametrize(
    ("end", "status", "counts"),
    [
        ("none", pb.Job.COMPLETED, Counts(rejected=1, succeeded=1)),
        ("expired", pb.Job.COMPLETED, Counts(rejected=1, timed_out=1)),
        ("canceled", pb.Job.CANCELED, Counts(rejected=2)),
    ],
)
async def test_job_ends_when_its_last_execution_is_canceled(
    world: World, pump: Device, end: str, status: Any, counts: pb.ExecutionCounts
) -> None:
    await pump.start("j")
    match end:
        case "none":
            await world.device("valve").update("j", "SUCCEEDED")
        case "expired":
            await world.expire()
        case _:
            await world.operator.cancel("j")

    execution = await world.operator.cancel_execution("j", "pump", force=True)

    job = await world.operator.get("j")
    assert (job.status, job.execution_counts) == (status, counts)
    assert not job.HasField("completed_at") or job.completed_at == execution.last_updated_at


@pytest.mark.parametrize(
    ("history", "status"),
    [
        ("succeeded", "SUCCEEDED"),
        ("canceled", "REJECTED"),
        ("job canceled", "REJECTED"),
        ("job canceled with force", "REJECTED"),
        ("job expired", "TIMED_OUT"),
    ],
)
async def test_cancel_is_rejected_when_execution_is_finished(
    database: Database, pump: Device, operator: Operator, history: str, status: str
) -> None:
    match history:
        case "succeeded":
            await pump.update("j", "SUCCEEDED")
        case "canceled":
            await operator.cancel_execution("j", "pump")
        case "job canceled":
            await operator.cancel("j")
        case "job canceled with force":
            await pump.start("j")
            await operator.cancel("j", force=True)
        case _:
            await database.expire(operator.tenant, "j")
    before = await operator.get("j")

    for force in (False, True):
        failure = await expect_error(
            "EXECUTION_FINISHED", operator.cancel_execution("j", "pump", force=force)
        )
        assert failure.metadata == {"jobId": "j", "deviceId": "pump", "status": status}
    assert await operator.get("j") == before


async def test_cancel_is_rejected_when_execution_does_not_exist_in_the_tenant(
    server: Server, pump: Device, operator: Operator
) -> None:
    other = server.operator(operator.tenant + "-other")

    for caller, job_id, device in (
        (operator, "j", "missing"),
        (operator, "missing", "pump"),
        (other, "j", "pump"),
    ):
        failure = await expect_error("EXECUTION_NOT_FOUND", caller.cancel_execution(job_id, device))
        assert failure.metadata == {"jobId": job_id, "deviceId": device}


async def test_cancel_is_rejected_when_a_concurrent_report_is_first(
    world: World, pump: Device, operator: Operator
) -> None:
    calls = pump.update("j", "SUCCEEDED"), operator.cancel_execution("j", "pump", force=True)
    reporting, canceling = await world.lock_in_order(*calls)

    await reporting
    failure = await expect_error("EXECUTION_FINISHED", canceling)
    assert failure.metadata["status"] == "SUCCEEDED"
    assert (await operator.get("j")).execution_counts == Counts(succeeded=1, queued=1)


async def test_report_is_rejected_when_a_concurrent_cancel_is_first(
    world: World, pump: Device, operator: Operator
) -> None:
    calls = operator.cancel_execution("j", "pump"), pump.update("j", "SUCCEEDED")
    canceling, reporting = await world.lock_in_order(*calls)

    await canceling
    failure = await expect_error("EXECUTION_FINISHED", reporting)
    assert failure.metadata["status"] == "REJECTED"
    assert (await operator.get("j")).execution_counts == Counts(rejected=1, queued=1)


async def test_cancel_without_force_is_rejected_when_a_concurrent_start_is_first(
    world: World, pump: Device, operator: Operator
) -> None:
    calls = pump.start("j"), operator.cancel_execution("j", "pump")
    starting, canceling = await world.lock_in_order(*calls)

    await starting
    await expect_error("EXECUTION_IN_PROGRESS", canceling)


async def test_job_completes_when_its_last_two_executions_are_canceled_concurrently(
    world: World, pump: Device, operator: Operator
) -> None:
    calls = operator.cancel_execution("j", "pump"), operator.cancel_execution("j", "valve")
    first, second = await world.lock_in_order(*calls)

    last = max([await first, await second], key=lambda e: e.last_updated_at.ToNanoseconds())
    job = await operator.get("j")
    assert (job.status, job.completed_at) == (pb.Job.COMPLETED, last.last_updated_at)
