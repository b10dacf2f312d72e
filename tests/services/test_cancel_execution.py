"""CancelExecution: one device of a job."""

import asyncio

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import Server


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The device "pump", QUEUED in the job "j" as is "valve"."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", target_all=True)
    return server.device(operator.tenant, "pump")


async def test_a_queued_execution_is_rejected_with_the_reason(
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
    present = await pump.get("j")
    assert (present.version, present.execution_number) == (2, 1)


async def test_the_reason_is_canceled_by_operator_if_none_was_given(
    pump: Device, operator: Operator
) -> None:
    execution = await operator.cancel_execution("j", "pump")

    assert execution.status_details == {"reason": "canceled by operator"}


async def test_the_device_does_not_get_it(pump: Device, operator: Operator) -> None:
    await operator.cancel_execution("j", "pump")

    assert not (await pump.pending()).executions
    assert await pump.start_next() is None
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
        await pump.start("j")
    for status in ("SUCCEEDED", "REJECTED"):
        with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
            await pump.update("j", status)


async def test_a_running_one_is_canceled_with_force_only(pump: Device, operator: Operator) -> None:
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


async def test_the_last_one_completes_the_job(pump: Device, operator: Operator) -> None:
    await pump.update("j", "SUCCEEDED")

    execution = await operator.cancel_execution("j", "valve")

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == execution.last_updated_at


async def test_the_last_one_at_work_completes_an_expired_job(
    database: Database, pump: Device, operator: Operator
) -> None:
    await pump.start("j")
    await database.expire(operator.tenant, "j")

    await operator.cancel_execution("j", "pump", force=True)

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.execution_counts == pb.ExecutionCounts(rejected=1, timed_out=1)


async def test_the_last_one_at_work_leaves_a_canceled_job_canceled(
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
    ("end", "status"),
    [
        ("succeeded", "SUCCEEDED"),
        ("canceled", "REJECTED"),
        ("job canceled", "REJECTED"),
        ("job canceled with force", "REJECTED"),
        ("job expired", "TIMED_OUT"),
    ],
)
async def test_what_is_over_can_not_be_canceled(
    database: Database, pump: Device, operator: Operator, end: str, status: str, force: bool
) -> None:
    match end:
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


async def test_other_jobs_devices_and_tenants_executions_are_not_found(
    server: Server, pump: Device, operator: Operator
) -> None:
    other = server.operator(operator.tenant + "-other")

    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND") as failure:
        await operator.cancel_execution("j", "nowhere")
    assert failure.metadata == {"jobId": "j", "deviceId": "nowhere"}
    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await operator.cancel_execution("nowhere", "pump")
    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await other.cancel_execution("j", "pump")


async def test_of_it_and_a_report_at_once_the_report_wins_if_it_is_first(
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


async def test_of_it_and_a_report_at_once_it_wins_if_it_is_first(
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


async def test_a_start_that_comes_first_keeps_it_from_being_canceled(
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


async def test_the_last_two_at_once_complete_the_job(
    database: Database, pump: Device, operator: Operator
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        canceling = [
            asyncio.create_task(operator.cancel_execution("j", device))
            for device in ("pump", "valve")
        ]
        await database.wait_for_blocked_sessions(2)

    ends = [(await execution).last_updated_at for execution in canceling]
    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at.ToNanoseconds() == max(end.ToNanoseconds() for end in ends)
