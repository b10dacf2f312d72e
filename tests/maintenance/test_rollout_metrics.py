"""The sweeper counts jobs that wait for an operator, and those that failure criteria canceled."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.maintenance.sweeper import StoppedRollouts, Sweeper
from tests.support.metrics import METRICS_ON, scrape_until
from tests.support.retry_policies import rule
from tests.support.world import World

NOTHING = (0, 0, 0, 0, 0)


async def count(world: World) -> tuple[int, ...]:
    """Return the numbers of jobs by cause of their pause, awaiting approval, and canceled."""
    async with Sweeper(world.database.owner_dsn) as sweeper:
        await sweeper.run_stages()
    counts = sweeper.stopped_rollouts
    assert isinstance(counts, StoppedRollouts)
    causes = ("FAILURE_CRITERION", "GATE_NOT_MET", "OPERATOR")
    by_cause = tuple(counts.paused[cause] for cause in causes)
    return (*by_cause, counts.awaiting_approval, counts.canceled)


async def trip(world: World, action: str) -> None:
    criterion = pb.FailureCriterion(count=1, action=pb.FailureCriterion.Action.Value(action))
    await world.create(failure_criteria=[criterion])
    await world.device("d00001").update("j", "FAILED")


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    """Four devices. No other tenant has a job."""
    await world.database.owner.execute("DELETE FROM jobs.jobs")
    await world.add_devices(4)


@pytest.mark.parametrize("end", ["resume", "cancel"])
async def test_pause_by_a_criterion_counts_until_an_operator_acts(world: World, end: str) -> None:
    await trip(world, "PAUSE")
    assert await count(world) == (1, 0, 0, 0, 0)

    await getattr(world.operator, end)("j")

    assert await count(world) == NOTHING


@pytest.mark.parametrize("action", ["CANCEL", "FORCE_CANCEL"])
async def test_cancel_by_a_criterion_is_counted_for_an_hour(world: World, action: str) -> None:
    await trip(world, action)
    assert await count(world) == (0, 0, 0, 0, 1)

    await world.database.owner.execute(
        "UPDATE jobs.jobs SET canceled_at = now() - interval '1 hour'"
    )

    assert await count(world) == NOTHING


async def test_pause_by_an_operator_is_counted_until_the_job_is_deleted(world: World) -> None:
    await world.create()
    await world.operator.pause("j")
    assert await count(world) == (0, 0, 1, 0, 0)

    await world.operator.cancel("j")
    await world.operator.delete("j")

    assert await count(world) == NOTHING


async def test_pause_by_a_gate_is_counted(world: World) -> None:
    stage: dict[str, Any] = {"device_count": 2, "gate": pb.Gate(min_succeeded_percent=100)}
    job = await world.create_staged(stage, {"remainder": True})

    await job.finish(0, "FAILED")

    assert await count(world) == (0, 1, 0, 0, 0)


async def test_missing_approval_is_counted_until_the_stage_opens(world: World) -> None:
    stage: dict[str, Any] = {"device_count": 2, "gate": pb.Gate(require_approval=True)}
    job = await world.create_staged(stage, {"remainder": True})
    assert await count(world) == NOTHING
    await job.finish(0)
    assert await count(world) == (0, 0, 0, 1, 0)

    await world.server.operator(world.tenant, user="olga").approve("j", 0)

    assert await count(world) == NOTHING


async def test_server_that_sweeps_serves_the_counts(world: World) -> None:
    await trip(world, "PAUSE")
    owner = {"JOBS_OWNER_DATABASE_URL": world.database.owner_dsn}
    async with world.on_another_server(**owner, **METRICS_ON) as sweeping:
        read = await scrape_until(
            sweeping.server.app.metrics_address,
            lambda read: "jobs_rollouts_paused" in read.families,
        )

    assert read.value("jobs_rollouts_paused", cause="FAILURE_CRITERION") == 1
    assert read.value("jobs_rollouts_paused", cause="GATE_NOT_MET") == 0
    assert read.value("jobs_rollouts_awaiting_approval") == 0
    assert read.value("jobs_rollouts_canceled_last_hour") == 0


async def test_scheduled_jobs_count_until_they_start_or_end(world: World, sweeper: Sweeper) -> None:
    start_at = await world.time_in(3600)
    await world.create(
        *("starts", "canceled", "paused"), target_device_id="d00001", start_at=start_at
    )
    await world.create("completed", target_device_id="d00002", start_at=start_at)
    await world.create("running")
    await sweeper.run_stages()
    assert sweeper.scheduled_jobs == 4

    await world.operator.cancel("canceled")
    await world.operator.pause("paused")
    await world.operator.cancel_execution("completed", "d00002")
    await sweeper.run_stages()
    assert sweeper.scheduled_jobs == 1

    await world.pass_time(3600)
    await sweeper.run_stages()
    assert sweeper.scheduled_jobs == 0


async def test_executions_count_while_an_attempt_waits(world: World, sweeper: Sweeper) -> None:
    await world.create(retry_policy=pb.RetryPolicy(rules=[rule(initial=1)]), never_expires=True)
    await sweeper.run_stages()
    assert sweeper.retrying_executions == 0

    devices = [world.device(name) for name in ("d00001", "d00002")]
    for device in devices:
        await device.update("j", "FAILED")
    await sweeper.run_stages()
    assert sweeper.retrying_executions == 2

    await world.pass_time(60)
    await devices[0].start("j")
    await world.operator.cancel_execution("j", "d00002")
    await sweeper.run_stages()
    assert sweeper.retrying_executions == 0


async def test_job_whose_start_is_not_approved_awaits_an_approval(world: World) -> None:
    await world.create(require_start_approval=True)
    later = await world.time_in(2 * 86_400)
    await world.create(
        "later", target_device_id="d00001", require_start_approval=True, start_at=later
    )
    assert await count(world) == (0, 0, 0, 1, 0)
    await world.pass_time(86_400)
    assert await count(world) == (0, 0, 0, 2, 0)
    await world.operator.cancel("later")

    await world.operator.cancel("j")

    assert await count(world) == NOTHING
