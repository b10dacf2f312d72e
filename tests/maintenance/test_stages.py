"""The sweeper opens the next stages of rollouts when bake_time or advance_after has passed."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.staged_jobs import StagedJob
from tests.support.waiting import wait_until_equal
from tests.support.world import World


@pytest.fixture
async def job(world: World) -> StagedJob:
    """A job whose first stage advances after 600 seconds."""
    await world.add_devices(4)
    job = await world.create_staged({"device_count": 2}, {"remainder": True})
    await job.set_gate(0, advance_after_seconds=600)
    return job


async def test_stage_opens_when_it_is_due(world: World, job: StagedJob) -> None:
    await world.pass_time(590)
    await world.sweep()
    assert await job.open_stage() == 0

    await world.pass_time(10)
    await world.sweep()

    assert await job.columns("open_stage", "stage_due_at") == (1, None)


async def test_stage_opens_in_a_running_server_when_it_is_due(world: World) -> None:
    await world.add_devices(4)
    gate = pb.Gate(advance_after=Duration(seconds=1))
    async with world.with_background_work() as sweeping:
        job = await sweeping.create_staged({"device_count": 2, "gate": gate}, {"remainder": True})
        await wait_until_equal(job.open_stage, 1)
    first, second = await job.stage_row(0), await job.stage_row(1)
    assert (second["opened_at"] - first["opened_at"]).total_seconds() >= 1


async def test_busy_job_opens_stage_later(world: World, job: StagedJob, sweeper: Sweeper) -> None:
    await world.pass_time(600)
    async with world.lock_held():
        sweep = await world.blocked(sweeper.run_stages())
    await sweep

    assert await job.open_stage() == 1


@pytest.mark.parametrize("change", ["pause", "cancel"])
async def test_changed_job_opens_no_stage(world: World, job: StagedJob, change: str) -> None:
    await world.pass_time(600)
    await getattr(job.operator, change)("j")

    assert not await world.owner_value("SELECT jobs.open_due_stage($1, 'j', 0)")

    assert await job.open_stage() == 0
    assert not await world.owner_value("SELECT jobs.open_due_stage($1, 'missing', 0)")


async def test_expired_job_is_not_found_again(world: World, job: StagedJob) -> None:
    await job.device(0).start("j")
    await world.pass_time(600)
    await world.expire()

    await world.sweep()

    assert await job.columns("open_stage", "stage_due_at") == (0, None)
