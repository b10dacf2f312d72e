"""Transitions of jobs with a rollout that wait for each other's job lock, in both orders."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.database import uncommitted
from tests.support.failures import expect_error
from tests.support.staged_jobs import StagedJob
from tests.support.world import World, uncommitted_report

pytestmark = [
    pytest.mark.usefixtures("ten_devices"),
    pytest.mark.single_node("a call inside a transaction is not delegated on Citus"),
]

REST: dict[str, Any] = {"remainder": True}


def uncommitted_call(job: StagedJob, call: str) -> AbstractAsyncContextManager[None]:
    """Call a function as another server would, and commit when the block ends."""
    return uncommitted(job.database, f"SELECT * FROM jobs.{call}", job.operator.tenant)


@pytest.fixture
async def fragile(world: World) -> StagedJob:
    criterion = pb.FailureCriterion(count=1)
    return await world.create_staged(REST, failure_criteria=[criterion])


async def test_start_before_the_report_that_trips_is_in_progress(fragile: StagedJob) -> None:
    starts, fails, late, *_ = fragile.devices(0)

    async with uncommitted_report(fragile.database, starts, None):
        report = await fragile.database.blocked(fails.update("j", "FAILED"))
    await report

    job = await fragile.get()
    assert job.status == pb.Job.PAUSED
    assert job.execution_counts == pb.ExecutionCounts(queued=8, in_progress=1, failed=1)
    await expect_error("JOB_PAUSED", late.start("j"))
    await fragile.check_counts()


async def test_start_after_the_report_that_trips_is_rejected(fragile: StagedJob) -> None:
    starts, fails, *_ = fragile.devices(0)

    async with uncommitted_report(fragile.database, fails, "FAILED"):
        start = await fragile.database.blocked(starts.start("j"))
    await expect_error("JOB_PAUSED", start)

    assert await fragile.operator.counts() == {"queued": 9, "failed": 1}


@pytest.fixture
async def one_left(world: World) -> StagedJob:
    """A job with three stages; one execution of the first is not finished."""
    job = await world.create_staged({"device_count": 2}, {"device_count": 2}, REST)
    await job.device(0, 0).update("j", "SUCCEEDED")
    return job


@pytest.mark.parametrize("stage", [1, None])
async def test_stage_opens_once_before_advance(one_left: StagedJob, stage: int | None) -> None:
    async with uncommitted_report(one_left.database, one_left.device(0, 1), "SUCCEEDED"):
        fields = {} if stage is None else {"stage": stage}
        advance = await one_left.database.blocked(one_left.operator.advance("j", **fields))
    await advance

    # Only a call that names the stage is safe in this race.
    assert await one_left.open_stage() == (1 if stage == 1 else 2)


async def test_stage_opens_once_if_the_last_report_comes_after_advance(one_left: StagedJob) -> None:
    async with uncommitted_call(one_left, "advance_job($1, 'j', 1, '')"):
        report = await one_left.database.blocked(one_left.device(0, 1).update("j", "SUCCEEDED"))
    await report

    assert await one_left.open_stage() == 1
    await one_left.check_counts()


async def test_first_of_two_approvals_is_stored_and_both_succeed(world: World) -> None:
    gated = {"device_count": 2, "gate": pb.Gate(require_approval=True)}
    job = await world.create_staged(gated, REST)
    await job.finish(0)
    second = world.server.operator(world.tenant, user="bob")

    async with uncommitted_call(job, "approve_stage($1, 'j', 0, 'ann', 'first')"):
        approve = await job.database.blocked(second.approve("j", 0, comment="second"))
    approved = await approve

    approval = approved.stages[0].approval
    assert (approval.approved_by, approval.comment) == ("ann", "first")
    assert await job.open_stage() == 1


@pytest.mark.parametrize("approved_first", [True, False])
async def test_reject_is_refused_only_when_approval_came_first(
    world: World, approved_first: bool
) -> None:
    gated = {"device_count": 2, "gate": pb.Gate(require_approval=True)}
    job = await world.create_staged(gated, REST)
    await job.finish(0)
    approver = world.server.operator(world.tenant, user="ann")
    calls = [approver.approve("j", 0), job.operator.reject("j", 0)]

    if approved_first:
        await world.second_fails("STAGE_NOT_APPROVABLE", *calls)
    else:
        for task in await world.lock_in_order(*reversed(calls)):
            await task

    read = await job.get()
    assert read.status == (pb.Job.IN_PROGRESS if approved_first else pb.Job.PAUSED)
    # A job that was rejected and then approved opens its stage when it is resumed.
    assert await job.open_stage() == int(approved_first)
    await job.operator.resume("j")
    assert await job.open_stage() == 1


async def test_failure_before_a_resume_does_not_count(fragile: StagedJob) -> None:
    await fragile.device(0).start("j")
    await fragile.operator.pause("j")

    async with uncommitted_report(fragile.database, fragile.device(0), "FAILED"):
        resume = await fragile.database.blocked(fragile.operator.resume("j"))

    assert (await resume).status == pb.Job.IN_PROGRESS


async def test_failure_after_a_resume_counts(fragile: StagedJob) -> None:
    await fragile.device(0).start("j")
    await fragile.operator.pause("j")

    async with uncommitted_call(fragile, "resume_job($1, 'j', '')"):
        report = await fragile.database.blocked(fragile.device(0).update("j", "FAILED"))
    await report

    assert await fragile.operator.status() == "PAUSED"


async def test_start_takes_the_place_that_a_report_before_it_frees(world: World) -> None:
    job = await world.create_staged(REST, max_in_progress=1)
    first, second, *_ = job.devices(0)
    await first.start("j")

    async with uncommitted_report(job.database, first, "SUCCEEDED"):
        start = await job.database.blocked(second.start("j"))

    assert (await start).status == pb.JobExecution.IN_PROGRESS


async def test_start_next_that_waits_for_the_last_place_chooses_another_job(world: World) -> None:
    job = await world.create_staged(REST, max_in_progress=1)
    await world.create("later")
    first, second, *_ = job.devices(0)

    async with uncommitted_report(job.database, first, None):
        start = await job.database.blocked(second.start_next_job())

    assert await start == "later"
