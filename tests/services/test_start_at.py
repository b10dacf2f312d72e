"""Jobs with a start time: what devices, operators and watches see before and after it."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.callers import all_pending
from tests.support.failures import expect_error, invalid_fields
from tests.support.staged_jobs import rollout
from tests.support.waiting import TIMEOUT, wait_until_equal
from tests.support.world import World

HOUR = 3600
REST = rollout({"remainder": True})


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    await world.add_devices(["pump", "valve"])


async def create(
    world: World, seconds: float = HOUR, job_id: str = "j", **fields: Any
) -> pb.CreateJobResponse:
    """Create a job that starts in this many seconds."""
    return await world.create(job_id, start_at=await world.time_in(seconds), **fields)


async def update_start(world: World, seconds: float) -> pb.Job:
    return await world.operator.update("j", "start_at", start_at=await world.time_in(seconds))


async def wait_for_start(world: World) -> None:
    """Wait until the job "j" has started by the clock of the database."""
    await wait_until_equal(world.operator.status, "IN_PROGRESS")


def seconds_between(start: Timestamp, end: Timestamp) -> float:
    return (end.ToNanoseconds() - start.ToNanoseconds()) / 1e9


async def test_job_is_scheduled_until_it_starts(world: World) -> None:
    created = await create(world)

    job = await world.operator.get("j")
    assert created.status == job.status == pb.Job.SCHEDULED
    assert job.execution_counts == pb.ExecutionCounts(held=2)
    assert {e.status for e in job.executions} == {pb.JobExecution.HELD}
    assert seconds_between(job.start_at, job.expires_at) == 24 * HOUR
    assert created.expires_at == job.expires_at
    assert job.created_at == job.executions[0].queued_at

    await world.pass_time(HOUR)

    started = await world.operator.get("j")
    assert started.status == pb.Job.IN_PROGRESS
    assert started.execution_counts == pb.ExecutionCounts(queued=2)
    assert started.etag == job.etag


async def test_device_starts_from_the_start_time_on(world: World) -> None:
    await create(world)
    await world.create("later")
    pump = world.device("pump")

    assert await all_pending(pump) == ["later"]
    await expect_error("EXECUTION_HELD", pump.start("j"))
    await expect_error("EXECUTION_HELD", pump.update("j", "SUCCEEDED"))
    await world.pass_time(HOUR)

    assert await pump.start_next_job() == "j"


async def test_start_time_that_has_passed_means_now(world: World) -> None:
    first_time = Timestamp(seconds=-62_135_596_800)

    created = await world.create(start_at=first_time)

    job = await world.operator.get("j")
    assert created.status == job.status == pb.Job.IN_PROGRESS
    assert job.start_at == job.created_at
    assert seconds_between(job.created_at, job.expires_at) == 24 * HOUR


async def test_repeated_create_returns_the_first_response_after_the_start(world: World) -> None:
    start_at = await world.time_in(HOUR)
    first = await world.create(start_at=start_at)
    await update_start(world, 2 * HOUR)
    await world.pass_time(3 * HOUR)

    assert await world.create(start_at=start_at) == first
    await expect_error("JOB_ALREADY_EXISTS", create(world))


@pytest.mark.parametrize("call", ["create", "validate", "update"])
async def test_start_more_than_90_days_ahead_is_rejected(world: World, call: str) -> None:
    await create(world, 90 * 24 * HOUR - 60)
    too_late = 90 * 24 * HOUR + 60

    failure = await expect_error(
        "INVALID_FIELD",
        update_start(world, too_late)
        if call == "update"
        else create(world, too_late, job_id="k", validate_only=call == "validate"),
    )

    assert failure.violations == {"start_at": "start_at must be at most 90 days from now"}


async def test_validation_returns_status_and_expiry_of_a_scheduled_job(world: World) -> None:
    start_at = await world.time_in(HOUR)

    response = await world.create(start_at=start_at, expires_in_hours=1, validate_only=True)

    assert response.status == pb.Job.SCHEDULED
    assert seconds_between(start_at, response.expires_at) == HOUR


async def test_approval_before_the_start_opens_the_next_stage_at_the_start(world: World) -> None:
    gate = pb.Gate(require_approval=True)
    empty = {"group_id": "nobody", "allow_empty": True, "gate": gate}
    await create(world, rollout=rollout(empty, {"remainder": True}))

    job = await world.server.operator(world.tenant, "anna").approve("j", 0)

    assert [stage.state for stage in job.stages] == [pb.JobStage.PASSED, pb.JobStage.OPEN]
    assert all(stage.opened_at == job.start_at for stage in job.stages)
    assert (job.status, job.execution_counts) == (pb.Job.SCHEDULED, pb.ExecutionCounts(held=2))


async def test_advance_fails_before_the_start_also_when_paused(world: World) -> None:
    await create(world, rollout=rollout({"device_count": 1}, {"remainder": True}))

    failure = await expect_error("JOB_NOT_ADVANCEABLE", world.operator.advance("j"))
    assert failure.metadata == {"jobId": "j", "status": "SCHEDULED"}
    assert failure.message == "Job j has not started, so no stage can open; UpdateJob can start it"
    await world.operator.pause("j")
    failure = await expect_error("JOB_NOT_ADVANCEABLE", world.operator.advance("j"))
    assert failure.metadata == {"jobId": "j", "status": "PAUSED"}
    await world.operator.resume("j")
    await world.pass_time(HOUR)
    await world.operator.advance("j")
    assert await world.operator.counts() == {"queued": 2}


async def test_stage_that_is_canceled_before_the_start_bakes_from_the_start(world: World) -> None:
    first, second = await world.database.order_of_release(["pump", "valve"], "s")
    baking = {"device_count": 1, "gate": pb.Gate(bake_time=Duration(seconds=600))}
    async with world.with_background_work() as other:
        await create(other, rollout=rollout(baking, {"remainder": True}, seed="s"))

        await other.operator.cancel_execution("j", first)

        job = await other.operator.get("j")
        assert job.stages[0].state == pb.JobStage.OPEN
        assert seconds_between(job.start_at, job.stages[0].next_opens_at) == 600
        assert {e.device_id: e.status for e in job.executions}[second] == pb.JobExecution.HELD


async def test_update_without_the_start_that_it_names_is_rejected(world: World) -> None:
    await create(world)

    assert await invalid_fields(world.operator.update("j", "start_at")) == ["start_at"]

    assert await world.operator.status() == "SCHEDULED"


async def test_update_to_a_start_that_has_passed_starts_the_job_now(world: World) -> None:
    await create(world, never_expires=True)

    job = await update_start(world, -HOUR)

    assert (job.status, job.HasField("expires_at")) == (pb.Job.IN_PROGRESS, False)
    assert abs(seconds_between(await world.time_in(0), job.start_at)) < TIMEOUT


async def test_explicit_expiry_wins_over_the_move_by_the_start(world: World) -> None:
    await create(world)
    times = {"start_at": await world.time_in(3 * HOUR), "expires_at": await world.time_in(4 * HOUR)}

    job = await world.operator.update("j", *times, **times)

    assert (job.start_at, job.expires_at) == (times["start_at"], times["expires_at"])


@pytest.mark.parametrize(("has_start", "paused"), [(True, True), (False, False)])
async def test_update_of_start_at_is_rejected_when_job_has_started(
    world: World, has_start: bool, paused: bool
) -> None:
    await (create(world) if has_start else world.create())
    if paused:
        await world.operator.pause("j")
    await world.pass_time(HOUR)

    failure = await expect_error("JOB_NOT_UPDATABLE", update_start(world, HOUR))

    problem = "Job j has started, so its start_at can't change; PauseJob can stop it"
    assert failure.message == problem
    assert failure.metadata == {"jobId": "j", "status": "PAUSED" if paused else "IN_PROGRESS"}
    await world.operator.cancel("j")
    failure = await expect_error("JOB_NOT_UPDATABLE", update_start(world, HOUR))
    assert failure.message == "Cannot update job j in status CANCELED"


@pytest.mark.slow
async def test_update_is_rejected_when_the_start_passes_while_it_waits(world: World) -> None:
    await create(world, 0.3)
    start_at = await world.time_in(HOUR)

    async with world.lock_held():
        update = await world.blocked(world.operator.update("j", "start_at", start_at=start_at))
        await wait_for_start(world)
    await expect_error("JOB_NOT_UPDATABLE", update)


@pytest.mark.slow
async def test_device_starts_when_the_start_passes_while_it_waits(world: World) -> None:
    await create(world, 0.3)

    async with world.lock_held():
        start = await world.blocked(world.device("pump").start("j"))
        await wait_for_start(world)
    assert (await start).status == pb.JobExecution.IN_PROGRESS


async def test_device_does_not_start_when_the_start_moves_while_it_waits(world: World) -> None:
    await create(world)
    start_at = await world.time_in(3 * HOUR)

    async with world.lock_held():
        update = await world.blocked(world.operator.update("j", "start_at", start_at=start_at))
        start = await world.blocked(world.device("pump").start("j"), 2)
    await update
    await expect_error("EXECUTION_HELD", start)


async def test_resume_that_waits_for_a_pause_before_the_start_shifts_nothing(world: World) -> None:
    created = await create(world)

    async with world.lock_held():
        pause = await world.blocked(world.operator.pause("j"))
        resume = await world.blocked(world.operator.resume("j"), 2)
    await pause
    assert (await resume).expires_at == created.expires_at
    await world.pass_time(HOUR)
    assert await world.device("pump").start_next()


async def test_rollout_that_cannot_end_is_rejected_with_times_from_the_start(world: World) -> None:
    baking = {"device_count": 1, "gate": pb.Gate(bake_time=Duration(seconds=3700))}
    stages = rollout(baking, {"remainder": True})
    message = (
        "The rollout takes at least 1 h 1 min 40 s, but the job expires 1 h after its start:"
        " stage 0: 1 h 1 min 40 s of bake_time. Let it expire later or never, or shorten the stages"
    )

    async with world.with_background_work() as other:
        for_one_hour = create(other, rollout=stages, expires_in_hours=1)
        assert (await expect_error("EXPIRY_TOO_EARLY", for_one_hour)).message == message
        await create(other, rollout=stages, expires_in_hours=2)
        start_at = (await other.operator.get("j")).start_at
        expires_at = Timestamp(seconds=start_at.seconds + HOUR, nanos=start_at.nanos)
        update = other.operator.update("j", "expires_at", expires_at=expires_at)
        assert (await expect_error("EXPIRY_TOO_EARLY", update)).message == message


async def test_expiry_of_a_rollout_counts_from_the_start(world: World) -> None:
    # Two devices at one per minute: rounded up to an hour.
    slow = rollout({"releases_per_minute": 1, "remainder": True})
    await create(world, rollout=slow)

    job = await world.operator.get("j")
    assert seconds_between(job.start_at, job.expires_at) == 25 * HOUR
    update = world.operator.update("j", "expires_at", expires_at=await world.time_in(HOUR / 2))
    failure = await expect_error("EXPIRY_TOO_EARLY", update)
    assert failure.message == "The job expires before it starts. Let it expire later or never"


async def test_retry_before_the_start_counts_its_expiry_from_the_start(world: World) -> None:
    await create(world)
    await world.operator.cancel_execution("j", "pump")

    retried = await world.operator.retry("j", "REJECTED", expires_in_hours=1)

    job = await world.operator.get("j")
    assert retried.retried_count == 1
    assert seconds_between(job.start_at, retried.expires_at) == HOUR
    assert job.execution_counts == pb.ExecutionCounts(held=2)


async def test_scheduled_job_cannot_be_deleted_but_canceled(world: World) -> None:
    await create(world)

    failure = await expect_error("JOB_NOT_DELETABLE", world.operator.delete("j"))
    assert failure.message == "Cannot delete job j in status SCHEDULED; cancel it first"
    await world.operator.cancel("j")
    assert await world.operator.status() == "CANCELED"
    assert await world.operator.counts() == {"rejected": 2}
    await world.operator.delete("j")


async def test_each_status_filter_finds_the_jobs_with_the_status(world: World) -> None:
    await create(world)
    operator = world.operator
    await create(world, job_id="paused")
    await operator.pause("paused")
    await world.create("running", "expired")
    await world.expire("expired")

    async def listed(*statuses: str, **filters: Any) -> list[str]:
        return [job.job_id for job in (await operator.list(statuses=statuses, **filters)).jobs]

    assert await listed("SCHEDULED") == ["j"]
    assert await listed("PAUSED") == ["paused"]
    assert await listed("IN_PROGRESS", "SCHEDULED") == ["running", "j"]
    assert {*await listed("COMPLETED", "SCHEDULED")} == {"expired", "j"}
    assert await listed("SCHEDULED", document_type="other") == []
    assert await listed("SCHEDULED", job_id_prefix="j") == ["j"]
    await world.pass_time(HOUR)
    assert await listed("SCHEDULED") == []
    assert await listed("IN_PROGRESS") == ["running", "j"]


async def test_scheduled_job_counts_as_active(world: World) -> None:
    async with world.on_another_server(JOBS_MAX_ACTIVE_JOBS="1") as other:
        await create(other)
        await expect_error("LIMIT_EXCEEDED", other.create("k"))


@pytest.mark.slow
async def test_watches_are_told_of_the_start_without_a_write(world: World) -> None:
    await create(world)
    jobs = world.operator.watch()
    assert (await anext(jobs)).status == pb.Job.SCHEDULED
    executions = world.device("pump").watch()
    assert not (await anext(executions)).executions

    await world.pass_time(HOUR)

    assert (await anext(jobs)).status == pb.Job.IN_PROGRESS
    assert [e.job_id for e in (await anext(executions)).executions] == ["j"]
    await jobs.aclose()
