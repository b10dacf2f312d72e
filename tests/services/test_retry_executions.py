"""RetryExecutions: finished executions are queued again as the next attempt."""

from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, Operator, all_pending
from tests.support.failures import expect_error, invalid_fields
from tests.support.world import World

TERMINAL = ("FAILED", "REJECTED", "TIMED_OUT", "SUCCEEDED")


@pytest.fixture
async def pump(world: World) -> Device:
    """The only device of the tenant; its execution of job "j" is FAILED, and the job COMPLETED."""
    await world.add_devices(["pump"])
    await world.create()
    device = world.device("pump")
    await device.start("j")
    await device.update("j", "FAILED", status_details={"code": 7})
    return device


@pytest.fixture
async def mixed(world: World) -> World:
    """Job "j" has a device in each status, named after the status."""
    await world.add_devices([*TERMINAL, "IN_PROGRESS", "QUEUED"])
    await world.create()
    for status in (*TERMINAL, "IN_PROGRESS"):
        await world.database.set_status(world.tenant, "j", status, status)
    return world


async def statuses_and_attempts(operator: Operator) -> dict[str, tuple[str, int]]:
    """The status and execution_number of each device."""
    return {
        e.device_id: (pb.JobExecution.Status.Name(e.status), e.execution_number)
        for e in (await operator.get("j")).executions
    }


async def test_retry_queues_the_next_attempt(pump: Device, operator: Operator) -> None:
    before = await pump.get("j")

    response = await operator.retry("j", "FAILED")

    assert response.retried_count == 1
    after = await pump.get("j")
    assert after.status == pb.JobExecution.QUEUED
    assert (after.execution_number, after.version) == (2, before.version + 1)
    assert after.queued_at.ToNanoseconds() > before.last_updated_at.ToNanoseconds()
    assert after.last_updated_at == after.queued_at
    assert not after.HasField("started_at")
    assert not after.HasField("status_details")
    assert after.expires_at == response.expires_at == before.expires_at


async def test_completed_job_is_in_progress_after_a_retry(pump: Device, operator: Operator) -> None:
    await operator.retry("j", "FAILED")

    job = await operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert not job.HasField("completed_at")
    assert job.updated_at == job.executions[0].queued_at
    assert job.execution_counts == pb.ExecutionCounts(queued=1)
    assert [job.job_id for job in (await operator.list(status="IN_PROGRESS")).jobs] == ["j"]

    assert (await pump.start_next_response()).execution.execution_number == 2
    last = await pump.update("j", "SUCCEEDED", execution_number=2)

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == last.last_updated_at
    assert job.execution_counts == pb.ExecutionCounts(succeeded=1)
    assert job.total_executions == 1


async def test_retry_changes_nothing_when_no_execution_matches(world: World, pump: Device) -> None:
    before = await world.operator.get("j")

    response = await world.operator.retry("j", "TIMED_OUT", "REJECTED", expires_in_hours=48)

    assert response.retried_count == 0
    assert response.expires_at == before.expires_at
    assert await world.operator.get("j") == before

    await world.expire()
    before = await world.operator.get("j")
    assert (await world.operator.retry("j", "REJECTED", never_expires=True)).retried_count == 0
    assert await world.operator.get("j") == before


@pytest.mark.parametrize(
    ("statuses", "fields", "invalid"),
    [
        ([], {}, "statuses"),
        (["QUEUED"], {}, "statuses"),
        (["IN_PROGRESS"], {}, "statuses"),
        (["FAILED", "SUCCEEDED"], {}, "statuses"),
        ([0], {}, "statuses"),
        ([99], {}, "statuses"),
        (["FAILED"], {"expires_in_hours": 0}, "expires_in_hours"),
        (["FAILED"], {"expires_in_hours": 721}, "expires_in_hours"),
        (["FAILED"], {"expires_in_hours": 1, "never_expires": True}, "never_expires"),
    ],
)
async def test_invalid_retry_is_rejected_with_the_field_name(
    operator: Operator, statuses: list[Any], fields: dict[str, Any], invalid: str
) -> None:
    assert await invalid_fields(operator.retry("j", *statuses, **fields)) == [invalid]


@pytest.mark.parametrize("expiry", [{}, {"never_expires": True}], ids=str)
async def test_retry_is_rejected_when_job_is_canceled(world: World, expiry: dict[str, Any]) -> None:
    await world.add_devices(1)
    await expect_error("JOB_NOT_FOUND", world.operator.retry("j", "REJECTED"))
    await world.create()
    await world.operator.cancel("j")

    retry = world.operator.retry("j", "REJECTED", **expiry)
    failure = await expect_error("JOB_NOT_RETRYABLE", retry)

    assert failure.message == "Cannot retry job j in status CANCELED"
    assert failure.metadata == {"jobId": "j", "status": "CANCELED"}


