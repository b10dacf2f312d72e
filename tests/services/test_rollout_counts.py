"""The counts of a job while a rate releases executions and others are canceled."""

import asyncio
from collections import Counter
from contextlib import aclosing

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.waiting import TIMEOUT
from tests.support.world import World

DEVICES = 200


def counts(executions: list[pb.JobExecution]) -> pb.ExecutionCounts:
    statuses = Counter(pb.JobExecution.Status.Name(e.status).lower() for e in executions)
    return pb.ExecutionCounts(**statuses)


@pytest.mark.slow
async def test_counts_are_exact_while_a_rate_runs_and_executions_are_canceled(world: World) -> None:
    await world.add_devices(DEVICES)
    # A hundred a second. The first stage stays open, because its devices do not finish.
    half = DEVICES // 2
    job = await world.create_staged(
        {"device_count": half, "releases_per_minute": 6000}, {"remainder": True}
    )
    first, second = job.names
    canceled = first[: half // 2 : -2] + second[::-2]
    all_started = asyncio.Event()

    async def start_at_release() -> None:
        """Start each execution of the first stage as soon as possible."""
        for name in first:
            if name not in canceled:
                device = world.device(name)
                while await device.start_next() is None:
                    pass
        all_started.set()

    async def cancel_one_by_one() -> None:
        for name in canceled:
            await world.operator.cancel_execution("j", name)

    async def read() -> int:
        reads = 0
        while not all_started.is_set():
            read = await world.operator.get("j")
            executions = list(read.executions)
            assert read.execution_counts == counts(executions)
            assert read.total_executions == DEVICES
            for number, stage in enumerate(read.stages):
                of_stage = [e for e in executions if e.stage == number]
                assert stage.execution_counts == counts(of_stage)
            reads += 1
        return reads

    async with asyncio.timeout(TIMEOUT):
        _, _, reads = await asyncio.gather(start_at_release(), cancel_one_by_one(), read())
    assert reads > 1


async def test_watch_sends_counts_that_a_rate_changes(world: World) -> None:
    await world.add_devices(5)
    await world.create_staged({"remainder": True, "releases_per_minute": 1})

    async with aclosing(world.operator.watch()) as jobs:
        for released in (0, 1, 3):
            job = await anext(jobs)
            counts = job.execution_counts
            assert (job.stages[0].released_count, counts.queued) == (released, released)
            await world.pass_time(60 * (released + 1))


async def test_watch_sends_a_trip_and_the_opening_of_a_stage(world: World) -> None:
    await world.add_devices(4)
    job = await world.create_staged(
        {"device_count": 1},
        {"device_count": 1},
        {"remainder": True},
        failure_criteria=[pb.FailureCriterion(count=1, failure_codes=["E1"])],
    )
    jobs = world.operator.watch()
    states = [stage.state for stage in (await anext(jobs)).stages]
    assert states == [pb.JobStage.OPEN, pb.JobStage.PENDING, pb.JobStage.PENDING]

    await job.device(0).update("j", "SUCCEEDED")
    opened = await anext(jobs)
    await job.device(1).update("j", "FAILED", failure_code="E1")
    tripped = await anext(jobs)

    assert opened.stages[1].state == pb.JobStage.OPEN
    assert (opened.execution_counts.queued, opened.execution_counts.held) == (1, 2)
    assert tripped.status == pb.Job.PAUSED
    assert tripped.pause.cause == pb.Pause.FAILURE_CRITERION
    assert tripped.trip.failure_count == 1
    assert list(tripped.trip.criterion.failure_codes) == ["E1"]
    assert tripped.trip.HasField("tripped_at")
    assert (await world.operator.list()).jobs[0].trip == tripped.trip
    await jobs.aclose()


async def test_no_count_is_negative_when_the_clock_of_the_database_goes_back(world: World) -> None:
    """Six executions have started, but one is released: as after a failover."""
    await world.add_devices(10)
    job = await world.create_staged(
        {"device_count": 8, "releases_per_minute": 1}, {"remainder": True}
    )
    await world.pass_time(361)
    for device in job.devices(0)[:6]:
        await device.start("j")

    await world.pass_time(-300)

    stored = await job.get()
    assert stored.execution_counts == pb.ExecutionCounts(in_progress=6, held=4)
    assert stored.stages[0].execution_counts == pb.ExecutionCounts(in_progress=6, held=2)


async def test_all_stages_have_passed_when_the_job_is_completed(world: World) -> None:
    """The first stage takes all devices, so the others are empty."""
    await world.add_devices(2)
    job = await world.create_staged({"device_count": 9}, {"device_count": 9}, {"remainder": True})

    await job.finish(0)

    stored = await job.get()
    assert stored.status == pb.Job.COMPLETED
    assert [stage.state for stage in stored.stages] == [pb.JobStage.PASSED] * 3


@pytest.mark.parametrize("force", [False, True])
async def test_stages_of_a_canceled_job_pass_when_nothing_runs(world: World, force: bool) -> None:
    await world.add_devices(3)
    job = await world.create_staged({"device_count": 2}, {"remainder": True})
    await job.device(0).start("j")

    await world.operator.cancel("j", force=force)

    states = [stage.state for stage in (await job.get()).stages]
    assert states == [pb.JobStage.PASSED if force else pb.JobStage.OPEN, pb.JobStage.PASSED]
