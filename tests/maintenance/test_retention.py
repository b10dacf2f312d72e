"""Retention deletes jobs that have been finished for JOBS_RETENTION_DAYS; purge removes rows."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

DAY = 24 * 3600
TABLES = ("jobs.jobs", "jobs.job_progress", "jobs.job_executions")


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    """A sweeper of the module's database that keeps jobs for 30 days."""
    async with Sweeper(database.owner_dsn, retention_days=30, lock_wait=4 * TIMEOUT) as sweeper:
        yield sweeper


async def end(database: Database, server: Server, operator: Operator, how: str) -> None:
    """Create the job "j" and let it end now."""
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    match how:
        case "completed":
            await server.device(operator.tenant, "pump").update("j", "SUCCEEDED")
        case "canceled":
            await operator.cancel("j")
        case "expired":
            await database.owner.execute(
                "UPDATE jobs.jobs SET expires_at = jobs.now() WHERE tenant_id = $1", operator.tenant
            )


async def count_rows(database: Database, operator: Operator) -> list[int]:
    """Return the number of the tenant's rows in each table."""
    return [
        await database.owner.fetchval(
            f"SELECT count(*) FROM {table} WHERE tenant_id = $1", operator.tenant
        )
        for table in TABLES
    ]


@pytest.mark.parametrize("how", ["completed", "canceled", "expired"])
async def test_job_is_removed_when_finished_for_longer_than_the_retention(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper, how: str
) -> None:
    await end(database, server, operator, how)
    await database.pass_time(30 * DAY + 60)

    await sweeper.run_once()

    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await operator.get("j")
    assert await count_rows(database, operator) == [0, 0, 0]


@pytest.mark.parametrize("how", ["completed", "canceled", "expired"])
async def test_job_stays_when_finished_for_less_than_the_retention(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper, how: str
) -> None:
    await end(database, server, operator, how)
    await database.pass_time(30 * DAY - 3600)
    job = await operator.get("j")

    await sweeper.run_once()

    assert await operator.get("j") == job


async def test_job_in_progress_stays_however_old_it_is(
    database: Database, operator: Operator, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", target_all=True, never_expires=True)
    await database.pass_time(3650 * DAY)

    await sweeper.run_once()

    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS


async def test_finished_job_stays_when_no_retention_is_set(
    database: Database, server: Server, operator: Operator
) -> None:
    await end(database, server, operator, "completed")
    await database.pass_time(3650 * DAY)

    async with Sweeper(database.owner_dsn) as sweeper:
        await sweeper.run_once()

    assert (await operator.get("j")).status == pb.Job.COMPLETED


async def test_canceled_job_is_removed_when_an_execution_is_still_in_progress(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    await server.device(operator.tenant, "pump").start("j")
    await operator.cancel("j")
    await database.pass_time(31 * DAY)

    await sweeper.run_once()

    assert await count_rows(database, operator) == [0, 0, 0]
    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await server.device(operator.tenant, "pump").update("j", "SUCCEEDED")


@pytest.fixture
async def deleted(database: Database, operator: Operator) -> Operator:
    """An operator with two jobs for 2,500 devices each: "j" is deleted, "k" is not."""
    await database.add_devices(operator.tenant, 2500)
    for job_id in ("j", "k"):
        await operator.create(job_id=job_id, target_all=True)
    await operator.cancel("j")
    await database.owner.execute(
        "UPDATE jobs.jobs SET deleted_at = now() WHERE tenant_id = $1 AND job_id = 'j'",
        operator.tenant,
    )
    return operator


async def test_deleted_job_is_not_found_before_it_is_purged(
    server: Server, deleted: Operator
) -> None:
    device = server.device(deleted.tenant, "d00001")

    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await deleted.get("j")
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await deleted.executions("j")
    assert [job.job_id for job in (await deleted.list()).jobs] == ["k"]
    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await device.get("j")
    assert [execution.job_id for execution in (await device.pending()).executions] == ["k"]
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await deleted.create(job_id="j", target_all=True)


async def test_purge_removes_all_rows_of_the_job_and_no_others(
    database: Database, deleted: Operator, sweeper: Sweeper
) -> None:
    await sweeper.run_once()

    assert await count_rows(database, deleted) == [1, 1, 2500]
    job = await deleted.get("k")
    assert job.execution_counts == pb.ExecutionCounts(queued=2500)
    assert (await deleted.create(job_id="j", target_all=True)).execution_count == 2500


async def test_purge_removes_the_attempts(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, ["pump"])
    device = server.device(operator.tenant, "pump")
    await operator.create(job_id="j", target_all=True)
    await device.update("j", "FAILED")
    await operator.retry("j", "FAILED")
    await device.update("j", "SUCCEEDED")
    assert len(await operator.attempts("j", "pump")) == 2

    await operator.delete("j")
    await sweeper.run_once()

    assert await count_rows(database, operator) == [0, 0, 0]
    attempts = "SELECT count(*) FROM jobs.execution_attempts WHERE tenant_id = $1"
    assert await database.owner.fetchval(attempts, operator.tenant) == 0


async def test_purge_removes_executions_in_batches_and_then_the_job(
    database: Database, deleted: Operator
) -> None:
    purge = "SELECT jobs.purge_job($1, 'j', $2, 1000, 0)"

    remaining = []
    after: str | None = ""
    while after is not None:
        after = await database.owner.fetchval(purge, deleted.tenant, after)
        remaining.append(await count_rows(database, deleted))

    assert remaining == [[2, 2, 4000], [2, 2, 3000], [1, 1, 2500]]


async def test_sweep_completes_an_interrupted_purge(
    database: Database, deleted: Operator, sweeper: Sweeper
) -> None:
    await database.owner.execute("SELECT jobs.purge_job($1, 'j', '', 1000, 0)", deleted.tenant)

    await sweeper.run_once()

    assert await count_rows(database, deleted) == [1, 1, 2500]


async def test_purge_removes_nothing_when_job_is_not_deleted(
    database: Database, deleted: Operator
) -> None:
    await database.owner.execute("SELECT jobs.purge_job($1, 'k', '', 1000, 0)", deleted.tenant)

    assert await count_rows(database, deleted) == [2, 2, 5000]


async def test_job_stays_when_it_is_retried_before_the_sweeper_locks_it(
    database: Database, server: Server, operator: Operator, sweeper: Sweeper
) -> None:
    """The search finds the job finished, but it is IN_PROGRESS when the sweeper locks it."""
    await end(database, server, operator, "completed")
    await database.pass_time(31 * DAY)
    async with job_lock_held(database, operator.tenant, "j"):
        sweeping = asyncio.create_task(sweeper.run_once())
        await database.wait_for_blocked_sessions(1)
        await database.owner.execute(
            "UPDATE jobs.jobs SET status = 'IN_PROGRESS', completed_at = NULL WHERE tenant_id = $1",
            operator.tenant,
        )
    await sweeping

    assert await count_rows(database, operator) == [1, 1, 1]
    assert (await operator.get("j")).job_id == "j"
