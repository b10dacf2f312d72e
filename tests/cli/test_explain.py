"""`jobs-grpc explain`."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.world import World


@pytest.fixture(autouse=True)
async def devices(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, ["pump", "valve"])


async def test_explain_prints_times(shell: Shell, database: Database, operator: Operator) -> None:
    rollout = pb.Rollout(stages=[pb.Stage(remainder=True, releases_per_minute=1)])
    await operator.create(job_id="j", target_all=True, rollout=rollout)
    await database.owner.execute(
        "UPDATE jobs.jobs SET release_since = '2035-01-01Z', expires_at = NULL"
        " WHERE tenant_id = $1",
        operator.tenant,
    )
    device, _ = await database.order_of_release(["pump", "valve"], "j")

    out = (await shell("explain", "j", device, "--utc")).out

    assert out.splitlines()[1:] == [
        "status    HELD",
        "last seen -",
        "starts    2035-01-01 00:01:00Z at the earliest",
        "1. The rate of the rollout has not released the device yet. Until 2035-01-01",
        "   00:01:00Z.",
    ]


async def test_explain_prints_the_time_at_which_the_stage_opens(world: World, shell: Shell) -> None:
    gate = pb.Gate(min_succeeded_percent=100)
    stages = [pb.Stage(device_count=1, gate=gate), pb.Stage(remainder=True)]
    await world.create(rollout=pb.Rollout(stages=stages))
    await world.execute("UPDATE jobs.jobs SET stage_due_at = '2035-01-01Z' WHERE tenant_id = $1")
    _, device = await world.database.order_of_release(["pump", "valve"], "j")

    out = (await shell("explain", "j", device, "--utc")).out

    assert out.splitlines()[3:] == [
        "1. Stage 1 is not open. The gate of stage 0: 0 % succeeded, 100 % required.",
        "   Stage 1 opens at 2035-01-01 00:00:00Z, or before.",
    ]
