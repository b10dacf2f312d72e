"""The sweeper opens the next stages of rollouts when bake_time or advance_after has passed."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.server import Server, running_server
from tests.support.staged_jobs import StagedJob, create_staged_job
from tests.support.waiting import TIMEOUT, wait_until


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    """A sweeper of the module's database that waits for busy jobs as long as a test takes."""
    async with Sweeper(database.owner_dsn, lock_wait=4 * TIMEOUT) as sweeper:
        yield sweeper


@pytest.fixture
async def job(database: Database, server: Server, operator: Operator) -> StagedJob:
    """A job whose first stage advances after 600 seconds."""
    await database.add_devices(operator.tenant, 4)
    job = await create_staged_job(
        database, server, operator, {"device_count": 2}, {"remainder": True}
    )
    await job.set_gate(0, advance_after_seconds=600)
    return job


async def test_stage_opens_when_it_is_due(job: StagedJob, sweeper: Sweeper) -> None:
    await job.database.pass_time(590)
    await sweeper.run_stages()
    assert await job.open_stage() == 0

    await job.database.pass_time(10)
    await sweeper.run_stages()

    assert await job.open_stage() == 1
    assert (await job.row())["stage_due_at"] is None


async def test_stage_opens_within_two_seconds_in_a_running_server(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 4)
    variables = {"JOBS_OWNER_DATABASE_URL": database.owner_dsn}
    async with running_server(database.request_dsn, **variables) as server:
        gate = pb.Gate(advance_after=Duration(seconds=1))
        job = await create_staged_job(
            database,
            server,
            server.operator(operator.tenant, user="olivia"),
            {"device_count": 2, "gate": gate},
            {"remainder": True},
        )

        async def is_open() -> bool:
            return await job.open_stage() == 1

        await wait_until(is_open)
    first, second = await job.stage_row(0), await job.stage_row(1)
    # A busy test machine can be late; not so late that another round of the sweeper explains it.
    assert 1 <= (second["opened_at"] - first["opened_at"]).total_seconds() < TIMEOUT


async def test_busy_job_opens_its_stage_when_its_lock_is_free(
    database: Database, job: StagedJob, sweeper: Sweeper
) -> None:
    await job.database.pass_time(600)
    async with job_lock_held(database, job.operator.tenant, "j"):
        sweep = asyncio.create_task(sweeper.run_stages())
        await database.wait_for_blocked_sessions(1)
    await sweep

    assert await job.open_stage() == 1


@pytest.mark.parametrize("change", ["pause", "cancel"])
async def test_stage_does_not_open_when_the_job_changes_before_the_lock(
    database: Database, job: StagedJob, change: str
) -> None:
    await job.database.pass_time(600)
    await getattr(job.operator, change)("j")

    opened = await database.owner.fetchval(
        "SELECT jobs.open_due_stage($1, 'j', 0)", job.operator.tenant
    )

    assert not opened
    assert await job.open_stage() == 0


async def test_expired_job_is_not_found_again(
    database: Database, job: StagedJob, sweeper: Sweeper
) -> None:
    await job.device(0).start("j")
    await job.database.pass_time(600)
    await database.expire(job.operator.tenant, "j")

    await sweeper.run_stages()

    row = await job.row()
    assert (row["open_stage"], row["stage_due_at"]) == (0, None)


async def test_missing_job_is_not_due(database: Database, tenant: str) -> None:
    assert not await database.owner.fetchval("SELECT jobs.open_due_stage($1, 'j', 0)", tenant)
