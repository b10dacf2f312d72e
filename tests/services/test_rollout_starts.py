"""Starts of jobs with a rollout: held executions, max_in_progress, and batches with reports."""

import asyncio

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Operator, all_pending
from tests.support.database import request_session, send_batch
from tests.support.failures import expect_error
from tests.support.staged_jobs import StagedJob
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("ten_devices")


@pytest.fixture
async def staged(world: World) -> StagedJob:
    """A job with a stage of four devices and one of six."""
    return await world.create_staged({"device_count": 4}, {"remainder": True})


@pytest.fixture
async def limited(world: World) -> StagedJob:
    return await world.create_staged({"remainder": True}, max_in_progress=2)


async def apply(world: World, *updates: ExecutionUpdate) -> list[str]:
    """Apply updates as one batch of another server; return their outcomes."""
    return [row["outcome"] for row in await send_batch(world.database, world.tenant, *updates)]


@pytest.mark.parametrize("status", ["IN_PROGRESS", "SUCCEEDED"])
async def test_report_is_rejected_when_execution_is_held(staged: StagedJob, status: str) -> None:
    device = staged.device(1)

    failure = await expect_error("EXECUTION_HELD", device.update("j", status, execution_number=7))

    assert failure.metadata == {"jobId": "j", "deviceId": device.name}
    await expect_error("EXECUTION_HELD", device.start("j"))


async def test_executions_are_released_one_by_one_by_the_rate(world: World) -> None:
    job = await world.create_staged({"remainder": True, "releases_per_minute": 2})
    await world.create("later")
    await expect_error("EXECUTION_HELD", job.device(0, 0).start("j"))
    assert await job.device(0, 3).start_next_job() == "later"

    await world.pass_time(60)

    await job.device(0, 0).start("j")
    assert await all_pending(job.device(0, 1)) == ["j", "later"]
    assert await job.device(0, 1).start_next_job() == "j"
    await expect_error("EXECUTION_HELD", job.device(0, 2).start("j"))


async def test_start_is_rejected_when_max_in_progress_are_in_progress(limited: StagedJob) -> None:
    first, second, third, *_ = limited.devices(0)
    await first.start("j")
    await second.update("j", "IN_PROGRESS")

    for start in (third.start("j"), third.update("j", "IN_PROGRESS")):
        failure = await expect_error("JOB_FULL", start)
        assert failure.metadata == {"jobId": "j"}

    assert (await first.start("j")).version == 2
    await third.update("j", "SUCCEEDED")
    assert await limited.operator.counts() == {"queued": 7, "in_progress": 2, "succeeded": 1}


async def test_start_next_skips_a_full_job(operator: Operator, limited: StagedJob) -> None:
    await operator.create(job_id="later", target_all=True)
    first, second, third, fourth, *_ = limited.devices(0)
    for device in (first, second):
        assert await device.start_next_job() == "j"

    assert await third.start_next_job() == "later"
    assert await all_pending(fourth) == ["j", "later"]
    assert await first.start_next_job() == "j"


async def test_device_that_ends_makes_room_in_its_batch(world: World, limited: StagedJob) -> None:
    first, second, third, fourth, *_ = limited.names[0]
    for name in (first, second):
        await world.device(name).start("j")

    results = await apply(
        world,
        ExecutionUpdate("j", third, None),
        ExecutionUpdate(None, fourth, None, must_be_next=True),
        ExecutionUpdate("j", first, "SUCCEEDED"),
    )

    # Nothing is the fourth device's next execution, because the job was full before the batch.
    assert results == ["APPLIED", "NONE", "APPLIED"]


async def test_starts_of_a_batch_take_places_in_order(world: World, limited: StagedJob) -> None:
    names = limited.names[0]
    await world.create("later")

    results = await apply(
        world,
        ExecutionUpdate("later", names[0], None),
        ExecutionUpdate("j", names[1], None, execution_number=9),
        ExecutionUpdate("j", names[2], None),
        ExecutionUpdate(None, names[3], None, must_be_next=True),
        ExecutionUpdate("j", names[4], "IN_PROGRESS"),
        ExecutionUpdate(None, names[5], None, must_be_next=True),
        ExecutionUpdate("j", names[6], "FAILED"),
    )

    assert results == [
        *("APPLIED", "EXECUTION_CHANGED", "APPLIED", "APPLIED", "JOB_FULL", "AGAIN", "APPLIED")
    ]
    # Progress takes no place.
    progress = ExecutionUpdate("j", names[2], "IN_PROGRESS")
    start = ExecutionUpdate("j", names[4], None)
    assert await apply(world, progress, start) == ["APPLIED", "JOB_FULL"]


