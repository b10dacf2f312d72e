"""CancelJob without force."""

import asyncio

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure


async def test_queued_executions_become_rejected_with_the_reason_when_job_is_canceled(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 2)
    await operator.create(job_id="a", target_all=True)

    response = await operator.cancel("a", reason="wrong firmware")

    assert response == pb.CancelJobResponse(job_id="a", status=pb.Job.CANCELED)
    job = await operator.get("a")
    assert job.status == pb.Job.CANCELED
    assert job.cancel_reason == "wrong firmware"
    assert job.execution_counts == pb.ExecutionCounts(rejected=2)
    assert job.failed_count == 2
    for execution in job.executions:
        assert execution.status == pb.JobExecution.REJECTED
        assert execution.status_details == {"reason": "wrong firmware"}
        assert execution.last_updated_at.ToNanoseconds() == job.updated_at.ToNanoseconds()


async def test_reason_defaults_to_canceled_by_operator(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="a", target_all=True)

    await operator.cancel("a")

    job = await operator.get("a")
    assert job.executions[0].status_details == {"reason": "canceled by operator"}


async def test_executions_in_progress_or_finished_are_unchanged_when_job_is_canceled(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["finished", "queued", "running"])
    await operator.create(job_id="a", target_all=True)
    await database.set_status(operator.tenant, "a", "running", "IN_PROGRESS")
    await database.set_status(operator.tenant, "a", "finished", "SUCCEEDED")

    await operator.cancel("a")

    job = await operator.get("a")
    assert job.execution_counts == pb.ExecutionCounts(rejected=1, in_progress=1, succeeded=1)


async def test_cancel_is_rejected_when_job_is_finished(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="canceled", target_all=True)
    await operator.cancel("canceled")
    await operator.create(job_id="expired", target_all=True)
    await database.expire(operator.tenant, "expired")

    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_CANCELABLE") as failure:
        await operator.cancel("canceled")
    assert failure.message == "Cannot cancel job in status CANCELED"
    assert failure.metadata == {"jobId": "canceled", "status": "CANCELED"}

    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_CANCELABLE") as failure:
        await operator.cancel("expired")
    assert failure.message == "Cannot cancel job in status COMPLETED"


async def test_cancel_is_rejected_when_job_does_not_exist(operator: Operator) -> None:
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as failure:
        await operator.cancel("missing")
    assert failure.message == "Job not found"


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_second_of_two_concurrent_cancels_is_rejected(
    database: Database, operator: Operator
) -> None:
    """The first cancel holds the job lock, uncommitted, while the second waits for it."""
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="a", target_all=True)
    first = await asyncpg.connect(database.request_dsn)
    try:
        async with first.transaction():
            await first.execute(
                "SELECT jobs.cancel_job($1, $2, $3)", operator.tenant, "a", "the first"
            )
            second = asyncio.create_task(operator.cancel("a", reason="the second"))
            await database.wait_for_blocked_sessions(1)
        with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_CANCELABLE") as failure:
            await second
    finally:
        await first.close()

    assert failure.message == "Cannot cancel job in status CANCELED"
    assert (await operator.get("a")).cancel_reason == "the first"


async def test_cancel_writes_no_execution_rows(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 500)
    await operator.create(job_id="a", target_all=True)
    count = "SELECT count(*) FROM jobs.job_executions WHERE tenant_id = $1 AND status = 'QUEUED'"

    await operator.cancel("a")

    assert await database.owner.fetchval(count, operator.tenant) == 500
    assert (await operator.get("a")).execution_counts == pb.ExecutionCounts(rejected=500)
