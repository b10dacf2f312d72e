"""CancelJob, with and without force, alone and concurrent with other calls."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.failures import expect_error
from tests.support.world import World

Counts = pb.ExecutionCounts

# Reports that fail after a forced cancel.
REPORTS: list[dict[str, Any]] = [
    {"status": "IN_PROGRESS"},
    {"status": "SUCCEEDED"},
    {"status": "FAILED"},
    {"status": "REJECTED"},
    {"status": "REJECTED", "status_details": {"reason": "no space"}},
    {"status": "REJECTED", "status_details": {"percent": 10}},
    {"status": "REJECTED", "status_details": {"reason": "smoke"}},
]


@pytest.fixture(autouse=True)
async def job(world: World) -> None:
    """The execution of "pump" of job "j" is IN_PROGRESS; that of "valve" is QUEUED."""
    await world.add_devices(["pump", "valve"])
    await world.create()
    await world.pump.start("j", status_details={"percent": 10})


@pytest.mark.parametrize("force", [False, True])
async def test_cancel_rejects_what_is_queued_and_with_force_also_what_is_in_progress(
    world: World, force: bool
) -> None:
    response = await world.operator.cancel("j", reason="smoke", force=force)

    assert response == pb.CancelJobResponse(job_id="j", status=pb.Job.CANCELED)
    job = await world.operator.get("j")
    counts = Counts(rejected=2) if force else Counts(in_progress=1, rejected=1)
    assert (job.status, job.cancel_reason) == (pb.Job.CANCELED, "smoke")
    assert (job.execution_counts, job.failed_count) == (counts, counts.rejected)
    assert job.executions[0].HasField("started_at")
    for execution in job.executions if force else job.executions[1:]:
        assert execution.status == pb.JobExecution.REJECTED
        assert execution.status_details == {"reason": "smoke"}
        assert execution.last_updated_at == job.updated_at
    (listed,) = (await world.operator.list(status="CANCELED")).jobs
    assert listed.execution_counts == counts
    rejected = (await world.operator.executions("j", status="REJECTED")).executions
    assert len(rejected) == counts.rejected
    in_progress = (await world.operator.executions("j", status="IN_PROGRESS")).executions
    assert len(in_progress) == counts.in_progress


async def test_job_has_no_reason_when_the_cancel_has_none(world: World) -> None:
    await world.operator.cancel("j")

    job = await world.operator.get("j")
    assert not job.HasField("cancel_reason")
    # What the platform stored.
    assert job.executions[1].status_details == {"reason": "canceled by operator"}


@pytest.mark.parametrize("force", [False, True])
async def test_cancel_is_rejected_when_job_is_finished(world: World, force: bool) -> None:
    await world.create("expired")
    await world.expire("expired")
    await world.operator.cancel("j")

    for job_id, status in (("j", "CANCELED"), ("expired", "COMPLETED")):
        failure = await expect_error(
            "JOB_NOT_CANCELABLE", world.operator.cancel(job_id, force=force)
        )
        assert failure.message == f"Cannot cancel job in status {status}"
        assert failure.metadata == {"jobId": job_id, "status": status}
    assert (await world.operator.get("j")).execution_counts.in_progress == 1


async def test_cancel_is_rejected_when_job_does_not_exist(operator: Operator) -> None:
    failure = await expect_error("JOB_NOT_FOUND", operator.cancel("missing"))
    assert failure.message == "Job not found"


@pytest.mark.parametrize("force", [False, True])
async def test_cancel_writes_no_execution_rows(world: World, force: bool) -> None:
    query = "SELECT xmin, * FROM jobs.job_executions WHERE tenant_id = $1 ORDER BY device_id"
    before = await world.rows(query)

    await world.operator.cancel("j", force=force)

    assert await world.rows(query) == before


@pytest.mark.parametrize("finalized", [False, True], ids=["derived", "finalized"])
async def test_report_is_rejected_after_a_forced_cancel(world: World, finalized: bool) -> None:
    """Even if it is REJECTED as well: the device must learn that an operator canceled."""
    await world.operator.cancel("j", reason="smoke", force=True)
    if finalized:
        await world.sweep()

    for report in REPORTS:
        failure = await expect_error("EXECUTION_FINISHED", world.pump.update("j", **report))
        assert failure.metadata["status"] == "REJECTED"
    assert await world.operator.counts() == {"rejected": 2}


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_second_of_two_concurrent_cancels_is_rejected(world: World) -> None:
    first = "SELECT jobs.cancel_job($1, 'j', 'the first')"
    second = await world.wait_for_commit(world.operator.cancel("j", reason="the second"), first)

    failure = await expect_error("JOB_NOT_CANCELABLE", second)
    assert failure.message == "Cannot cancel job in status CANCELED"
    assert (await world.operator.get("j")).cancel_reason == "the first"


async def test_report_is_rejected_when_a_concurrent_forced_cancel_is_first(world: World) -> None:
    cancel, report = world.operator.cancel("j", force=True), world.pump.update("j", "SUCCEEDED")
    await world.second_fails("EXECUTION_FINISHED", cancel, report)

    assert await world.operator.counts() == {"rejected": 2}


async def test_report_is_applied_when_it_precedes_a_concurrent_forced_cancel(world: World) -> None:
    report, cancel = world.pump.update("j", "SUCCEEDED"), world.operator.cancel("j", force=True)
    reporting, canceling = await world.lock_in_order(report, cancel)

    assert (await reporting).status == pb.JobExecution.SUCCEEDED
    await canceling
    assert await world.operator.status() == "CANCELED"
    assert await world.operator.counts() == {"succeeded": 1, "rejected": 1}
