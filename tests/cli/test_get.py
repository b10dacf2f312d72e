"""`jobs-grpc get`."""

import re

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("shell")


CREATE = ("create", "--type", "x", "--all", "--job-id", "j")


@pytest.mark.slow
async def test_get_reads_several_pages_when_limit_exceeds_one_page(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 5100)
    await shell(*CREATE)

    got = await shell("get", "j", "--limit", "5050")

    assert len(got.out.split("\n\n")[1].splitlines()) == 1 + 5050
    assert got.err == "the first 5,050 executions; --all shows the rest\n"


async def test_get_shows_what_the_failure_criteria_have_counted(world: World, shell: Shell) -> None:
    await world.add_devices(10)
    await world.operator.create(
        job_id="j",
        document_type="x",
        target_all=True,
        rollout=pb.Rollout(stages=[pb.Stage(percent=50), pb.Stage(percent=50)]),
        failure_criteria=[
            pb.FailureCriterion(count=5),
            pb.FailureCriterion(percent=100, min_finished=4),
            pb.FailureCriterion(
                percent=60, basis=pb.FailureCriterion.RELEASED, scope=pb.FailureCriterion.STAGE
            ),
        ],
    )
    await world.operator.advance("j")
    devices = [e.device_id for e in (await world.operator.get("j")).executions if e.stage == 1]
    await world.device(devices[0]).update("j", "SUCCEEDED")
    for device in devices[1:3]:
        await world.device(device).update("j", "FAILED")

    got = await shell("get", "j")

    assert re.findall("criterion     (.*)", got.out) == [
        "pause at 5 failures: 2 failures; trips at 5",
        "pause at 100% of the finished, once 4 have finished: 2 failures of 3 finished; trips at 3",
        "pause at 60% of the released in a stage: 2 failures of 5 released in stage 1; trips at 3",
    ]
