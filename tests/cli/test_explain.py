"""`jobs-grpc explain`."""

import json

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.server import Server


@pytest.fixture(autouse=True)
async def devices(database: Database, operator: Operator) -> None:
    """Two devices."""
    await database.add_devices(operator.tenant, ["pump", "valve"])


async def test_explain_prints_the_execution_and_what_it_waits_for(
    shell: Shell, operator: Operator
) -> None:
    await operator.create(job_id="older", target_all=True)
    await operator.create(job_id="j", target_all=True)
    await operator.pause(
        "j", reason="the pumps of the north leak, so we wait until they are sealed"
    )

    result = await shell("explain", "j", "pump")

    assert result.code == 0
    assert result.out.splitlines() == [
        "device    pump",
        "status    QUEUED",
        "last seen -",
        "1. olivia paused the job: the pumps of the north leak, so we wait until they are",
        "   sealed",
        "2. The execution of job older is ahead in the queue of the device.",
    ]


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


async def test_explain_prints_the_time_at_which_the_stage_opens(
    shell: Shell, database: Database, operator: Operator
) -> None:
    gate = pb.Gate(min_succeeded_percent=100)
    stages = [pb.Stage(device_count=1, gate=gate), pb.Stage(remainder=True)]
    await operator.create(job_id="j", target_all=True, rollout=pb.Rollout(stages=stages))
    await database.owner.execute(
        "UPDATE jobs.jobs SET stage_due_at = '2035-01-01Z' WHERE tenant_id = $1", operator.tenant
    )
    _, device = await database.order_of_release(["pump", "valve"], "j")

    out = (await shell("explain", "j", device, "--utc")).out

    assert out.splitlines()[3:] == [
        "1. Stage 1 is not open. The gate of stage 0: 0 % succeeded, 100 % required.",
        "   Stage 1 opens at 2035-01-01 00:00:00Z, or before.",
    ]


async def test_explain_prints_since_when_the_execution_is_in_progress(
    shell: Shell, server: Server, operator: Operator
) -> None:
    await operator.create(job_id="j", target_all=True)
    await server.device(operator.tenant, "pump").start("j")

    assert "status    IN_PROGRESS since 20" in (await shell("explain", "j", "pump")).out


async def test_explain_prints_the_response_as_json(shell: Shell, operator: Operator) -> None:
    await operator.create(job_id="j", target_all=True)

    explanation = json.loads((await shell("explain", "j", "pump", "--json")).out)

    assert explanation["execution"]["device_id"] == "pump"
    assert explanation["blockers"][0]["kind"] == "WAITING_FOR_DEVICE"


async def test_explain_fails_when_there_is_no_such_execution(shell: Shell) -> None:
    result = await shell("explain", "j", "pump")

    assert result.code != 0
    assert "pump" in result.err
