"""CancelJob with force: executions that are IN_PROGRESS are rejected as well."""

import asyncio
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import Server


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The device "pump", whose execution of job "j" is IN_PROGRESS; that of "valve" is QUEUED."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    await operator.create(job_id="j", target_all=True)
    device = server.device(operator.tenant, "pump")
    await device.start("j", status_details={"percent": 10})
    return device


async def test_executions_in_progress_become_rejected_with_the_reason_when_cancel_is_forced(
    pump: Device, operator: Operator
) -> None:
    await operator.cancel("j", reason="smoke", force=True)

    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert job.execution_counts == pb.ExecutionCounts(rejected=2)
    assert job.failed_count == 2
    for execution in job.executions:
        assert execution.status == pb.JobExecution.REJECTED
        assert execution.status_details == {"reason": "smoke"}
        assert execution.last_updated_at == job.updated_at
    assert job.executions[0].HasField("started_at")


async def test_lists_counts_and_filters_agree_when_cancel_is_forced(
    pump: Device, operator: Operator
) -> None:
    await operator.cancel("j", force=True)

    (listed,) = (await operator.list(status="CANCELED")).jobs
    assert listed.execution_counts == pb.ExecutionCounts(rejected=2)
    rejected = await operator.executions("j", status="REJECTED")
    assert [execution.device_id for execution in rejected.executions] == ["pump", "valve"]
    assert not (await operator.executions("j", status="IN_PROGRESS")).executions


async def test_failed_execution_is_unchanged_when_cancel_is_forced(
    pump: Device, server: Server, operator: Operator
) -> None:
    await server.device(operator.tenant, "valve").update("j", "FAILED", status_details={"n": 1})

    await operator.cancel("j", force=True)

    job = await operator.get("j")
    assert job.execution_counts == pb.ExecutionCounts(rejected=1, failed=1)
    assert job.executions[1].status_details == {"n": 1}


async def test_timed_out_execution_is_unchanged_when_cancel_is_forced(
    database: Database, pump: Device, operator: Operator
) -> None:
    await database.expire(operator.tenant, "j")

    await operator.cancel("j", force=True)

    job = await operator.get("j")
    assert job.execution_counts == pb.ExecutionCounts(rejected=1, timed_out=1)
    assert job.executions[1].status_details == {"reason": "job expired"}


@pytest.mark.parametrize(
    "report",
    [
        {"status": "IN_PROGRESS"},
        {"status": "SUCCEEDED"},
        {"status": "FAILED"},
        {"status": "REJECTED", "status_details": {"reason": "no space"}},
        {"status": "REJECTED", "status_details": {"percent": 10}},
        {"status": "REJECTED", "status_details": {"reason": "smoke"}},
        {"status": "REJECTED"},
    ],
    ids=str,
)
@pytest.mark.parametrize("finalized", [False, True], ids=["derived", "finalized"])
async def test_report_is_rejected_after_a_forced_cancel(
    database: Database,
    pump: Device,
    operator: Operator,
    report: dict[str, Any],
    finalized: bool,
) -> None:
    """Even if it is REJECTED as well: the device must learn that an operator canceled."""
    await operator.cancel("j", reason="smoke", force=True)
    if finalized:
        async with Sweeper(database.owner_dsn) as sweeper:
            await sweeper.run_once()

    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED") as failure:
        await pump.update("j", **report)

    assert failure.metadata["status"] == "REJECTED"
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(rejected=2)


async def test_device_gets_its_next_job_after_a_forced_cancel(
    pump: Device, operator: Operator
) -> None:
    await operator.create(job_id="next", target_all=True)

    await operator.cancel("j", force=True)

    assert [execution.job_id for execution in (await pump.pending()).executions] == ["next"]
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
        await pump.start("j")
    started = await pump.start_next()
    assert started is not None
    assert started.job_id == "next"
    assert (await pump.get("j")).status == pb.JobExecution.REJECTED


async def test_forced_cancel_is_rejected_when_job_is_already_canceled(
    pump: Device, operator: Operator
) -> None:
    await operator.cancel("j")

    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_CANCELABLE"):
        await operator.cancel("j", force=True)

    assert (await operator.get("j")).execution_counts.in_progress == 1


async def test_forced_cancel_writes_no_execution_rows(
    database: Database, pump: Device, operator: Operator
) -> None:
    query = "SELECT xmin, * FROM jobs.job_executions WHERE tenant_id = $1 ORDER BY device_id"
    before = await database.owner.fetch(query, operator.tenant)

    await operator.cancel("j", force=True)

    assert await database.owner.fetch(query, operator.tenant) == before


async def test_report_is_rejected_when_a_concurrent_forced_cancel_is_first(
    database: Database, pump: Device, operator: Operator
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        canceling = asyncio.create_task(operator.cancel("j", force=True))
        await database.wait_for_blocked_sessions(1)
        reporting = asyncio.create_task(pump.update("j", "SUCCEEDED"))
        await database.wait_for_blocked_sessions(2)

    await canceling
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_FINISHED"):
        await reporting
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(rejected=2)


async def test_report_is_applied_when_it_precedes_a_concurrent_forced_cancel(
    database: Database, pump: Device, operator: Operator
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        reporting = asyncio.create_task(pump.update("j", "SUCCEEDED"))
        await database.wait_for_blocked_sessions(1)
        canceling = asyncio.create_task(operator.cancel("j", force=True))
        await database.wait_for_blocked_sessions(2)

    assert (await reporting).status == pb.JobExecution.SUCCEEDED
    await canceling
    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert job.execution_counts == pb.ExecutionCounts(succeeded=1, rejected=1)
