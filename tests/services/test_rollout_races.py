"""Transitions of jobs with a rollout that wait for each other's job lock, in both orders."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.staged_jobs import StagedJob, create_staged_job

FAILED_PRECONDITION = StatusCode.FAILED_PRECONDITION
REST: dict[str, Any] = {"remainder": True}


@pytest.fixture
async def devices(database: Database, operator: Operator) -> None:
    """Ten devices of the tenant."""
    await database.add_devices(operator.tenant, 10)


@asynccontextmanager
async def uncommitted(job: StagedJob, call: str, *args: object) -> AsyncIterator[Any]:
    """Call a function as another server would, and commit when the block ends."""
    session = await asyncpg.connect(job.database.request_dsn)
    try:
        async with session.transaction():
            parameters = "".join(f", ${n}" for n in range(3, 3 + len(args)))
            sql = f"SELECT * FROM jobs.{call}($1, $2{parameters})"
            yield await session.fetch(sql, job.operator.tenant, job.job_id, *args)
    finally:
        await session.close()


@asynccontextmanager
async def uncommitted_update(
    job: StagedJob, device: Device, status: str | None
) -> AsyncIterator[None]:
    """Apply a start (None) or a report as another server would; commit when the block ends."""
    session = await asyncpg.connect(job.database.request_dsn)
    try:
        async with session.transaction():
            outcome = await session.fetchval(
                "SELECT outcome FROM jobs.update_executions($1, 1000, ARRAY[$2], '{f}', ARRAY[$3],"
                " ARRAY[$4], '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{f}', '{NULL}')",
                job.operator.tenant,
                job.job_id,
                device.name,
                status,
            )
            assert outcome == "APPLIED"
            yield
    finally:
        await session.close()


async def waiting(job: StagedJob, call: Awaitable[Any]) -> "asyncio.Task[Any]":
    """Start a call and return when it waits for the job lock."""
    task = asyncio.ensure_future(call)
    await job.database.wait_for_blocked_sessions(1)
    return asyncio.ensure_future(task)


@pytest.fixture
async def fragile(
    database: Database, server: Server, operator: Operator, devices: None
) -> StagedJob:
    """A job that one failure pauses."""
    criterion = pb.FailureCriterion(count=1)
    return await create_staged_job(database, server, operator, REST, failure_criteria=[criterion])


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_before_the_report_that_trips_is_in_progress(fragile: StagedJob) -> None:
    starts, fails, late, *_ = fragile.devices(0)

    async with uncommitted_update(fragile, starts, None):
        report = await waiting(fragile, fails.update("j", "FAILED"))
    await report

    job = await fragile.get()
    assert job.status == pb.Job.PAUSED
    assert job.execution_counts == pb.ExecutionCounts(queued=8, in_progress=1, failed=1)
    with expect_failure(FAILED_PRECONDITION, "JOB_PAUSED"):
        await late.start("j")
    await fragile.check_counts()


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_after_the_report_that_trips_is_rejected(fragile: StagedJob) -> None:
    starts, fails, *_ = fragile.devices(0)

    async with uncommitted_update(fragile, fails, "FAILED"):
        start = await waiting(fragile, starts.start("j"))
    with expect_failure(FAILED_PRECONDITION, "JOB_PAUSED"):
        await start

    assert (await fragile.get()).execution_counts == pb.ExecutionCounts(queued=9, failed=1)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_after_a_pause_is_rejected(fragile: StagedJob) -> None:
    async with uncommitted(fragile, "pause_job", "r", None, ""):
        start = await waiting(fragile, fragile.device(0).start("j"))
    with expect_failure(FAILED_PRECONDITION, "JOB_PAUSED"):
        await start


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_before_a_pause_is_in_progress(fragile: StagedJob) -> None:
    async with uncommitted_update(fragile, fragile.device(0), None):
        pause = await waiting(fragile, fragile.operator.pause("j"))

    assert (await pause).execution_counts == pb.ExecutionCounts(queued=9, in_progress=1)


@pytest.fixture
async def one_left(
    database: Database, server: Server, operator: Operator, devices: None
) -> StagedJob:
    """A job with three stages; one execution of the first is not finished."""
    job = await create_staged_job(
        database, server, operator, {"device_count": 2}, {"device_count": 2}, REST
    )
    await job.device(0, 0).update("j", "SUCCEEDED")
    return job


@pytest.mark.parametrize("stage", [1, None])
@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_stage_opens_once_when_the_last_report_comes_before_advance(
    one_left: StagedJob, stage: int | None
) -> None:
    async with uncommitted_update(one_left, one_left.device(0, 1), "SUCCEEDED"):
        fields = {} if stage is None else {"stage": stage}
        advance = await waiting(one_left, one_left.operator.advance("j", **fields))
    await advance

    # Only a call that names the stage is safe in this race.
    assert await one_left.open_stage() == (1 if stage == 1 else 2)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_stage_opens_once_when_the_last_report_comes_after_advance(
    one_left: StagedJob,
) -> None:
    async with uncommitted(one_left, "advance_job", 1, ""):
        report = await waiting(one_left, one_left.device(0, 1).update("j", "SUCCEEDED"))
    await report

    assert await one_left.open_stage() == 1
    await one_left.check_counts()


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_first_of_two_approvals_is_stored_and_both_succeed(
    database: Database, server: Server, operator: Operator, devices: None
) -> None:
    gated = {"device_count": 2, "gate": pb.Gate(require_approval=True)}
    job = await create_staged_job(database, server, operator, gated, REST)
    await job.finish(0)
    second = server.operator(operator.tenant, user="bob")

    async with uncommitted(job, "approve_stage", 0, "ann", "first"):
        approve = await waiting(job, second.approve("j", 0, comment="second"))
    approved = await approve

    approval = approved.stages[0].approval
    assert (approval.approved_by, approval.comment) == ("ann", "first")
    assert await job.open_stage() == 1


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_failure_before_a_resume_does_not_count(fragile: StagedJob) -> None:
    await fragile.device(0).start("j")
    await fragile.operator.pause("j")

    async with uncommitted_update(fragile, fragile.device(0), "FAILED"):
        resume = await waiting(fragile, fragile.operator.resume("j"))

    assert (await resume).status == pb.Job.IN_PROGRESS


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_failure_after_a_resume_counts(fragile: StagedJob) -> None:
    await fragile.device(0).start("j")
    await fragile.operator.pause("j")

    async with uncommitted(fragile, "resume_job", ""):
        report = await waiting(fragile, fragile.device(0).update("j", "FAILED"))
    await report

    assert (await fragile.get()).status == pb.Job.PAUSED


@pytest.fixture
async def slow(database: Database, server: Server, operator: Operator, devices: None) -> StagedJob:
    """A job that releases one execution per minute; the first is released."""
    job = await create_staged_job(
        database, server, operator, {"remainder": True, "releases_per_minute": 1}
    )
    await job.database.pass_time(60)
    return job


@pytest.mark.parametrize("released_first", [True, False])
@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_canceled_execution_is_not_held_before_and_after_its_release(
    slow: StagedJob, released_first: bool
) -> None:
    if released_first:
        await slow.database.pass_time(60)
    await slow.operator.cancel_execution("j", slow.device(0, 1).name)
    if not released_first:
        counts = (await slow.get()).execution_counts
        assert counts == pb.ExecutionCounts(queued=1, held=8, rejected=1)
        await slow.database.pass_time(60)

    job = await slow.get()

    assert job.execution_counts == pb.ExecutionCounts(queued=1, held=8, rejected=1)
    assert job.stages[0].execution_counts == job.execution_counts
    await slow.check_counts()


async def test_last_place_is_taken_once_by_two_servers(
    database: Database, server: Server, operator: Operator, devices: None
) -> None:
    job = await create_staged_job(database, server, operator, REST, max_in_progress=1)
    first, second, *_ = job.devices(0)
    async with running_server(database.request_dsn) as other:
        rival = other.device(operator.tenant, second.name)
        async with job_lock_held(database, operator.tenant, "j"):
            starts = [asyncio.ensure_future(first.start("j"))]
            await database.wait_for_blocked_sessions(1)
            starts.append(asyncio.ensure_future(rival.start("j")))
            await database.wait_for_blocked_sessions(2)
        results = await asyncio.gather(*starts, return_exceptions=True)

    assert results[0].status == pb.JobExecution.IN_PROGRESS  # type: ignore[union-attr]
    assert "max_in_progress executions that are IN_PROGRESS" in str(results[1])
    assert (await job.get()).execution_counts == pb.ExecutionCounts(queued=9, in_progress=1)


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_takes_the_place_that_a_report_before_it_frees(
    database: Database, server: Server, operator: Operator, devices: None
) -> None:
    job = await create_staged_job(database, server, operator, REST, max_in_progress=1)
    first, second, *_ = job.devices(0)
    await first.start("j")

    async with uncommitted_update(job, first, "SUCCEEDED"):
        start = await waiting(job, second.start("j"))

    assert (await start).status == pb.JobExecution.IN_PROGRESS


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_next_chooses_another_job_when_it_waits_for_the_last_place(
    database: Database, server: Server, operator: Operator, devices: None
) -> None:
    job = await create_staged_job(database, server, operator, REST, max_in_progress=1)
    await operator.create(job_id="later", target_all=True)
    first, second, *_ = job.devices(0)

    async with uncommitted_update(job, first, None):
        start = await waiting(job, second.start_next())

    assert (await start).job_id == "later"


async def test_max_in_progress_is_never_exceeded_when_many_devices_start_at_once(
    database: Database, server: Server, operator: Operator, devices: None
) -> None:
    job = await create_staged_job(database, server, operator, REST, max_in_progress=3)
    async with running_server(database.request_dsn) as other:
        servers = (server, other)
        seen = []

        async def work(number: int) -> None:
            device = servers[number % 2].device(operator.tenant, job.names[0][number])
            while await device.start_next() is None:
                seen.append((await job.get()).execution_counts.in_progress)
            await device.update("j", "SUCCEEDED")

        await asyncio.gather(*(work(number) for number in range(10)))

    assert max(seen, default=0) <= 3
    assert (await job.get()).status == pb.Job.COMPLETED
    await job.check_counts()
