"""Jobs with a start time: what devices, operators and watches see before and after it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until

FAILED_PRECONDITION = StatusCode.FAILED_PRECONDITION
HOUR = 3600


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The device "pump". The tenant also has "valve"."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    return server.device(operator.tenant, "pump")


async def time_in(database: Database, seconds: float) -> Timestamp:
    """The time of the database, this many seconds later."""
    timestamp = Timestamp()
    timestamp.FromDatetime(
        await database.owner.fetchval("SELECT jobs.now() + $1", timedelta(seconds=seconds))
    )
    return timestamp


def stages(*stages: pb.Stage) -> pb.Rollout:
    """A rollout with these stages."""
    return pb.Rollout(stages=stages)


async def create(
    database: Database, operator: Operator, seconds: float = HOUR, **fields: Any
) -> pb.CreateJobResponse:
    """Create the job "j", which starts in this many seconds."""
    target = {"target_all": True} if "target_device_id" not in fields else {}
    start_at = await time_in(database, seconds)
    return await operator.create(job_id="j", start_at=start_at, **target, **fields)


async def wait_for_start(operator: Operator) -> None:
    """Wait until the job "j" has started by the clock of the database."""

    async def has_started() -> bool:
        return (await operator.get("j")).status == pb.Job.IN_PROGRESS

    await wait_until(has_started)


def seconds_between(start: Timestamp, end: Timestamp) -> float:
    """The seconds from one time to another."""
    return (end.ToNanoseconds() - start.ToNanoseconds()) / 1e9


async def test_job_is_scheduled_until_it_starts(
    database: Database, operator: Operator, pump: Device
) -> None:
    created = await create(database, operator)

    assert created.status == pb.Job.SCHEDULED
    job = await operator.get("j")
    assert job.status == pb.Job.SCHEDULED
    assert job.execution_counts == pb.ExecutionCounts(held=2)
    assert {e.status for e in job.executions} == {pb.JobExecution.HELD}
    assert seconds_between(job.start_at, job.expires_at) == 24 * HOUR
    assert created.expires_at == job.expires_at
    assert seconds_between(job.created_at, job.executions[0].queued_at) == 0

    await database.pass_time(HOUR)

    started = await operator.get("j")
    assert started.status == pb.Job.IN_PROGRESS
    assert started.execution_counts == pb.ExecutionCounts(queued=2)
    assert started.etag == job.etag


async def test_device_starts_from_the_start_time_on(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator)
    await operator.create(job_id="later", target_all=True)

    assert [e.job_id for e in (await pump.pending()).executions] == ["later"]
    for call in (pump.start("j"), pump.update("j", "SUCCEEDED")):
        with expect_failure(FAILED_PRECONDITION, "EXECUTION_HELD"):
            await call
    await database.pass_time(HOUR)

    started = await pump.start_next()
    assert started is not None
    assert started.job_id == "j"


async def test_start_time_that_has_passed_means_now(
    database: Database, operator: Operator, pump: Device
) -> None:
    created = await create(database, operator, -HOUR)

    job = await operator.get("j")
    assert (created.status, job.status) == (pb.Job.IN_PROGRESS, pb.Job.IN_PROGRESS)
    assert job.start_at == job.created_at
    assert seconds_between(job.created_at, job.expires_at) == 24 * HOUR
    assert await pump.start_next()


async def test_repeated_create_returns_the_first_response_after_the_start_and_an_update(
    database: Database, operator: Operator, pump: Device
) -> None:
    request = {"job_id": "j", "target_all": True, "start_at": await time_in(database, HOUR)}
    first = await operator.create(**request)
    await operator.update("j", "start_at", start_at=await time_in(database, 2 * HOUR))
    await database.pass_time(3 * HOUR)

    assert await operator.create(**request) == first
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await operator.create(**request | {"start_at": await time_in(database, HOUR)})


@pytest.mark.parametrize("call", ["create", "validate", "update"])
async def test_start_is_rejected_when_it_is_more_than_90_days_ahead(
    database: Database, operator: Operator, pump: Device, call: str
) -> None:
    await create(database, operator, 90 * 24 * HOUR - 60)
    too_late = await time_in(database, 90 * 24 * HOUR + 60)

    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        if call == "update":
            await operator.update("j", "start_at", start_at=too_late)
        else:
            await operator.create(
                job_id="k", target_all=True, start_at=too_late, validate_only=call == "validate"
            )
    assert failure.violations == {"start_at": "start_at must be at most 90 days from now"}


async def test_validation_returns_the_status_and_the_expiry_of_a_scheduled_job(
    database: Database, operator: Operator, pump: Device
) -> None:
    start_at = await time_in(database, HOUR)

    response = await operator.create(
        target_all=True, start_at=start_at, expires_in_hours=1, validate_only=True
    )

    assert response.status == pb.Job.SCHEDULED
    assert seconds_between(start_at, response.expires_at) == HOUR


async def test_expiry_counts_from_the_start(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator, expires_in_hours=1)

    await database.pass_time(1.5 * HOUR)
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS
    await database.pass_time(0.6 * HOUR)
    job = await operator.get("j")
    assert (job.status, job.execution_counts.timed_out) == (pb.Job.COMPLETED, 2)


async def test_release_rate_counts_from_the_start(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(
        database, operator, rollout=stages(pb.Stage(releases_per_minute=1, remainder=True))
    )

    await database.pass_time(HOUR)
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(held=2)
    await database.pass_time(60)
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(held=1, queued=1)
    await database.pass_time(60)
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(queued=2)


async def test_advance_fails_before_the_start_and_pause_does_not_change_that(
    database: Database, operator: Operator, pump: Device
) -> None:
    rollout = stages(pb.Stage(device_count=1), pb.Stage(remainder=True))
    await create(database, operator, rollout=rollout)

    with expect_failure(FAILED_PRECONDITION, "JOB_NOT_ADVANCEABLE") as failure:
        await operator.advance("j")
    assert failure.metadata == {"jobId": "j", "status": "SCHEDULED"}
    assert failure.message == "Job j has not started, so no stage can open; UpdateJob can start it"
    await operator.pause("j")
    with expect_failure(FAILED_PRECONDITION, "JOB_NOT_ADVANCEABLE") as failure:
        await operator.advance("j")
    assert failure.metadata == {"jobId": "j", "status": "PAUSED"}
    await operator.resume("j")
    await database.pass_time(HOUR)
    await operator.advance("j")
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(queued=2)


async def test_approval_before_the_start_opens_the_next_stage_at_the_start(
    database: Database, server: Server, operator: Operator, pump: Device
) -> None:
    gate = pb.Gate(require_approval=True)
    await create(
        database,
        operator,
        rollout=stages(
            pb.Stage(group_id="nobody", allow_empty=True, gate=gate), pb.Stage(remainder=True)
        ),
    )

    job = await server.operator(operator.tenant, "anna").approve("j", 0)

    assert [stage.state for stage in job.stages] == [pb.JobStage.PASSED, pb.JobStage.OPEN]
    assert {stage.opened_at.ToNanoseconds() for stage in job.stages} == {
        job.start_at.ToNanoseconds()
    }
    assert job.execution_counts == pb.ExecutionCounts(held=2)
    assert job.status == pb.Job.SCHEDULED
    await database.pass_time(HOUR)
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(queued=2)


async def test_stage_bakes_from_the_start_when_its_executions_are_canceled_before(
    database: Database, pump: Device, tenant: str
) -> None:
    settings = {"JOBS_OWNER_DATABASE_URL": database.owner_dsn}
    async with running_server(database.request_dsn, **settings) as server:
        operator = server.operator(tenant, "olivia")
        first, second = await database.order_of_release(["pump", "valve"], "s")
        rollout = stages(
            pb.Stage(device_count=1, gate=pb.Gate(bake_time=Duration(seconds=600))),
            pb.Stage(remainder=True),
        )
        rollout.seed = "s"
        await create(database, operator, rollout=rollout)

        await operator.cancel_execution("j", first)

        job = await operator.get("j")
        stage = job.stages[0]
        assert stage.state == pb.JobStage.OPEN
        assert seconds_between(job.start_at, stage.next_opens_at) == 600
        assert {e.device_id: e.status for e in job.executions}[second] == pb.JobExecution.HELD


async def test_job_that_is_resumed_before_its_start_stays_scheduled(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator, rollout=stages(pb.Stage(remainder=True)))
    before = await operator.get("j", executions_limit=0)

    paused = await operator.pause("j")
    await database.pass_time(HOUR / 2)
    resumed = await operator.resume("j")

    assert (paused.status, resumed.status) == (pb.Job.PAUSED, pb.Job.SCHEDULED)
    assert resumed.start_at == before.start_at
    assert resumed.expires_at == before.expires_at
    assert resumed.stages == before.stages
    await database.pass_time(HOUR / 2)
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(queued=2)


@pytest.mark.parametrize("rollout", [None, stages(pb.Stage(remainder=True))])
async def test_executions_stay_held_until_resume_when_the_start_passes_during_a_pause(
    database: Database, operator: Operator, pump: Device, rollout: pb.Rollout | None
) -> None:
    await create(database, operator, rollout=rollout)
    await operator.pause("j")

    await database.pass_time(2 * HOUR)

    job = await operator.get("j")
    assert (job.status, job.execution_counts) == (pb.Job.PAUSED, pb.ExecutionCounts(held=2))
    with expect_failure(FAILED_PRECONDITION, "EXECUTION_HELD"):
        await pump.update("j", "SUCCEEDED")
    resumed = await operator.resume("j")
    assert (resumed.status, resumed.start_at) == (pb.Job.IN_PROGRESS, job.start_at)
    assert resumed.execution_counts == pb.ExecutionCounts(queued=2)
    assert await pump.start_next()


async def test_release_rate_counts_from_the_resume_when_the_start_passes_during_a_pause(
    database: Database, operator: Operator, pump: Device
) -> None:
    rollout = stages(pb.Stage(releases_per_minute=1, remainder=True))
    await create(database, operator, rollout=rollout)
    await operator.pause("j")
    await database.pass_time(2 * HOUR)

    await operator.resume("j")

    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(held=2)
    await database.pass_time(60)
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(held=1, queued=1)


async def test_rate_that_changes_before_the_start_releases_nothing(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(
        database, operator, rollout=stages(pb.Stage(releases_per_minute=1, remainder=True))
    )
    await database.pass_time(HOUR / 2)

    await operator.update("j", "rollout.stages", rollout=stages(pb.Stage(remainder=True)))

    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(held=2)
    await database.pass_time(HOUR / 2)
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(queued=2)


async def test_update_of_the_start_moves_the_expiry_and_the_stages(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator, rollout=stages(pb.Stage(remainder=True)), expires_in_hours=2)
    start_at = await time_in(database, 3 * HOUR)

    job = await operator.update("j", "start_at", start_at=start_at)

    assert (job.status, job.start_at) == (pb.Job.SCHEDULED, start_at)
    assert seconds_between(start_at, job.expires_at) == 2 * HOUR
    assert job.stages[0].opened_at == start_at
    await database.pass_time(2 * HOUR)
    assert (await operator.get("j")).status == pb.Job.SCHEDULED


async def test_update_without_the_start_that_it_names_is_rejected(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator)

    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.update("j", "start_at")

    assert list(failure.violations) == ["start_at"]
    assert (await operator.get("j")).status == pb.Job.SCHEDULED


async def test_update_to_a_start_that_has_passed_starts_the_job_now(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator, expires_in_hours=2)

    job = await operator.update("j", "start_at", start_at=await time_in(database, -HOUR))

    assert job.status == pb.Job.IN_PROGRESS
    assert seconds_between(job.start_at, job.expires_at) == 2 * HOUR
    assert abs(seconds_between(await time_in(database, 0), job.start_at)) < TIMEOUT
    assert await pump.start_next()


async def test_explicit_expiry_wins_over_the_move_by_the_start(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator)
    start_at, expires_at = [await time_in(database, hours * HOUR) for hours in (3, 4)]

    job = await operator.update(
        "j", "start_at", "expires_at", start_at=start_at, expires_at=expires_at
    )

    assert (job.start_at, job.expires_at) == (start_at, expires_at)


async def test_job_that_never_expires_still_never_expires_after_an_update_of_its_start(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator, never_expires=True)

    job = await operator.update("j", "start_at", start_at=await time_in(database, 2 * HOUR))

    assert not job.HasField("expires_at")


@pytest.mark.parametrize(("has_start", "paused"), [(True, False), (True, True), (False, False)])
async def test_update_of_the_start_is_rejected_when_the_job_has_started(
    database: Database, operator: Operator, pump: Device, has_start: bool, paused: bool
) -> None:
    if has_start:
        await create(database, operator)
    else:
        await operator.create(job_id="j", target_all=True)
    if paused:
        await operator.pause("j")
    await database.pass_time(HOUR)

    with expect_failure(FAILED_PRECONDITION, "JOB_NOT_UPDATABLE") as failure:
        await operator.update("j", "start_at", start_at=await time_in(database, HOUR))
    assert failure.message == (
        "Job j has started, so its start_at can't change; PauseJob can stop it"
    )
    assert failure.metadata == {"jobId": "j", "status": "PAUSED" if paused else "IN_PROGRESS"}


async def test_update_of_the_start_is_rejected_when_the_job_is_canceled(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator)
    await operator.cancel("j")

    with expect_failure(FAILED_PRECONDITION, "JOB_NOT_UPDATABLE") as failure:
        await operator.update("j", "start_at", start_at=await time_in(database, HOUR))
    assert failure.message == "Cannot update job j in status CANCELED"


@pytest.mark.slow
async def test_update_is_rejected_when_the_start_passes_while_it_waits_for_the_job_lock(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator, 0.3)
    start_at = await time_in(database, HOUR)

    async with job_lock_held(database, operator.tenant, "j"):
        update = asyncio.create_task(operator.update("j", "start_at", start_at=start_at))
        await database.wait_for_blocked_sessions(1)
        await wait_for_start(operator)
    with expect_failure(FAILED_PRECONDITION, "JOB_NOT_UPDATABLE"):
        await update


@pytest.mark.slow
async def test_device_starts_when_the_start_passes_while_it_waits_for_the_job_lock(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator, 0.3)

    async with job_lock_held(database, operator.tenant, "j"):
        start = asyncio.create_task(pump.start("j"))
        await database.wait_for_blocked_sessions(1)
        await wait_for_start(operator)
    assert (await start).status == pb.JobExecution.IN_PROGRESS


async def test_device_does_not_start_when_the_start_is_moved_while_it_waits_for_the_job_lock(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator)

    async with job_lock_held(database, operator.tenant, "j"):
        update = asyncio.create_task(
            operator.update("j", "start_at", start_at=await time_in(database, 3 * HOUR))
        )
        await database.wait_for_blocked_sessions(1)
        start = asyncio.create_task(pump.start("j"))
        await database.wait_for_blocked_sessions(2)
    await update
    with expect_failure(FAILED_PRECONDITION, "EXECUTION_HELD"):
        await start


async def test_resume_waits_for_a_pause_and_shifts_nothing_when_the_start_is_ahead(
    database: Database, operator: Operator, pump: Device
) -> None:
    created = await create(database, operator)

    async with job_lock_held(database, operator.tenant, "j"):
        pause = asyncio.create_task(operator.pause("j"))
        await database.wait_for_blocked_sessions(1)
        resume = asyncio.create_task(operator.resume("j"))
        await database.wait_for_blocked_sessions(2)
    await pause
    assert (await resume).expires_at == created.expires_at
    await database.pass_time(HOUR)
    assert await pump.start_next()


async def test_rollout_that_cannot_end_is_rejected_with_times_from_the_start(
    database: Database, operator: Operator, pump: Device
) -> None:
    rollout = stages(pb.Stage(device_count=1, gate=pb.Gate(bake_time=Duration(seconds=3700))))
    rollout.stages.add(remainder=True)
    message = (
        "The rollout takes at least 1 h 1 min 40 s, but the job expires 1 h after its start:"
        " stage 0: 1 h 1 min 40 s of bake_time. Let it expire later or never, or shorten the stages"
    )

    async with running_server(
        database.request_dsn, JOBS_OWNER_DATABASE_URL=database.owner_dsn
    ) as server:
        operator = server.operator(operator.tenant, "olivia")
        with expect_failure(FAILED_PRECONDITION, "EXPIRY_TOO_EARLY") as failure:
            await create(database, operator, rollout=rollout, expires_in_hours=1)
        assert failure.message == message
        await create(database, operator, rollout=rollout, expires_in_hours=2)
        expires_at = Timestamp(seconds=(await operator.get("j")).start_at.seconds + HOUR)
        expires_at.nanos = (await operator.get("j")).start_at.nanos
        with expect_failure(FAILED_PRECONDITION, "EXPIRY_TOO_EARLY") as failure:
            await operator.update("j", "expires_at", expires_at=expires_at)
        assert failure.message == message


async def test_default_expiry_of_a_long_rollout_counts_from_the_start(
    database: Database, operator: Operator, pump: Device
) -> None:
    # Two devices at one per minute: rounded up to an hour.
    await create(
        database, operator, rollout=stages(pb.Stage(releases_per_minute=1, remainder=True))
    )

    job = await operator.get("j")

    assert seconds_between(job.start_at, job.expires_at) == 25 * HOUR


async def test_expiry_before_the_start_is_rejected(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator)

    with expect_failure(FAILED_PRECONDITION, "EXPIRY_TOO_EARLY") as failure:
        await operator.update("j", "expires_at", expires_at=await time_in(database, HOUR / 2))
    assert failure.message == ("The job expires before it starts. Let it expire later or never")


async def test_retry_before_the_start_counts_its_expiry_from_the_start(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator)
    await operator.cancel_execution("j", "pump")

    retried = await operator.retry("j", "REJECTED", expires_in_hours=1)

    job = await operator.get("j")
    assert retried.retried_count == 1
    assert seconds_between(job.start_at, retried.expires_at) == HOUR
    assert job.execution_counts == pb.ExecutionCounts(held=2)


async def test_job_completes_before_its_start_when_all_executions_are_canceled(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator, target_device_id="pump")

    await operator.cancel_execution("j", "pump")

    assert (await operator.get("j")).status == pb.Job.COMPLETED
    await operator.retry("j", "REJECTED")
    assert (await operator.get("j")).status == pb.Job.SCHEDULED


async def test_scheduled_job_cannot_be_deleted_but_canceled(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator)

    with expect_failure(FAILED_PRECONDITION, "JOB_NOT_DELETABLE") as failure:
        await operator.delete("j")
    assert failure.message == "Cannot delete job j in status SCHEDULED; cancel it first"
    await operator.cancel("j")
    job = await operator.get("j")
    assert (job.status, job.execution_counts) == (pb.Job.CANCELED, pb.ExecutionCounts(rejected=2))
    await operator.delete("j")


async def test_each_status_filter_finds_the_jobs_with_the_status(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator)
    await operator.create(job_id="paused", target_all=True, start_at=await time_in(database, HOUR))
    await operator.pause("paused")
    await operator.create(job_id="running", target_all=True)
    await operator.create(job_id="expired", target_all=True)
    await database.expire(operator.tenant, "expired")

    async def listed(*statuses: str, **filters: Any) -> list[str]:
        return [job.job_id for job in (await operator.list(statuses=statuses, **filters)).jobs]

    assert await listed("SCHEDULED") == ["j"]
    assert await listed("PAUSED") == ["paused"]
    assert await listed("IN_PROGRESS", "SCHEDULED") == ["running", "j"]
    assert {*await listed("COMPLETED", "SCHEDULED")} == {"expired", "j"}
    assert await listed("SCHEDULED", document_type="other") == []
    assert await listed("SCHEDULED", job_id_prefix="j") == ["j"]
    await database.pass_time(HOUR)
    assert await listed("SCHEDULED") == []
    assert await listed("IN_PROGRESS") == ["running", "j"]


async def test_scheduled_job_counts_as_active(database: Database, pump: Device) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_ACTIVE_JOBS="1") as server:
        operator = server.operator(pump.tenant)
        await create(database, operator)
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
            await operator.create(job_id="k", target_all=True)


@pytest.mark.slow
async def test_watches_are_told_of_the_start_within_a_second_without_a_write(
    database: Database, operator: Operator, pump: Device
) -> None:
    await create(database, operator)
    request = pb.WatchJobRequest(job_id="j")
    jobs = operator.stub.WatchJob(request, metadata=operator.metadata, timeout=TIMEOUT)
    assert (await anext(aiter(jobs))).job.status == pb.Job.SCHEDULED
    executions = pump.watch()
    assert not (await anext(executions)).executions

    await database.pass_time(HOUR)

    loop = asyncio.get_running_loop()
    passed = loop.time()
    assert (await anext(aiter(jobs))).job.status == pb.Job.IN_PROGRESS
    assert [e.job_id for e in (await anext(executions)).executions] == ["j"]
    assert loop.time() - passed < 2  # a poll each second, and slow machines
    jobs.cancel()
