"""`jobs-grpc get`."""

import re

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.cli import Shell, run_on_terminal, without_times
from tests.support.database import Database
from tests.support.server import Server
from tests.support.staged_jobs import create_staged_job

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


async def test_get_shows_gates_approvals_and_what_a_stage_waits_for(
    shell: Shell, database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 10)
    job = await create_staged_job(
        *(database, server, operator),
        {"percent": 20, "gate": pb.Gate(min_succeeded_percent=50, require_approval=True)},
        {"remainder": True, "releases_per_minute": 60},
    )
    await job.set_gate(0, bake_seconds=7200)
    await operator.update("j", "rollout.max_in_progress", rollout=pb.Rollout(max_in_progress=3))
    await shell("approve", "j", "0", "--comment", "lab is green", "--user", "aisha")
    await job.device(0).update("j", "SUCCEEDED")

    got = await shell("get", "j", "--limit", "1", "--utc")

    facts, stages, _ = without_times(got.out).split("\n\n")
    assert facts.splitlines() == [
        "job           j",
        "status        IN_PROGRESS",
        "type          reboot",
        "params        {}",
        "target        all",
        "created       TIME by olivia",
        "expires       TIME",
        "max. devices  3 IN_PROGRESS at a time",
        "devices       10: 1 QUEUED, 1 SUCCEEDED, 8 HELD",
    ]
    assert stages.splitlines() == [
        "stages",
        f" 0 20%   OPEN     {'█' * 12}{'░' * 12}  1 QUEUED, 1 SUCCEEDED",
        "   gate: 50 % succeeded, 50 % required, bake 2h, approval",
        "   approved at TIME by aisha: lab is green",
        "   stage 0 bakes for 2h; stage 1 opens at TIME",
        f" 1 rest  PENDING  {'·' * 24}  8 HELD",
        "   60 releases per minute",
    ]


@pytest.mark.slow
async def test_get_ends_with_the_summary_on_a_terminal(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 30)
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")

    code, shown = await run_on_terminal("get", "j", "--utc")

    lines = re.sub(r"\x1b\[[0-9;]*m", "", without_times(shown)).splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines if line.startswith("d0")] == [
        f"d{number:05}" for number in range(1, 21)
    ]
    assert re.fullmatch(r"j is CANCELED after 0:0\d:\d\d: 30 REJECTED or CANCELED", lines[-1])


async def test_get_shows_what_the_failure_criteria_have_counted(
    shell: Shell, database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 10)
    await operator.create(
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
    await operator.advance("j")
    devices = [e.device_id for e in (await operator.get("j")).executions if e.stage == 1]
    await server.device(operator.tenant, devices[0]).update("j", "SUCCEEDED")
    for device in devices[1:3]:
        await server.device(operator.tenant, device).update("j", "FAILED")

    got = await shell("get", "j")

    assert re.findall("criterion     (.*)", got.out) == [
        "pause at 5 failures: 2 failures; trips at 5",
        "pause at 100% of the finished, once 4 have finished: 2 failures of 3 finished; trips at 3",
        "pause at 60% of the released in a stage: 2 failures of 5 released in stage 1; trips at 3",
    ]