async def test_batch_returns_executions_in_order(world: World, staged: StagedJob) -> None:
    """Also if starts are applied later."""
    names = staged.names[0]

    rows = await send_batch(
        world.database,
        world.tenant,
        ExecutionUpdate("j", names[0], None, status_details='{"n": 0}'),
        ExecutionUpdate("j", names[1], "SUCCEEDED"),
        ExecutionUpdate("j", names[2], "IN_PROGRESS", extend_timeout_minutes=5),
        ExecutionUpdate("missing", names[3], None),
    )

    columns = ("outcome", "previous_status", "device_id", "status")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("APPLIED", "QUEUED", names[0], "IN_PROGRESS"),
        ("APPLIED", "QUEUED", names[1], "SUCCEEDED"),
        ("APPLIED", "QUEUED", names[2], "IN_PROGRESS"),
        ("EXECUTION_NOT_FOUND", None, None, None),
    ]
    assert rows[0]["status_details"] == '{"n": 0}'
    assert rows[2]["times_out_at"] is not None


async def test_report_releases_a_start_of_the_same_batch(world: World, staged: StagedJob) -> None:
    *others, last = staged.names[0]
    for name in others:
        await world.device(name).update("j", "SUCCEEDED")
    released, reporting, *_ = staged.names[1]

    results = await apply(
        world,
        ExecutionUpdate("j", released, None),
        ExecutionUpdate("j", last, "SUCCEEDED"),
        ExecutionUpdate("j", reporting, "FAILED"),
    )

    assert results == ["APPLIED", "APPLIED", "EXECUTION_HELD"]


async def test_nothing_starts_in_a_batch_whose_report_trips_a_criterion(world: World) -> None:
    job = await world.create_staged(
        {"remainder": True}, failure_criteria=[pb.FailureCriterion(count=1)]
    )
    await world.create("later")
    names = job.names[0]

    results = await apply(
        world,
        ExecutionUpdate("j", names[0], None),
        ExecutionUpdate(None, names[1], None, must_be_next=True),
        ExecutionUpdate("later", names[2], None),
        ExecutionUpdate("j", names[3], "SUCCEEDED"),
        ExecutionUpdate("j", names[4], "FAILED"),
    )

    assert results == ["JOB_PAUSED", "AGAIN", "APPLIED", "APPLIED", "APPLIED"]
    assert await job.operator.status() == "PAUSED"


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_execution_that_is_released_during_the_call_is_queued(world: World) -> None:
    """A wait for the job lock can lie between the start of the transaction and the decision."""
    job = await world.create_staged({"remainder": True, "releases_per_minute": 60})
    update = ExecutionUpdate("j", job.names[0][0], None, expected_version=99)

    async with request_session(world.database) as (session, store):
        await session.execute("BEGIN; SELECT now()")
        # The first execution is released now: after the start of the transaction.
        await world.owner_value(
            "UPDATE jobs.jobs SET release_since = (SELECT clock_timestamp() - interval '1 second')"
            " WHERE tenant_id = $1 AND job_id = 'j'"
        )
        (row,) = await store.update_executions(world.tenant, [update], wait_ms=0)

    assert (row["outcome"], row["status"]) == ("EXECUTION_CHANGED", "QUEUED")


async def test_last_place_is_taken_once_by_two_servers(world: World) -> None:
    job = await world.create_staged({"remainder": True}, max_in_progress=1)
    first, second, *_ = job.devices(0)
    async with world.on_another_server() as other:
        start, late = await world.lock_in_order(
            first.start("j"), other.device(second.name).start("j")
        )
        assert (await start).status == pb.JobExecution.IN_PROGRESS
        await expect_error("JOB_FULL", late)

    assert await world.operator.counts() == {"queued": 9, "in_progress": 1}


async def test_max_in_progress_is_not_exceeded_by_many_concurrent_starts(world: World) -> None:
    job = await world.create_staged({"remainder": True}, max_in_progress=3)
    seen = []
    async with world.on_another_server() as other:

        async def work(number: int) -> None:
            device = (world, other)[number % 2].device(job.names[0][number])
            while await device.start_next() is None:
                seen.append((await job.get()).execution_counts.in_progress)
            await device.update("j", "SUCCEEDED")

        await asyncio.gather(*(work(number) for number in range(10)))

    assert max(seen, default=0) <= 3
    assert await world.operator.status() == "COMPLETED"
