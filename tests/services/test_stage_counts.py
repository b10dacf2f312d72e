"""The counts of stages: exact after each transition that changes those of the job."""

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.staged_jobs import StagedJob
from tests.support.world import World


@pytest.fixture
async def job(world: World) -> StagedJob:
    """A job with three stages, of which two have opened, and executions in each status."""
    await world.add_devices(20)
    stage = {"device_count": 8, "gate": pb.Gate(min_succeeded_percent=10)}
    job = await world.create_staged(
        stage, stage, {"remainder": True}, in_progress_timeout_minutes=30
    )
    await job.device(0, 0).update("j", "SUCCEEDED")
    for number in (0, 1):
        await job.device(number, 1).start("j")
        await job.device(number, 2).update("j", "FAILED", failure_code="E1")
        await job.device(number, 3).update("j", "REJECTED")
        await job.operator.cancel_execution("j", job.device(number, 4).name)
    await job.operator.cancel_execution("j", job.device(2).name)
    await job.check_counts()
    return job


async def test_counts_are_exact_after_batches_of_finalization(world: World, job: StagedJob) -> None:
    await world.operator.cancel("j", force=True)
    batch = "SELECT next_device_id FROM jobs.finalize_executions($1, 'j', $2, 3, 0)"
    after: str | None = ""
    while after is not None:
        after = await world.owner_value(batch, after)
        await job.check_counts()


@pytest.mark.parametrize("finalized", [True, False])
async def test_counts_are_exact_when_expired_and_failed_executions_are_retried(
    world: World, job: StagedJob, *, finalized: bool
) -> None:
    await job.device(0, 1).update("j", "FAILED")
    await job.device(1, 1).update("j", "FAILED")
    await world.expire()
    if finalized:
        await world.sweep()
    names = [job.device(stage, number).name for stage in range(3) for number in (1, 2, 3)]

    await job.operator.retry("j", "TIMED_OUT", "FAILED", never_expires=True, device_ids=names)

    await job.check_counts()


async def test_purge_deletes_the_stages_and_the_criteria(world: World, job: StagedJob) -> None:
    criteria = [pb.FailureCriterion(count=1)]
    fragile = await world.create_staged(
        {"remainder": True}, job_id="fragile", failure_criteria=criteria
    )
    await fragile.device(0).update("fragile", "FAILED")
    for job_id in ("j", "fragile"):
        await world.operator.cancel(job_id, force=True)
        await world.operator.delete(job_id)

    await world.sweep()

    for table in ("job_stages", "job_failure_criteria", "job_criterion_counts", "jobs"):
        rows = f"SELECT count(*) FROM jobs.{table} WHERE tenant_id = $1"
        assert await world.owner_value(rows) == 0, table


async def test_counts_of_stages_cannot_become_negative(world: World, job: StagedJob) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await world.owner_value(
            "SELECT jobs.count_changes($1, ARRAY[jobs.execution_change("
            "job_id => 'j', device_id => 'd', stage => 2::smallint,"
            " stored_status => 'FAILED', new_status => 'QUEUED')], now())"
        )


async def test_progress_of_a_device_does_not_write_its_stage(world: World, job: StagedJob) -> None:
    stages = "SELECT array_agg(xmin::text ORDER BY stage) FROM jobs.job_stages WHERE tenant_id = $1"
    before = await world.owner_value(stages)

    await job.device(0, 1).update("j", "IN_PROGRESS")

    assert await world.owner_value(stages) == before
    await job.device(0, 1).update("j", "SUCCEEDED")
    assert await world.owner_value(stages) != before
