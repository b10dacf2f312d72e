"""Retention deletes jobs that have been finished for JOBS_RETENTION_DAYS; purge removes rows."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import all_pending
from tests.support.failures import expect_error
from tests.support.world import World

DAY = 24 * 3600


async def end(world: World, how: str) -> None:
    """Create the job "j" and let it end now."""
    await world.add_devices(["pump"])
    await world.create()
    match how:
        case "completed":
            await world.device("pump").update("j", "SUCCEEDED")
        case "canceled":
            await world.operator.cancel("j")
        case "canceled, in progress":
            await world.device("pump").start("j")
            await world.operator.cancel("j")
        case "expired":
            await world.execute("UPDATE jobs.jobs SET expires_at = jobs.now() WHERE tenant_id = $1")


async def count_rows(world: World) -> list[int]:
    return [
        await world.owner_value(f"SELECT count(*) FROM jobs.{table} WHERE tenant_id = $1")
        for table in ("jobs", "job_progress", "job_executions", "execution_attempts")
    ]


@pytest.mark.parametrize("how", ["completed", "canceled", "canceled, in progress", "expired"])
async def test_job_is_removed_after_the_retention(world: World, sweeper: Sweeper, how: str) -> None:
    await end(world, how)
    await world.pass_time(30 * DAY - 3600)
    job = await world.operator.get("j")
    await sweeper.run_once()
    assert await world.operator.get("j") == job
    await world.pass_time(3660)

    await sweeper.run_once()

    await expect_error("JOB_NOT_FOUND", world.operator.get("j"))
    await expect_error("EXECUTION_NOT_FOUND", world.device("pump").update("j", "SUCCEEDED"))
    assert await count_rows(world) == [0, 0, 0, 0]


async def test_job_in_progress_stays_however_old_it_is(world: World, sweeper: Sweeper) -> None:
    await world.add_devices(1)
    await world.create(never_expires=True)
    await world.pass_time(3650 * DAY)

    await sweeper.run_once()

    assert await world.operator.status() == "IN_PROGRESS"


async def test_finished_job_stays_when_no_retention_is_set(world: World) -> None:
    await end(world, "completed")
    await world.pass_time(3650 * DAY)

    await world.sweep()

    assert await world.operator.status() == "COMPLETED"


@pytest.fixture
async def deleted(world: World) -> World:
    """A tenant with two jobs for 2,500 devices each: "j" is deleted, "k" is not."""
    await world.add_devices(2500)
    await world.create("j", "k")
    await world.operator.cancel("j")
    await world.execute(
        "UPDATE jobs.jobs SET deleted_at = now() WHERE tenant_id = $1 AND job_id = 'j'"
    )
    return world


async def test_deleted_job_is_not_found_before_it_is_purged(deleted: World) -> None:
    device = deleted.device("d00001")

    await expect_error("JOB_NOT_FOUND", deleted.operator.get("j"))
    await expect_error("JOB_NOT_FOUND", deleted.operator.executions("j"))
    assert [job.job_id for job in (await deleted.operator.list()).jobs] == ["k"]
    await expect_error("EXECUTION_NOT_FOUND", device.get("j"))
    assert await all_pending(device) == ["k"]
    await expect_error("JOB_ALREADY_EXISTS", deleted.create())


async def purge(world: World, job_id: str = "j", after: str | None = "") -> str | None:
    """Purge a batch of executions after a device; return the device to continue after."""
    sql = "SELECT jobs.purge_job($1, $2, $3, 1000, 0)"
    found: str | None = await world.owner_value(sql, job_id, after)
    return found


@pytest.mark.parametrize("interrupted", [False, True])
async def test_purge_removes_the_rows_of_the_job_only(deleted: World, *, interrupted: bool) -> None:
    if interrupted:
        await purge(deleted)

    await deleted.sweep()

    assert await count_rows(deleted) == [1, 1, 2500, 0]
    job = await deleted.operator.get("k")
    assert job.execution_counts == pb.ExecutionCounts(queued=2500)
    assert (await deleted.create()).execution_count == 2500


async def test_purge_removes_the_attempts(world: World) -> None:
    await world.add_devices(["pump"])
    await world.create()
    await world.device("pump").update("j", "FAILED")
    await world.operator.retry("j", "FAILED")
    await world.device("pump").update("j", "SUCCEEDED")
    assert (await count_rows(world))[3] == 1

    await world.operator.delete("j")
    await world.sweep()

    assert await count_rows(world) == [0, 0, 0, 0]


async def test_purge_removes_executions_in_batches_and_then_the_job(deleted: World) -> None:
    await purge(deleted, "k")
    remaining = [await count_rows(deleted)]
    after: str | None = ""
    while after is not None:
        after = await purge(deleted, after=after)
        remaining.append(await count_rows(deleted))

    # A job that is not deleted stays.
    assert remaining == [[2, 2, 5000, 0], [2, 2, 4000, 0], [2, 2, 3000, 0], [1, 1, 2500, 0]]


async def test_job_that_is_retried_before_the_lock_stays(world: World, sweeper: Sweeper) -> None:
    """The search finds the job finished, but it is IN_PROGRESS when the sweeper locks it."""
    await end(world, "completed")
    await world.pass_time(31 * DAY)
    async with world.lock_held():
        sweeping = await world.blocked(sweeper.run_once())
        await world.execute(
            "UPDATE jobs.jobs SET status = 'IN_PROGRESS', completed_at = NULL WHERE tenant_id = $1"
        )
    await sweeping

    assert await count_rows(world) == [1, 1, 1, 0]
    assert (await world.operator.get("j")).job_id == "j"
