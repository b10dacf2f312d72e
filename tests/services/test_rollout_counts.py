"""The counts of a job while a rate releases executions and others are canceled."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server
from tests.support.staged_jobs import create_staged_job, rollout
from tests.support.waiting import TIMEOUT

DEVICES = 200


async def in_order(database: Database, tenant: str) -> list[str]:
    """The devices in the order of their release."""
    rows = await database.owner.fetch(
        "SELECT device_id FROM jobs.job_executions WHERE tenant_id = $1 ORDER BY rank", tenant
    )
    return [row["device_id"] for row in rows]


def counts(executions: list[pb.JobExecution]) -> pb.ExecutionCounts:
    """The counts of these executions."""
    statuses = Counter(pb.JobExecution.Status.Name(e.status).lower() for e in executions)
    return pb.ExecutionCounts(**statuses)


@pytest.mark.slow
async def test_counts_equal_a_recount_while_a_rate_runs_and_held_executions_are_canceled(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout(
            # A hundred a second. The first stage stays open, because its devices do not finish.
            {"device_count": DEVICES // 2, "releases_per_minute": 6000},
            {"remainder": True},
        ),
    )
    devices = await in_order(database, operator.tenant)
    canceled = devices[DEVICES // 2 - 1 : DEVICES // 4 : -2] + devices[-1 : DEVICES // 2 : -2]
    all_started = asyncio.Event()

    async def start_at_release() -> None:
        """Start each execution of the first stage as soon as possible."""
        for name in devices[: DEVICES // 2]:
            if name not in canceled:
                device = server.device(operator.tenant, name)
                while await device.start_next() is None:
                    pass
        all_started.set()

    async def cancel_one_by_one() -> None:
        for name in canceled:
            await operator.cancel_execution("j", name)

    async def read() -> int:
        reads = 0
        while not all_started.is_set():
            job = await operator.get("j")
            executions = list(job.executions)
            assert job.execution_counts == counts(executions)
            assert job.total_executions == DEVICES
            for number, stage in enumerate(job.stages):
                of_stage = [e for e in executions if e.stage == number]
                assert stage.execution_counts == counts(of_stage)
            reads += 1
        return reads

    async with asyncio.timeout(TIMEOUT):
        _, _, reads = await asyncio.gather(start_at_release(), cancel_one_by_one(), read())
    assert reads > 1


def watch(operator: Operator, job_id: str) -> AsyncIterator[pb.Job]:
    """Open a watch and iterate over its jobs."""
    stub: Any = operator.stub
    call = stub.WatchJob(
        pb.WatchJobRequest(job_id=job_id), metadata=operator.metadata, timeout=TIMEOUT
    )

    async def jobs() -> AsyncIterator[pb.Job]:
        try:
            async for response in call:
                yield response.job
        finally:
            call.cancel()

    return jobs()


async def test_watch_sends_counts_that_a_rate_changes_at_most_four_times_a_second(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 10_000)
    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout({"remainder": True, "releases_per_minute": 60_000}),
    )
    jobs = watch(operator, "j")
    first = await anext(jobs)
    clock = asyncio.get_running_loop().time
    times = [clock()]
    released = [first.stages[0].released_count]
    while len(times) < 4:
        job = await anext(jobs)
        assert job.stages[0].execution_counts.queued == job.stages[0].released_count
        times.append(clock())
        released.append(job.stages[0].released_count)

    assert released == sorted(set(released))
    # The hub sends a value at most every 250 ms; the first can be late.
    assert times[-1] - times[1] > 2 * 0.2


async def test_watch_sends_a_trip_and_the_opening_of_a_stage(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 4)
    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout({"device_count": 1}, {"device_count": 1}, {"remainder": True}),
        failure_criteria=[pb.FailureCriterion(count=1, failure_codes=["E1"])],
    )
    first, second, *_ = await in_order(database, operator.tenant)
    jobs = watch(operator, "j")
    assert [stage.state for stage in (await anext(jobs)).stages] == [
        pb.JobStage.OPEN,
        pb.JobStage.PENDING,
        pb.JobStage.PENDING,
    ]

    await server.device(operator.tenant, first).update("j", pb.JobExecution.SUCCEEDED)
    opened = await anext(jobs)
    await server.device(operator.tenant, second).update(
        "j", pb.JobExecution.FAILED, failure_code="E1"
    )
    tripped = await anext(jobs)

    assert opened.stages[1].state == pb.JobStage.OPEN
    assert (opened.execution_counts.queued, opened.execution_counts.held) == (1, 2)
    assert tripped.status == pb.Job.PAUSED
    assert tripped.pause.cause == pb.Pause.FAILURE_CRITERION
    assert tripped.trip.failure_count == 1
    assert list(tripped.trip.criterion.failure_codes) == ["E1"]
    assert tripped.trip.HasField("tripped_at")
    assert (await operator.list()).jobs[0].trip == tripped.trip


async def test_count_of_held_executions_is_unchanged_by_the_cancel_of_a_released_one(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 4)
    await operator.create(
        job_id="j", target_all=True, rollout=rollout({"device_count": 2}, {"remainder": True})
    )
    devices = await in_order(database, operator.tenant)

    await operator.cancel_execution("j", devices[0])
    released_canceled = await operator.get("j")
    await operator.cancel_execution("j", devices[3])
    held_canceled = await operator.get("j")

    assert released_canceled.execution_counts == pb.ExecutionCounts(queued=1, held=2, rejected=1)
    assert held_canceled.execution_counts == pb.ExecutionCounts(queued=1, held=1, rejected=2)


async def test_no_count_is_negative_when_the_clock_of_the_database_goes_back(
    database: Database, server: Server, operator: Operator
) -> None:
    """Six executions have started, but one is released: as after a failover."""
    await database.add_devices(operator.tenant, 10)
    job = await create_staged_job(
        database,
        server,
        operator,
        {"device_count": 8, "releases_per_minute": 1},
        {"remainder": True},
    )
    await job.database.pass_time(361)
    for device in job.devices(0)[:6]:
        await device.start("j")

    await job.database.pass_time(-300)

    stored = await job.get()
    assert stored.execution_counts == pb.ExecutionCounts(in_progress=6, held=4)
    assert stored.stages[0].execution_counts == pb.ExecutionCounts(in_progress=6, held=2)


async def test_all_stages_have_passed_when_the_job_is_completed(
    database: Database, server: Server, operator: Operator
) -> None:
    """The first stage takes all devices, so the others are empty."""
    await database.add_devices(operator.tenant, 2)
    job = await create_staged_job(
        database, server, operator, {"device_count": 9}, {"device_count": 9}, {"remainder": True}
    )

    await job.finish(0)

    stored = await job.get()
    assert stored.status == pb.Job.COMPLETED
    assert [stage.state for stage in stored.stages] == [pb.JobStage.PASSED] * 3


@pytest.mark.parametrize("force", [False, True])
async def test_stages_of_a_canceled_job_are_passed_when_nothing_is_pending(
    database: Database, server: Server, operator: Operator, force: bool
) -> None:
    await database.add_devices(operator.tenant, 3)
    job = await create_staged_job(
        database, server, operator, {"device_count": 2}, {"remainder": True}
    )
    await job.device(0).start("j")

    await operator.cancel("j", force=force)

    states = [stage.state for stage in (await job.get()).stages]
    running = pb.JobStage.PASSED if force else pb.JobStage.OPEN
    assert states == [running, pb.JobStage.PASSED]
