"""The counts of stages: exact after each transition that changes those of the job."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server
from tests.support.staged_jobs import StagedJob, create_staged_job
from tests.support.waiting import TIMEOUT


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    """A sweeper of the module's database."""
    async with Sweeper(database.owner_dsn, lock_wait=TIMEOUT) as sweeper:
        yield sweeper


@pytest.fixture
async def job(database: Database, server: Server, operator: Operator) -> StagedJob:
    """A job with three stages, of which two have opened, and executions in each status."""
    await database.add_devices(operator.tenant, 20)
    gate = pb.Gate(min_succeeded_percent=10)
    job = await create_staged_job(
        database,
        server,
        operator,
        {"device_count": 8, "gate": gate},
        {"device_count": 8, "gate": gate},
        {"remainder": True},
        in_progress_timeout_minutes=30,
    )
    await job.device(0, 0).update("j", "SUCCEEDED")
    for stage in (0, 1):
        await job.device(stage, 1).start("j")
        await job.device(stage, 2).update("j", "FAILED", failure_code="E1")
        await job.device(stage, 3).update("j", "REJECTED")
        await job.operator.cancel_execution("j", job.device(stage, 4).name)
    await job.operator.cancel_execution("j", job.device(2).name)
    await job.check_counts()
    return job


async def test_counts_are_exact_after_a_timeout(
    database: Database, job: StagedJob, sweeper: Sweeper
) -> None:
    await database.make_overdue(job.operator.tenant, "j")

    await sweeper.run_timeouts()

    await job.check_counts()
    assert [(await job.stage_row(stage))["timed_out"] for stage in range(3)] == [1, 1, 0]


async def test_timeout_opens_the_next_stage_when_it_finishes_the_open_one(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, 2)
    job = await create_staged_job(
        database,
        server,
        operator,
        {"device_count": 1},
        {"remainder": True},
        in_progress_timeout_minutes=30,
    )
    await job.device(0).start("j")
    await database.make_overdue(operator.tenant, "j")

    await sweeper.run_timeouts()

    assert await job.open_stage() == 1


@pytest.mark.parametrize("force", [True, False])
async def test_counts_are_exact_after_the_finalization_of_a_canceled_job(
    job: StagedJob, sweeper: Sweeper, force: bool
) -> None:
    await job.operator.cancel("j", force=force)

    await sweeper.run_cleanup()

    await job.check_counts()
    assert [(await job.stage_row(stage))["queued"] for stage in range(3)] == [0, 0, 0]


async def test_counts_are_exact_after_the_finalization_of_an_expired_job(
    database: Database, job: StagedJob, sweeper: Sweeper
) -> None:
    await database.expire(job.operator.tenant, "j")

    await sweeper.run_cleanup()

    await job.check_counts()
    assert [(await job.stage_row(stage))["queued"] for stage in range(3)] == [0, 0, 0]


async def test_counts_are_exact_after_batches_of_a_finalization(
    database: Database, job: StagedJob
) -> None:
    await job.operator.cancel("j", force=True)
    after: str | None = ""
    while after is not None:
        after = await database.owner.fetchval(
            "SELECT next_device_id FROM jobs.finalize_executions($1, 'j', $2, 3, 0)",
            job.operator.tenant,
            after,
        )
        await job.check_counts()


@pytest.mark.parametrize("statuses", [["FAILED"], ["REJECTED"], ["FAILED", "REJECTED"]])
async def test_counts_are_exact_after_a_retry(job: StagedJob, statuses: list[str]) -> None:
    await job.operator.retry("j", *statuses)

    await job.check_counts()


async def test_counts_are_exact_after_a_retry_of_some_executions(job: StagedJob) -> None:
    await job.operator.retry("j", "FAILED", failure_codes=["E1"])
    await job.check_counts()

    names = [job.device(1, 3).name, job.device(2).name]
    await job.operator.retry("j", "REJECTED", device_ids=names)
    await job.check_counts()


@pytest.mark.parametrize("finalized", [True, False])
@pytest.mark.parametrize("some", [True, False])
@pytest.mark.parametrize("statuses", [["TIMED_OUT"], ["FAILED"], ["TIMED_OUT", "FAILED"]])
async def test_counts_are_exact_after_a_retry_of_an_expired_job(
    database: Database,
    job: StagedJob,
    sweeper: Sweeper,
    statuses: list[str],
    some: bool,
    finalized: bool,
) -> None:
    await job.device(0, 1).update("j", "FAILED")
    await job.device(1, 1).update("j", "FAILED")
    await database.expire(job.operator.tenant, "j")
    if finalized:
        await sweeper.run_cleanup()
    names = [job.device(stage, number).name for stage in range(3) for number in (1, 2, 3)]

    await job.operator.retry("j", *statuses, never_expires=True, device_ids=names if some else None)

    await job.check_counts()


async def test_retried_execution_keeps_its_stage_and_is_released(job: StagedJob) -> None:
    device = job.device(0, 2)

    await job.operator.retry("j", "FAILED", device_ids=[device.name])

    assert (await device.start("j")).status == pb.JobExecution.IN_PROGRESS
    assert await job.open_stage() == 1
    await job.check_counts()


async def test_purge_deletes_the_stages_and_the_criteria(
    database: Database, job: StagedJob, sweeper: Sweeper
) -> None:
    criterion = pb.FailureCriterion(count=1)
    fragile = await create_staged_job(
        database,
        job.server,
        job.operator,
        {"remainder": True},
        job_id="fragile",
        failure_criteria=[criterion],
    )
    await fragile.device(0).update("fragile", "FAILED")
    for job_id in ("j", "fragile"):
        await job.operator.cancel(job_id, force=True)
        await job.operator.delete(job_id)

    await sweeper.run_cleanup()

    for table in ("job_stages", "job_failure_criteria", "job_criterion_counts", "jobs"):
        count = await database.owner.fetchval(
            f"SELECT count(*) FROM jobs.{table} WHERE tenant_id = $1", job.operator.tenant
        )
        assert count == 0, table


async def test_counts_of_stages_cannot_become_negative(job: StagedJob) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await job.database.owner.execute(
            "SELECT jobs.count_changes($1, ARRAY[jobs.execution_change("
            "job_id => 'j', device_id => 'd', stage => 2::smallint,"
            " stored_status => 'FAILED', new_status => 'QUEUED')], now())",
            job.operator.tenant,
        )


async def test_progress_of_a_device_does_not_write_its_stage(
    database: Database, job: StagedJob
) -> None:
    stages = "SELECT stage, xmin::text FROM jobs.job_stages WHERE tenant_id = $1 ORDER BY 1"
    before = await database.owner.fetch(stages, job.operator.tenant)

    await job.device(0, 1).update("j", "IN_PROGRESS")

    assert await database.owner.fetch(stages, job.operator.tenant) == before
    await job.device(0, 1).update("j", "SUCCEEDED")
    assert await database.owner.fetch(stages, job.operator.tenant) != before
