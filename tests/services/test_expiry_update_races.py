"""UpdateJob of expires_at against what else ends or extends a job, in both orders."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held, uncommitted
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.waiting import wait_until_true
from tests.support.world import World

pytestmark = pytest.mark.single_node("a call inside a transaction is not delegated on Citus")

_UPDATE = (
    "SELECT jobs.update_job($1, 'j', '', '{expires_at}', NULL, '{}', '[]',"
    " jobs.now() + interval '1 hour')"
)
_REPORT = (
    "SELECT outcome FROM jobs.update_executions($1, 1000, '{j}', '{f}', ARRAY[$2], '{SUCCEEDED}',"
    " '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{f}', '{NULL}')"
)


@pytest.fixture(autouse=True)
async def job(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, ["d1", "d2"])
    await operator.create(job_id="j", target_all=True)


async def update(operator: Operator, **fields: str) -> pb.Job:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    return await operator.update("j", "expires_at", expires_at=expires_at, **fields)


async def expire_in(database: Database, operator: Operator, seconds: int) -> None:
    await database.owner.execute(
        "UPDATE jobs.jobs SET expires_at = jobs.clock_time() + make_interval(secs => $2)"
        " WHERE tenant_id = $1",
        operator.tenant,
        seconds,
    )


@pytest.mark.parametrize("started", [False, True])
async def test_update_is_rejected_when_the_job_expires_while_it_waits(
    database: Database, server: Server, operator: Operator, started: bool
) -> None:
    if started:
        await server.device(operator.tenant, "d1").start("j")

    async with job_lock_held(database, operator.tenant, "j"):
        updating = await database.blocked(update(operator))
        await expire_in(database, operator, 0)

    await expect_error("JOB_NOT_UPDATABLE", updating)
    job = await operator.get("j")
    assert job.status == (pb.Job.IN_PROGRESS if started else pb.Job.COMPLETED)
    assert job.execution_counts == pb.ExecutionCounts(
        in_progress=int(started), timed_out=2 - int(started)
    )


async def test_job_does_not_expire_when_the_update_has_the_lock_before(world: World) -> None:
    """The old expiry passes before the update commits."""
    await expire_in(world.database, world.operator, 60)

    async with Sweeper(world.database.owner_dsn) as sweeper:
        async with uncommitted(world.database, _UPDATE, world.tenant):
            await world.pass_time(120)
            assert (await world.operator.get("j")).status == pb.Job.COMPLETED
            starting = await world.blocked(world.device("d1").start("j"))
            sweeping = asyncio.create_task(sweeper.run_once())

        assert (await starting).status == pb.JobExecution.IN_PROGRESS
        await sweeping
        await sweeper.run_once()
    job = await world.operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert job.execution_counts == pb.ExecutionCounts(queued=1, in_progress=1)


async def test_update_waits_for_the_finalization_of_an_expired_job(world: World) -> None:
    await world.expire()
    finalize = "SELECT jobs.finalize_executions($1, 'j', '', 100, 1000)"
    updating = await world.wait_for_commit(update(world.operator), finalize)

    failure = await expect_error("JOB_NOT_UPDATABLE", updating)
    assert failure.metadata["status"] == "COMPLETED"
    assert await world.operator.counts() == {"timed_out": 2}


async def test_update_is_rejected_when_the_last_report_completes_the_job_before(
    world: World, operator: Operator
) -> None:
    await world.device("d1").update("j", "SUCCEEDED")
    updating = await world.wait_for_commit(update(operator), _REPORT, "d2")

    failure = await expect_error("JOB_NOT_UPDATABLE", updating)
    assert failure.metadata["status"] == "COMPLETED"


async def test_last_report_completes_the_job_after_the_update(world: World) -> None:
    await world.device("d1").update("j", "SUCCEEDED")

    report = world.device("d2").update("j", "SUCCEEDED")
    await (await world.wait_for_commit(report, _UPDATE))

    job = await world.operator.get("j")
    assert job.status == pb.Job.COMPLETED
    assert job.completed_at.ToDatetime() < job.expires_at.ToDatetime()
    assert job.expires_at.ToDatetime() - job.created_at.ToDatetime() < timedelta(hours=2)


async def test_start_is_rejected_when_an_earlier_expiry_passes_while_it_waits(world: World) -> None:
    sooner = _UPDATE.replace("'1 hour'", "'1 second'")
    async with uncommitted(world.database, sooner, world.tenant):
        starting = await world.blocked(world.device("d1").start("j"))
        expires_at = datetime.now(UTC) + timedelta(seconds=1)
        await wait_until_true(lambda: datetime.now(UTC) > expires_at)

    await expect_error("EXECUTION_FINISHED", starting)
    assert await world.operator.counts() == {"timed_out": 2}


async def test_cancel_after_the_update_rejects_the_executions(world: World) -> None:
    """Although the job had expired by its old expiry when it was canceled."""
    await expire_in(world.database, world.operator, 60)

    async with uncommitted(world.database, _UPDATE, world.tenant):
        await world.pass_time(120)
        assert (await world.operator.get("j")).status == pb.Job.COMPLETED
        canceling = await world.blocked(world.operator.cancel("j"))
    await canceling

    assert await world.operator.counts() == {"rejected": 2}


async def test_update_with_the_etag_from_before_a_retry_is_rejected(world: World) -> None:
    await world.operator.cancel_execution("j", "d1")
    etag = (await world.operator.get("j")).etag
    retry = "SELECT jobs.retry_executions($1, 'j', '{REJECTED}', 2, false, NULL)"

    change = update(world.operator, etag=etag)
    updating = await world.wait_for_commit(change, retry)

    await expect_error("JOB_CHANGED", updating)
