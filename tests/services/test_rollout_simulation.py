"""A bad release on a fleet: the rollout stops by itself, is fixed, and completes."""

import random

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.rollout_fleet import check_counts, rollout_fleet
from tests.support.scale import SCALE
from tests.support.server import Server

pytestmark = pytest.mark.slow

DEVICES = 1_500 if SCALE == 1 else 5_000 * SCALE
MAX_IN_PROGRESS = 500
PERCENTS = (1, 4, 15, 30)

FIELDS = [descriptor.name for descriptor in pb.ExecutionCounts.DESCRIPTOR.fields]


async def recount(database: Database, tenant: str) -> dict[str, int]:
    """Count the executions as readers see them, in one statement."""
    rows = await database.owner.fetch(
        "SELECT status, count(*) AS executions FROM jobs.execution_states"
        " WHERE tenant_id = $1 AND job_id = 'j' GROUP BY status",
        tenant,
    )
    return dict.fromkeys(FIELDS, 0) | {row["status"].lower(): row["executions"] for row in rows}


async def check(database: Database, operator: Operator) -> pb.Job:
    """Read the job and check its counts; they equal a recount."""
    job = await operator.get("j", executions_limit=0)
    check_counts(job)
    actual = {name: getattr(job.execution_counts, name) for name in FIELDS}
    assert actual == await recount(database, operator.tenant)
    assert job.execution_counts.in_progress <= MAX_IN_PROGRESS
    return job


@pytest.mark.timeout(3600)
async def test_bad_release_pauses_and_completes_after_the_fix(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    rng = random.Random(1)  # noqa: S311 - not for security
    bad = {f"d{number:05}" for number in range(1, DEVICES + 1) if rng.random() < 0.08}
    stages = [pb.Stage(percent=percent) for percent in PERCENTS] + [pb.Stage(remainder=True)]
    await operator.create(
        job_id="j",
        target_all=True,
        never_expires=True,
        rollout=pb.Rollout(stages=stages, max_in_progress=MAX_IN_PROGRESS, seed="simulation"),
        failure_criteria=[
            # Too high for this release: an operator lowers it below.
            pb.FailureCriterion(percent=50, min_finished=10),
            pb.FailureCriterion(
                failure_codes=["FLASH"],
                percent=6,
                basis=pb.FailureCriterion.TARGETED,
                scope=pb.FailureCriterion.STAGE,
            ),
        ],
    )
    is_fixed = False

    async with rollout_fleet(
        server,
        operator,
        "j",
        lambda device: "FLASH" if device in bad and not is_fixed else None,
    ) as fleet:
        # The first stages pass or trip; the operator resumes until the third is open.
        job = await check(database, operator)
        while job.status == pb.Job.IN_PROGRESS:
            await fleet.start(rng.randrange(50, 800))
            await fleet.finish(rng.randrange(50, 400))
            job = await check(database, operator)

        assert job.status == pb.Job.PAUSED
        assert job.pause.cause == pb.Pause.FAILURE_CRITERION
        assert job.trip.criterion.failure_codes == ["FLASH"]
        stage = job.stages[job.trip.stage]
        assert job.trip.basis_count == stage.total_executions
        assert job.trip.failure_count * 100 >= 6 * stage.total_executions
        # The trip is exact to the batch of at most 100 reports in which it was reached.
        assert (job.trip.failure_count - 100) * 100 < 6 * stage.total_executions
        failures_at_trip = job.execution_counts.failed

        # No device starts, and those that run report; the overshoot is at most what was running.
        running = job.execution_counts.in_progress
        assert running == len(fleet.started)
        assert await fleet.start(500) == 0
        await fleet.finish(len(fleet.started))
        job = await check(database, operator)
        assert job.execution_counts.in_progress == 0
        assert job.execution_counts.failed - failures_at_trip <= running

        # The fix: a stricter criterion, the failed devices again, and on.
        is_fixed = True
        await operator.update(
            "j",
            "failure_criteria",
            "rollout.max_in_progress",
            rollout=pb.Rollout(max_in_progress=MAX_IN_PROGRESS),
            failure_criteria=[pb.FailureCriterion(count=1)],
        )
        retried = await operator.retry("j", "FAILED", failure_codes=["FLASH"])
        assert retried.retried_count == job.execution_counts.failed
        assert (await operator.resume("j")).status == pb.Job.IN_PROGRESS

        while (job := await check(database, operator)).status == pb.Job.IN_PROGRESS:
            await fleet.start(5000)
            await fleet.finish(MAX_IN_PROGRESS)

    assert job.status == pb.Job.COMPLETED
    assert job.execution_counts == pb.ExecutionCounts(succeeded=DEVICES)
    assert all(stage.state == pb.JobStage.PASSED for stage in job.stages)
    summary = await operator.failures("j")
    assert sum(failure.execution_count for failure in summary.failures) == 0
