"""`jobs-grpc get`."""

import json
import re

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.cli import Shell, run_on_terminal, without_times
from tests.support.database import Database
from tests.support.server import Server
from tests.support.staged_jobs import create_staged_job

CREATE = ("create", "--type", "x", "--all", "--job-id", "j")


@pytest.fixture
async def canceled_job(database: Database, operator: Operator) -> str:
    """A canceled job for thirty devices."""
    await database.add_devices(operator.tenant, 30)
    await operator.create(job_id="j", document_type="x", target_all=True)
    await operator.cancel("j", reason="the release is bad")
    return "j"


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
        {
            "percent": 20,
            "gate": pb.Gate(min_succeeded_percent=50, require_approval=True),
        },
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
    server: Server, tenant: str, canceled_job: str
) -> None:
    code, shown = await run_on_terminal(
        "get", canceled_job, "--utc", JOBS_SERVER=server.address, JOBS_TENANT=tenant
    )

    lines = re.sub(r"\x1b\[[0-9;]*m", "", without_times(shown)).splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines if line.startswith("d0")] == [
        f"d{number:05}" for number in range(1, 21)
    ]
    assert re.fullmatch(r"j is CANCELED after 0:0\d:\d\d: 30 REJECTED or CANCELED", lines[-1])


async def test_get_shows_only_executions_with_requested_status(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 3)
    await shell(*CREATE)
    await database.set_status(tenant, "j", "d00002", "FAILED")

    got = await shell("get", "j", "--status", "FAILED", "--json")

    job = json.loads(got.out)
    assert [execution["device_id"] for execution in job["executions"]] == ["d00002"]
    assert job["total_executions"] == 3


async def test_get_shows_integers_only_when_they_are_exact(
    shell: Shell, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    params = json.dumps({"numbers": [2**53, -(2**53), 5, 1e23]})

    await shell(*CREATE, "--params", params)

    shown = '{"numbers": [9007199254740992, -9007199254740992, 5, 1e+23]}'
    assert f"params        {shown}\n" in (await shell("get", "j")).out


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
                percent=60,
                basis=pb.FailureCriterion.RELEASED,
                scope=pb.FailureCriterion.STAGE,
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


@pytest.mark.usefixtures("canceled_job")
async def test_get_shows_canceled_when_an_operator_canceled_the_execution(shell: Shell) -> None:
    table = await shell("get", "j", "--limit", "1")
    wide = await shell("get", "j", "--limit", "1", "-o", "wide")
    csv = await shell("get", "j", "--limit", "1", "-o", "csv", "--columns", "status,end_cause")
    as_json = await shell("get", "j", "--limit", "1", "--json")

    assert "  CANCELED  " in table.out
    assert "  JOB_CANCELED  " in wide.out
    assert csv.unquoted == "status,end_cause\nCANCELED,JOB_CANCELED\n"
    execution = json.loads(as_json.out)["executions"][0]
    assert (execution["status"], execution["end_cause"]) == ("CANCELED", "JOB_CANCELED")


@pytest.mark.parametrize(
    ("filters", "devices"),
    [
        (["--status", "CANCELED"], ["alone", "with-job"]),
        (["--status", "CANCELED", "--end-cause", "EXECUTION_CANCELED"], ["alone"]),
        (["--status", "REJECTED"], ["refused"]),
        (["--end-cause", "JOB_CANCELED"], ["with-job"]),
    ],
    ids=" ".join,
)
async def test_status_filter_separates_canceled_from_rejected(
    shell: Shell,
    database: Database,
    server: Server,
    operator: Operator,
    filters: list[str],
    devices: list[str],
) -> None:
    await database.add_devices(operator.tenant, ["alone", "refused", "with-job"])
    await operator.create(job_id="j", target_all=True)
    await server.device(operator.tenant, "refused").update("j", "REJECTED")
    await operator.cancel_execution("j", "alone")
    await operator.cancel("j")

    for command in (["get", "j"], ["export", "j"]):
        listed = await shell(*command, *filters, "-o", "jsonl")
        rows = [json.loads(line) for line in listed.out.splitlines()]
        assert [row["device_id"] for row in rows] == devices
        assert {row["status"] for row in rows} == {
            "REJECTED" if devices == ["refused"] else "CANCELED"
        }


async def test_list_of_rejected_executions_names_the_filter_of_canceled_ones(
    shell: Shell, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["d"])
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j")

    note = "executions that an operator canceled are CANCELED: --status CANCELED\n"
    for command in (["get", "j"], ["device", "d"], ["export", "j"]):
        assert (await shell(*command, "--status", "REJECTED")).err.endswith(note)
    assert note not in (await shell("get", "j", "--status", "REJECTED", "--json")).err


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (("retry", "j"), "--status REJECTED selects both"),
        (("create", "--type", "x", "--failed-in", "j"), "--status REJECTED selects both"),
        (("failures", "j"), "`get JOB --status CANCELED` lists them"),
    ],
)
async def test_commands_that_cannot_filter_canceled_executions_say_what_to_do(
    shell: Shell, command: tuple[str, ...], advice: str
) -> None:
    failed = await shell(*command, "--status", "CANCELED")

    assert failed.code == 2
    assert failed.err.splitlines()[-1].endswith(advice)


async def test_status_filter_is_rejected_when_the_end_cause_contradicts_it(shell: Shell) -> None:
    listed = await shell("get", "j", "--status", "CANCELED", "--end-cause", "DEVICE")

    assert listed.code == 2
    assert "no execution that is CANCELED has the end cause DEVICE; omit --status" in listed.err


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("attempts", "j", "d"), "TIMED_OUT (expired)"),
        (("device", "d"), "TIMED_OUT (expired)"),
        (("device", "d", "--end-cause", "JOB_EXPIRED"), "TIMED_OUT (expired)"),
        (("device", "d", "--end-cause", "TIMEOUT"), "no executions"),
        (("get", "j", "--end-cause", "JOB_EXPIRED"), "TIMED_OUT (expired)"),
        (("get", "j", "--end-cause", "TIMEOUT"), "no executions"),
        (("export", "j", "--end-cause", "JOB_EXPIRED"), ',"JOB_EXPIRED",'),
    ],
)
async def test_listings_say_and_filter_what_ended_an_execution(
    shell: Shell, database: Database, operator: Operator, command: tuple[str, ...], shown: str
) -> None:
    await database.add_devices(operator.tenant, ["d"])
    await operator.create(job_id="j", target_all=True)
    await database.expire(operator.tenant, "j")

    listed = await shell(*command)

    assert listed.code == 0
    assert shown in listed.out + listed.err


async def test_get_shows_no_expiry_of_a_job_that_is_finished(
    shell: Shell, operator: Operator, canceled_job: str
) -> None:
    await operator.create(job_id="active", target_all=True)

    assert "\nexpires " in (await shell("get", "active")).out
    assert "\nexpires " not in (await shell("get", canceled_job)).out