@pytest.mark.parametrize("status", ["COMPLETED", "IN_PROGRESS"])
async def test_retry_of_an_expired_job_needs_a_new_expiry(mixed: World, status: str) -> None:
    if status == "COMPLETED":
        await mixed.database.set_status(mixed.tenant, "j", "IN_PROGRESS", "SUCCEEDED")
    await mixed.expire()
    before = await mixed.operator.get("j")

    failure = await expect_error("JOB_NOT_RETRYABLE", mixed.operator.retry("j", "FAILED"))

    assert failure.message.startswith("Job j has expired;")
    assert failure.metadata == {"jobId": "j", "status": status}
    assert await mixed.operator.get("j") == before


async def test_retry_can_change_and_remove_the_expiry(pump: Device, operator: Operator) -> None:
    response = await operator.retry("j", "FAILED", expires_in_hours=48)

    job = await operator.get("j")
    assert job.expires_at == response.expires_at == (await pump.get("j")).expires_at
    assert job.expires_at.seconds - job.executions[0].queued_at.seconds == 48 * 3600
    await pump.update("j", "FAILED")
    response = await operator.retry("j", "FAILED", never_expires=True)
    assert not response.HasField("expires_at")
    assert not (await operator.get("j")).HasField("expires_at")


async def test_executions_that_expired_can_be_retried_with_a_new_expiry(mixed: World) -> None:
    await mixed.expire()
    expired = next(e for e in (await mixed.operator.get("j")).executions if e.device_id == "QUEUED")

    response = await mixed.operator.retry("j", "TIMED_OUT", never_expires=True)

    assert response.retried_count == 2
    after = await statuses_and_attempts(mixed.operator)
    assert after["QUEUED"] == after["TIMED_OUT"] == ("QUEUED", 2)
    assert after["FAILED"] == ("FAILED", 1)
    assert (await mixed.operator.attempts("j", "QUEUED"))[1] == expired
    assert (await mixed.device("QUEUED").start_next_response()).execution.execution_number == 2


async def test_retried_execution_is_pending_behind_others(pump: Device, operator: Operator) -> None:
    await operator.create(job_id="older", target_all=True)

    await operator.retry("j", "FAILED")

    assert await all_pending(pump) == ["older", "j"]


async def test_report_of_an_earlier_attempt_is_rejected(pump: Device, operator: Operator) -> None:
    await operator.retry("j", "FAILED")
    current = await pump.get("j")
    without_document = device_pb.DeviceExecution()
    without_document.CopyFrom(current)
    without_document.ClearField("document_params")

    for status in ("FAILED", "SUCCEEDED", "IN_PROGRESS"):
        update = pump.update("j", status, execution_number=1)
        failure = await expect_error("EXECUTION_CHANGED", update)
        assert failure.current == without_document

    assert await pump.get("j") == current


async def test_retry_queues_the_attempt_that_ended_before_it(world: World, pump: Device) -> None:
    await world.operator.retry("j", "FAILED")
    reporting, retrying = await world.lock_in_order(
        pump.update("j", "FAILED", execution_number=2, status_details={"code": 8}),
        world.operator.retry("j", "FAILED"),
    )

    assert (await reporting).execution_number == 2
    assert (await retrying).retried_count == 1
    attempts = await world.operator.attempts("j", "pump")
    assert [execution.execution_number for execution in attempts] == [3, 2, 1]
    assert attempts[1].status_details == {"code": 8}


async def test_one_of_two_concurrent_retries_has_an_effect(world: World, pump: Device) -> None:
    retries = await world.lock_in_order(
        world.operator.retry("j", "FAILED"), world.operator.retry("j", "FAILED")
    )

    assert sorted([(await retry).retried_count for retry in retries]) == [0, 1]
    assert (await pump.get("j")).execution_number == 2


async def test_retry_is_rejected_when_the_job_expires_meanwhile(world: World, pump: Device) -> None:
    async with world.lock_held():
        retrying = await world.blocked(world.operator.retry("j", "FAILED"))
        await world.execute(
            "UPDATE jobs.jobs SET expires_at = (SELECT clock_timestamp()) WHERE tenant_id = $1"
        )

    await expect_error("JOB_NOT_RETRYABLE", retrying)
