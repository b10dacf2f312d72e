"""CancelExecution, alone and concurrent with reports and starts."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import Server


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

    assert execution.device_id == "pump"
    assert execution.status == pb.JobExecution.REJECTED
    assert execution.status_details == {"reason": "in repair"}
    assert not execution.HasField("started_at")
    job = await operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert job.execution_counts == pb.ExecutionCounts(rejected=1, queued=1)
    assert job.executions[0] == execution
    current = await pump.get("j")
    assert (current.version, current.execution_number) == (2, 1)


async def test_reason_defaults_to_canceled_by_operator(pump: Device, operator: Operator) -> None:
    execution = await operator.cancel_execution("j", "pump")

    assert execution.status_details == {"reason": "canceled by operator"}


async def test_device_cannot_start_or_report_a_canceled_execution(
    pump: Device, operator: Operator
) -> None:
    await operator.cancel_execution("j", "pump")

    assert not (await pump.pending()).executions
    assert await pump.start_next() is None
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
        await pump.start("j")
    for status in ("SUCCEEDED", "REJECTED"):
        with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
            await pump.update("j", status)


async def test_execution_in_progress_is_canceled_only_with_force(
    pump: Device, operator: Operator
) -> None:
    started = await pump.start("j", status_details={"percent": 10})

    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_IN_PROGRESS") as failure:
        await operator.cancel_execution("j", "pump")
    assert failure.metadata == {"jobId": "j", "deviceId": "pump"}
    assert await pump.get("j") == started

    execution = await operator.cancel_execution("j", "pump", reason="stuck", force=True)

    assert execution.status == pb.JobExecution.REJECTED
    assert execution.status_details == {"reason": "stuck"}
    assert execution.started_at == started.started_at
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(rejected=1, queued=1)
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
        await pump.update("j", "SUCCEEDED")


async def test_held_execution_is_canceled_and_is_held_again_when_retried(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["pump", "valve"])
    start_at = Timestamp()
    start_at.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    await operator.create(job_id="scheduled", target_all=True, start_at=start_at)

    execution = await operator.cancel_execution("scheduled", "pump")

    assert execution.status == pb.JobExecution.REJECTED
    assert execution.end_cause == pb.JobExecution.EXECUTION_CANCELED
    job = await operator.get("scheduled")
    assert job.execution_counts == pb.ExecutionCounts(rejected=1, held=1)
    await operator.retry("scheduled", "REJECTED", expires_in_hours=1)
    job = await operator.get("scheduled")
    assert (job.status, job.execution_counts.held) == (pb.Job.SCHEDULED, 2)
    assert job.expires_at.seconds == start_at.seconds + 3600  # counts from the start


async def test_job_completes_when_its_last_pending_execution_is_canceled(
    pump: Device, operator: Operator
) -> None:
    await pump.update("j", "SUCCEEDED")

    execution = await operator.cancel_execution("j", "valve")

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == execution.last_updated_at


async def test_expired_job_completes_when_its_last_execution_in_progress_is_canceled(
    database: Database, pump: Device, operator: Operator
) -> None:
    await pump.start("j")
    await database.expire(operator.tenant, "j")

    await operator.cancel_execution("j", "pump", force=True)

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.execution_counts == pb.ExecutionCounts(rejected=1, timed_out=1)


async def test_canceled_job_stays_canceled_when_its_last_execution_in_progress_is_canceled(
    pump: Device, operator: Operator
) -> None:
    await pump.start("j")
    await operator.cancel("j")

    await operator.cancel_execution("j", "pump", force=True)

    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert job.execution_counts == pb.ExecutionCounts(rejected=2)


@pytest.mark.parametrize("force", [False, True])
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
    database: Database, pump: Device, operator: Operator, history: str, status: str, force: bool
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

    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED") as failure:
        await operator.cancel_execution("j", "pump", force=force)

    assert failure.metadata == {"jobId": "j", "deviceId": "pump", "status": status}
    assert await operator.get("j") == before


async def test_cancel_is_rejected_when_execution_does_not_exist_in_the_tenant(
    server: Server, pump: Device, operator: Operator
) -> None:
    other = server.operator(operator.tenant + "-other")

    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND") as failure:
        await operator.cancel_execution("j", "missing")
    assert failure.metadata == {"jobId": "j", "deviceId": "missing"}
    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await operator.cancel_execution("missing", "pump")
    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await other.cancel_execution("j", "pump")


async def test_cancel_is_rejected_when_a_concurrent_report_is_first(
    database: Database, pump: Device, operator: Operator
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        reporting = asyncio.create_task(pump.update("j", "SUCCEEDED"))
        await database.wait_for_blocked_sessions(1)
        canceling = asyncio.create_task(operator.cancel_execution("j", "pump", force=True))
        await database.wait_for_blocked_sessions(2)

    await reporting
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED") as failure:
        await canceling
    assert failure.metadata["status"] == "SUCCEEDED"
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(succeeded=1, queued=1)


async def test_report_is_rejected_when_a_concurrent_cancel_is_first(
    database: Database, pump: Device, operator: Operator
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        canceling = asyncio.create_task(operator.cancel_execution("j", "pump"))
        await database.wait_for_blocked_sessions(1)
        reporting = asyncio.create_task(pump.update("j", "SUCCEEDED"))
        await database.wait_for_blocked_sessions(2)

    await canceling
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED") as failure:
        await reporting
    assert failure.metadata["status"] == "REJECTED"
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(rejected=1, queued=1)


async def test_cancel_without_force_is_rejected_when_a_concurrent_start_is_first(
    database: Database, pump: Device, operator: Operator
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        starting = asyncio.create_task(pump.start("j"))
        await database.wait_for_blocked_sessions(1)
        canceling = asyncio.create_task(operator.cancel_execution("j", "pump"))
        await database.wait_for_blocked_sessions(2)

    await starting
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_IN_PROGRESS"):
        await canceling


async def test_job_completes_when_its_last_two_executions_are_canceled_concurrently(
    database: Database, pump: Device, operator: Operator
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        canceling = [
            asyncio.create_task(operator.cancel_execution("j", device))
            for device in ("pump", "valve")
        ]
        await database.wait_for_blocked_sessions(2)

    canceled_at = [(await execution).last_updated_at for execution in canceling]
    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at.ToNanoseconds() == max(time.ToNanoseconds() for time in canceled_at)
