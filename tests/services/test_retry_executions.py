"""RetryExecutions: finished executions are queued again as the next attempt."""

import asyncio
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import Server

TERMINAL = ("FAILED", "REJECTED", "TIMED_OUT", "SUCCEEDED")
RETRYABLE = ("FAILED", "TIMED_OUT", "REJECTED")


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The only device of the tenant; its execution of job "j" is FAILED, and the job COMPLETED."""
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    device = server.device(operator.tenant, "pump")
    await device.start("j")
    await device.update("j", "FAILED", status_details={"code": 7})
    return device


@pytest.fixture
async def mixed(database: Database, operator: Operator) -> Operator:
    """An operator with the job "mixed"; it has a device in each status, named after the status."""
    await database.add_devices(operator.tenant, [*TERMINAL, "IN_PROGRESS", "QUEUED"])
    await operator.create(job_id="mixed", target_all=True)
    for status in (*TERMINAL, "IN_PROGRESS"):
        await database.set_status(operator.tenant, "mixed", status, status)
    return operator


async def statuses_and_attempts(operator: Operator, job_id: str) -> dict[str, tuple[str, int]]:
    """The status and execution_number of each device."""
    return {
        execution.device_id: (
            pb.JobExecution.Status.Name(execution.status),
            execution.execution_number,
        )
        for execution in (await operator.get(job_id)).executions
    }


async def check_counts(database: Database, tenant: str, job_id: str) -> None:
    """Check that the stored counts equal the stored executions."""
    counts = await database.owner.fetchrow(
        "SELECT queued, in_progress, succeeded, failed, timed_out, rejected"
        " FROM jobs.job_progress WHERE tenant_id = $1 AND job_id = $2",
        tenant,
        job_id,
    )
    assert counts is not None
    rows = await database.owner.fetch(
        "SELECT lower(status::text) AS status, count(*) FROM jobs.job_executions"
        " WHERE tenant_id = $1 AND job_id = $2 GROUP BY status",
        tenant,
        job_id,
    )
    counted = {row["status"]: row["count"] for row in rows}
    assert {status: count for status, count in counts.items() if count} == counted


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


async def test_completed_job_is_in_progress_again_after_a_retry(
    pump: Device, operator: Operator
) -> None:
    await operator.retry("j", "FAILED")

    job = await operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert not job.HasField("completed_at")
    assert job.updated_at == job.executions[0].queued_at
    assert job.execution_counts == pb.ExecutionCounts(queued=1)
    assert [job.job_id for job in (await operator.list(status="IN_PROGRESS")).jobs] == ["j"]

    started = await pump.start_next()
    assert started is not None
    assert started.execution_number == 2
    last = await pump.update("j", "SUCCEEDED", execution_number=2)

    job = await operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at == last.last_updated_at
    assert job.execution_counts == pb.ExecutionCounts(succeeded=1)
    assert job.total_executions == 1


@pytest.mark.parametrize(
    "statuses", [["FAILED"], ["TIMED_OUT"], ["REJECTED"], ["REJECTED", "FAILED"], RETRYABLE]
)
async def test_retry_queues_only_executions_with_the_given_statuses(
    database: Database, mixed: Operator, statuses: list[str]
) -> None:
    before = await statuses_and_attempts(mixed, "mixed")

    response = await mixed.retry("mixed", *statuses)

    assert response.retried_count == len(statuses)
    assert await statuses_and_attempts(mixed, "mixed") == before | dict.fromkeys(
        statuses, ("QUEUED", 2)
    )
    assert (await mixed.get("mixed")).execution_counts.queued == 1 + len(statuses)
    await check_counts(database, mixed.tenant, "mixed")


async def test_execution_is_retried_once_when_its_status_is_given_twice(
    pump: Device, operator: Operator
) -> None:
    assert (await operator.retry("j", "FAILED", "FAILED")).retried_count == 1


async def test_retry_keeps_updated_at_when_job_is_in_progress(mixed: Operator) -> None:
    before = await mixed.get("mixed")

    await mixed.retry("mixed", "FAILED")

    after = await mixed.get("mixed")
    assert after.status == pb.Job.IN_PROGRESS
    assert after.updated_at == before.updated_at


async def test_retry_changes_nothing_when_no_execution_matches(
    database: Database, pump: Device, operator: Operator
) -> None:
    before = await operator.get("j")

    response = await operator.retry("j", "TIMED_OUT", "REJECTED", expires_in_hours=48)

    assert response.retried_count == 0
    assert response.expires_at == before.expires_at
    assert await operator.get("j") == before

    await database.expire(operator.tenant, "j")
    before = await operator.get("j")
    assert (await operator.retry("j", "REJECTED", never_expires=True)).retried_count == 0
    assert await operator.get("j") == before


@pytest.mark.parametrize(
    ("statuses", "fields", "invalid_fields"),
    [
        ([], {}, {"statuses"}),
        (["QUEUED"], {}, {"statuses"}),
        (["IN_PROGRESS"], {}, {"statuses"}),
        (["FAILED", "SUCCEEDED"], {}, {"statuses"}),
        ([0], {}, {"statuses"}),
        ([99], {}, {"statuses"}),
        (["FAILED"], {"expires_in_hours": 0}, {"expires_in_hours"}),
        (["FAILED"], {"expires_in_hours": 721}, {"expires_in_hours"}),
        (["FAILED"], {"expires_in_hours": 1, "never_expires": True}, {"never_expires"}),
    ],
)
async def test_invalid_retry_is_rejected_with_the_field_name(
    pump: Device,
    operator: Operator,
    statuses: list[Any],
    fields: dict[str, Any],
    invalid_fields: set[str],
) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.retry("j", *statuses, **fields)

    assert set(failure.violations) == invalid_fields


async def test_retry_is_rejected_when_job_does_not_exist_in_the_tenant(
    server: Server, pump: Device, operator: Operator
) -> None:
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await operator.retry("missing", "FAILED")
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await server.operator(operator.tenant + "-other").retry("j", "FAILED")


@pytest.mark.parametrize("expiry", [{}, {"never_expires": True}], ids=str)
async def test_retry_is_rejected_when_job_is_canceled(
    database: Database, operator: Operator, expiry: dict[str, Any]
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")

    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_RETRYABLE") as failure:
        await operator.retry("j", "REJECTED", **expiry)

    assert failure.message == "Cannot retry job j in status CANCELED"
    assert failure.metadata == {"jobId": "j", "status": "CANCELED"}


@pytest.mark.parametrize("status", ["COMPLETED", "IN_PROGRESS"])
async def test_retry_is_rejected_when_job_has_expired_and_gets_no_new_expiry(
    database: Database, mixed: Operator, status: str
) -> None:
    if status == "COMPLETED":
        await database.set_status(mixed.tenant, "mixed", "IN_PROGRESS", "SUCCEEDED")
    await database.expire(mixed.tenant, "mixed")
    before = await mixed.get("mixed")

    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_RETRYABLE") as failure:
        await mixed.retry("mixed", "FAILED")

    assert failure.message.startswith("Job mixed has expired;")
    assert failure.metadata == {"jobId": "mixed", "status": status}
    assert await mixed.get("mixed") == before


async def test_new_expiry_is_relative_to_the_time_of_the_retry(
    pump: Device, operator: Operator
) -> None:
    response = await operator.retry("j", "FAILED", expires_in_hours=48)

    job = await operator.get("j")
    assert job.expires_at == response.expires_at
    assert job.expires_at.seconds - job.executions[0].queued_at.seconds == 48 * 3600
    assert (await pump.get("j")).expires_at == job.expires_at


async def test_retry_can_remove_the_expiry(pump: Device, operator: Operator) -> None:
    response = await operator.retry("j", "FAILED", never_expires=True)

    assert not response.HasField("expires_at")
    assert not (await operator.get("j")).HasField("expires_at")


async def test_repeated_create_returns_the_first_response_after_a_retry_with_a_new_expiry(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    first = await operator.create(job_id="j", target_all=True, expires_in_hours=3)
    await operator.cancel_execution("j", "d00001")
    await operator.retry("j", "REJECTED", never_expires=True)

    assert await operator.create(job_id="j", target_all=True, expires_in_hours=3) == first
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await operator.create(job_id="j", target_all=True, never_expires=True)


@pytest.mark.parametrize("in_progress", [False, True])
async def test_executions_that_expired_stay_timed_out_when_job_gets_a_new_expiry(
    database: Database, mixed: Operator, in_progress: bool
) -> None:
    if not in_progress:
        await database.set_status(mixed.tenant, "mixed", "IN_PROGRESS", "SUCCEEDED")
    await database.expire(mixed.tenant, "mixed")
    expired = next(e for e in (await mixed.get("mixed")).executions if e.device_id == "QUEUED")
    assert expired.status == pb.JobExecution.TIMED_OUT

    response = await mixed.retry("mixed", "FAILED", expires_in_hours=1)

    assert response.retried_count == 1
    job = await mixed.get("mixed")
    assert job.status == pb.Job.IN_PROGRESS
    (after,) = (execution for execution in job.executions if execution.device_id == "QUEUED")
    assert after == expired
    assert job.execution_counts == pb.ExecutionCounts(
        queued=1,
        in_progress=1 if in_progress else 0,
        succeeded=1 if in_progress else 2,
        timed_out=2,
        rejected=1,
    )
    assert await mixed.attempts("mixed", "QUEUED") == [after]
    await check_counts(database, mixed.tenant, "mixed")


async def test_retry_of_a_code_leaves_executions_that_expired_timed_out(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 2)
    await operator.create(job_id="j", target_all=True)
    await server.device(operator.tenant, "d00001").update("j", "FAILED", failure_code="E1")
    await database.expire(operator.tenant, "j")

    await operator.retry("j", "FAILED", "TIMED_OUT", failure_codes=["E1"], expires_in_hours=1)

    assert await statuses_and_attempts(operator, "j") == {
        "d00001": ("QUEUED", 2),
        "d00002": ("TIMED_OUT", 1),
    }


@pytest.mark.parametrize("expiry", [{"expires_in_hours": 1}, {"never_expires": True}], ids=str)
async def test_executions_that_expired_can_be_retried_with_a_new_expiry(
    database: Database, server: Server, mixed: Operator, expiry: dict[str, Any]
) -> None:
    await database.expire(mixed.tenant, "mixed")
    expired = next(e for e in (await mixed.get("mixed")).executions if e.device_id == "QUEUED")

    response = await mixed.retry("mixed", "TIMED_OUT", **expiry)

    assert response.retried_count == 2
    after = await statuses_and_attempts(mixed, "mixed")
    assert after["QUEUED"] == after["TIMED_OUT"] == ("QUEUED", 2)
    assert after["FAILED"] == ("FAILED", 1)
    assert (await mixed.attempts("mixed", "QUEUED"))[1] == expired
    await check_counts(database, mixed.tenant, "mixed")
    started = await server.device(mixed.tenant, "QUEUED").start_next()
    assert started is not None
    assert started.execution_number == 2


async def test_retried_execution_is_pending_after_earlier_ones(
    pump: Device, operator: Operator
) -> None:
    await operator.create(job_id="older", target_all=True)

    await operator.retry("j", "FAILED")

    assert [execution.job_id for execution in (await pump.pending()).executions] == ["older", "j"]


async def test_report_of_an_earlier_attempt_is_rejected_after_a_retry(
    pump: Device, operator: Operator
) -> None:
    await operator.retry("j", "FAILED")
    current = await pump.get("j")
    without_document = device_pb.DeviceExecution()
    without_document.CopyFrom(current)
    without_document.ClearField("document_params")

    for status in ("FAILED", "SUCCEEDED", "IN_PROGRESS"):
        with expect_failure(StatusCode.ABORTED, "EXECUTION_CHANGED") as failure:
            await pump.update("j", status, execution_number=1)
        assert failure.current == without_document

    assert await pump.get("j") == current


async def test_report_without_execution_number_applies_to_the_current_attempt(
    pump: Device, operator: Operator
) -> None:
    await operator.retry("j", "FAILED")

    after = await pump.update("j", "SUCCEEDED")

    assert (after.status, after.execution_number) == (pb.JobExecution.SUCCEEDED, 2)
    assert (await operator.get("j")).status == pb.Job.COMPLETED


async def test_retry_queues_an_execution_whose_concurrent_report_is_first(
    database: Database, pump: Device, operator: Operator
) -> None:
    await operator.retry("j", "FAILED")
    async with job_lock_held(database, operator.tenant, "j"):
        reporting = asyncio.create_task(
            pump.update("j", "FAILED", execution_number=2, status_details={"code": 8})
        )
        await database.wait_for_blocked_sessions(1)
        retrying = asyncio.create_task(operator.retry("j", "FAILED"))
        await database.wait_for_blocked_sessions(2)

    assert (await reporting).execution_number == 2
    assert (await retrying).retried_count == 1
    attempts = await operator.attempts("j", "pump")
    assert [execution.execution_number for execution in attempts] == [3, 2, 1]
    assert attempts[1].status_details == {"code": 8}
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS


async def test_report_is_rejected_when_a_concurrent_retry_is_first(
    database: Database, pump: Device, operator: Operator
) -> None:
    """The device repeats its last report because it did not receive the response."""
    async with job_lock_held(database, operator.tenant, "j"):
        retrying = asyncio.create_task(operator.retry("j", "FAILED"))
        await database.wait_for_blocked_sessions(1)
        reporting = asyncio.create_task(
            pump.update("j", "FAILED", execution_number=1, status_details={"code": 7})
        )
        await database.wait_for_blocked_sessions(2)

    assert (await retrying).retried_count == 1
    with expect_failure(StatusCode.ABORTED, "EXECUTION_CHANGED") as failure:
        await reporting
    assert failure.current is not None
    assert failure.current.execution_number == 2
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(queued=1)


async def test_one_of_two_concurrent_retries_queues_the_execution(
    database: Database, pump: Device, operator: Operator
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        retries = [asyncio.create_task(operator.retry("j", "FAILED")) for _ in range(2)]
        await database.wait_for_blocked_sessions(2)

    assert sorted([(await retry).retried_count for retry in retries]) == [0, 1]
    assert (await pump.get("j")).execution_number == 2


async def test_retry_is_rejected_when_the_job_expires_while_it_waits_for_the_lock(
    database: Database, pump: Device, operator: Operator
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        retrying = asyncio.create_task(operator.retry("j", "FAILED"))
        await database.wait_for_blocked_sessions(1)
        await database.owner.execute(
            "UPDATE jobs.jobs SET expires_at = (SELECT clock_timestamp()) WHERE tenant_id = $1",
            operator.tenant,
        )

    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_RETRYABLE"):
        await retrying
