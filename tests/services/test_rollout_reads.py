"""What operators read of a job with a rollout: its settings, its stages and their counts."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import all_executions, job_ids
from tests.support.failures import expect_error
from tests.support.staged_jobs import StagedJob
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("ten_devices")

OPEN, PASSED, PENDING = pb.JobStage.OPEN, pb.JobStage.PASSED, pb.JobStage.PENDING
STAGES: list[dict[str, Any]] = [
    {"device_count": 1, "display_name": "canary"},
    {"percent": 40, "gate": pb.Gate(min_succeeded_percent=90)},
    {"remainder": True, "releases_per_minute": 7},
]
APPROVAL: dict[str, Any] = {"device_count": 1, "gate": pb.Gate(require_approval=True)}


@pytest.fixture
async def job(world: World) -> StagedJob:
    return await world.create_staged(*STAGES, max_in_progress=3)


async def test_get_job_returns_the_rollout_and_the_state_of_each_stage(job: StagedJob) -> None:
    read = await job.operator.get("j")

    assert list(read.rollout.stages) == [pb.Stage(**stage) for stage in STAGES]
    assert read.rollout.max_in_progress == 3
    assert [
        (stage.state, stage.total_executions, stage.released_count, stage.execution_counts)
        for stage in read.stages
    ] == [
        (OPEN, 1, 1, pb.ExecutionCounts(queued=1)),
        (PENDING, 4, 0, pb.ExecutionCounts(held=4)),
        (PENDING, 5, 0, pb.ExecutionCounts(held=5)),
    ]
    assert read.execution_counts == pb.ExecutionCounts(queued=1, held=9)
    assert {e.device_id: (e.status, e.stage) for e in read.executions} == {
        name: (pb.JobExecution.HELD if stage else pb.JobExecution.QUEUED, stage)
        for stage, names in enumerate(job.names)
        for name in names
    }
    (listed,) = (await job.operator.list()).jobs
    assert listed.execution_counts == read.execution_counts
    assert not listed.HasField("rollout")
    assert not listed.stages
    assert not (await job.device(1).pending()).executions
    await expect_error("EXECUTION_NOT_FOUND", job.device(1).get("j"))


async def test_get_job_returns_no_rollout_when_the_job_has_none(world: World) -> None:
    await world.create()

    job = await world.operator.get("j")

    assert not job.HasField("rollout")
    assert not job.failure_criteria
    assert not job.stages
    assert not job.HasField("trip")
    assert not job.executions[0].HasField("stage")


async def test_stages_follow_the_open_stage_and_the_end(world: World, job: StagedJob) -> None:
    await world.operator.advance("j")
    advanced = await world.operator.advance("j")
    await world.pass_time(60)

    assert [stage.state for stage in advanced.stages] == [PASSED, PASSED, OPEN]
    assert [stage.released_count for stage in (await job.get()).stages] == [1, 4, 5]
    await world.expire()
    expired = await job.get()
    assert expired.stages[2].state == PASSED
    assert expired.stages[2].execution_counts == pb.ExecutionCounts(timed_out=5)
    assert expired.execution_counts == pb.ExecutionCounts(timed_out=10)


async def test_next_opening_is_shown_unless_paused_or_the_approval_is_missing(world: World) -> None:
    job = await world.create_staged({"device_count": 1}, APPROVAL, {"remainder": True})

    async def set_time_gate(stage: int) -> pb.JobStage:
        await job.set_gate(stage, advance_after_seconds=600)
        return (await job.get()).stages[stage]

    opened = await set_time_gate(0)
    assert opened.next_opens_at.seconds - opened.opened_at.seconds == 600

    await world.operator.advance("j")
    assert not (await set_time_gate(1)).HasField("next_opens_at")
    approver = world.server.operator(world.tenant, "ann")
    assert (await approver.approve("j", 1)).stages[1].HasField("next_opens_at")

    assert not (await world.operator.pause("j")).stages[1].HasField("next_opens_at")


async def test_status_filter_finds_held_and_queued_executions(job: StagedJob) -> None:
    async def filtered(status: str) -> list[str]:
        executions = await all_executions(job.operator, "j", status=status, limit=2)
        assert {e.status for e in executions} == {pb.JobExecution.Status.Value(status)}
        return [e.device_id for e in executions]

    assert await filtered("QUEUED") == job.names[0]
    assert await filtered("HELD") == sorted(job.names[1] + job.names[2])


async def test_executions_of_a_device_show_that_they_are_held(job: StagedJob) -> None:
    device, operator = job.device(1), job.operator

    listed = await operator.executions("", device_id=device.name, status="HELD")

    (execution,) = listed.executions
    assert (execution.status, execution.stage) == (pb.JobExecution.HELD, 1)
    assert await operator.executions("j", device_id=device.name, status="HELD") == listed
    queued = await operator.executions("", device_id=device.name, status="QUEUED")
    assert not queued.executions
    (attempt,) = await operator.attempts("j", device.name)
    assert (attempt.status, attempt.stage) == (pb.JobExecution.HELD, 1)


@pytest.mark.parametrize("end", ["cancel", "expire", "complete"])
async def test_list_jobs_finds_jobs_that_await_an_approval(world: World, end: str) -> None:
    job = await world.create_staged(APPROVAL, {"remainder": True})
    await world.create("other")

    async def listed(**filters: Any) -> list[str]:
        return await job_ids(world.operator, awaiting_approval=True, **filters)

    assert await listed() == []

    await job.finish(0)

    assert await listed() == await listed(status="IN_PROGRESS") == ["j"]
    assert (await job.get()).stages[0].awaiting_approval
    assert await listed(document_type="x") == await listed(status="COMPLETED") == []
    match end:
        case "complete":
            for device in job.devices(1):
                await world.operator.cancel_execution("j", device.name)
        case "cancel":
            await world.operator.cancel("j")
        case "expire":
            await world.expire()
    assert await listed() == []
    assert not (await job.get()).stages[0].awaiting_approval
