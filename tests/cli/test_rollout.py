"""The commands of rollouts: create --stage, advance, approve, update."""

import asyncio
import json
from pathlib import Path

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import JobsClient
from tests.support.callers import Operator
from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.server import Server

CREATE = ("create", "--type", "x", "--all", "--job-id", "j")


@pytest.fixture
async def fleet(database: Database, operator: Operator) -> None:
    """Ten devices."""
    await database.add_devices(operator.tenant, 10)


async def finish_open_stage(server: Server, operator: Operator) -> None:
    """Let each of the ten devices start the job "j", if it may, and succeed."""
    for number in range(1, 11):
        device = server.device(operator.tenant, f"d{number:05}")
        if await device.start_next():
            await device.update("j", "SUCCEEDED")


@pytest.mark.usefixtures("fleet")
async def test_create_makes_a_rollout_of_the_options(
    shell: Shell, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 2, group="north")
    options = (
        *("--stage", "10%", "--stage", "2", "--stage", "group:north"),
        *("--stage", "group:nort,allow-empty", "--stage", "rest"),
        *("--min-succeeded", "95", "--require-approval"),
        *("--releases-per-minute", "60", "--max-in-progress", "3"),
        *("--pause-at", "5%", "--cancel-at", "4"),
    )

    created = await shell(*CREATE, *options)

    assert created.code == 0, created.err
    job = await operator.get("j")
    gate = pb.Gate(min_succeeded_percent=95, require_approval=True)
    assert job.rollout == pb.Rollout(
        stages=[
            pb.Stage(percent=10, gate=gate, releases_per_minute=60),
            pb.Stage(device_count=2, gate=gate, releases_per_minute=60),
            pb.Stage(group_id="north", gate=gate, releases_per_minute=60),
            pb.Stage(group_id="nort", allow_empty=True, gate=gate, releases_per_minute=60),
            pb.Stage(remainder=True, releases_per_minute=60),
        ],
        max_in_progress=3,
    )
    pause, cancel = job.failure_criteria
    assert (pause.percent, pause.min_finished, pause.action) == (5, 20, pb.FailureCriterion.PAUSE)
    assert (cancel.count, cancel.action) == (4, pb.FailureCriterion.CANCEL)


@pytest.mark.usefixtures("fleet")
async def test_create_reads_the_rollout_from_a_file(
    shell: Shell, operator: Operator, tmp_path: Path
) -> None:
    yaml = tmp_path / "rollout.yaml"
    yaml.write_text(
        "rollout:\n"
        "  stages:\n"
        "    - {display_name: canary, percent: 1, gate: {min_succeeded_percent: 95}}\n"
        "    - {remainder: true}\n"
        "failure_criteria:\n"
        "  - {percent: 5, scope: STAGE}\n"
    )

    created = await shell(*CREATE, "--rollout", str(yaml))

    assert created.code == 0, created.err
    job = await operator.get("j")
    assert [stage.display_name for stage in job.stages] == ["canary", ""]
    assert job.failure_criteria[0].scope == pb.FailureCriterion.STAGE


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("r.yaml", "rollout: [", "while parsing"),
        ("r.json", "{", "Expecting property name"),
        ("r.json", "[" * 100_000, "nested too deeply"),
        ("r.yaml", "[" * 2_000, "nested too deeply"),
    ],
)
async def test_create_rejects_a_file_that_is_not_yaml_or_json(
    shell: Shell, tmp_path: Path, name: str, text: str, problem: str
) -> None:
    file = tmp_path / name
    file.write_text(text)

    created = await shell(*CREATE, "--rollout", str(file))

    assert (created.code, created.err.count("\n")) == (2, 1)
    assert created.err.startswith(f"jobs-grpc: {file}: {problem}")


@pytest.mark.usefixtures("fleet")
async def test_approve_without_a_stage_approves_the_one_that_waits(
    shell: Shell, server: Server, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shell(
        *CREATE, "--stage", "20%", "--stage", "30%", "--stage", "rest", "--require-approval"
    )
    monkeypatch.setenv("JOBS_USER", "aisha")
    early = await shell("approve", "j")
    await finish_open_stage(server, operator)

    async def approve_after_read(jobs: JobsClient, job_id: str) -> pb.Job:
        """Another user approves the stage, and the next one waits before our call."""
        job = await read(jobs, job_id)
        await jobs.approve(job_id, 0)
        finished = asyncio.run_coroutine_threadsafe(finish_open_stage(server, operator), loop)
        await asyncio.wrap_future(finished)
        return job

    read, loop = JobsClient.get, asyncio.get_running_loop()
    with monkeypatch.context() as patch:
        patch.setattr(JobsClient, "get", approve_after_read)
        raced = await shell("approve", "j", "--json")
    waiting = (await operator.get("j")).stages[1].awaiting_approval
    approved = await shell("approve", "j")

    assert (early.code, raced.code, waiting) == (4, 0, True)
    assert early.err == (
        "jobs-grpc: no stage of j waits for an approval; to approve the open stage in advance,"
        " name it\n"
    )
    assert approved.out.startswith("approved stage 1 of j:\n")


@pytest.mark.usefixtures("fleet")
async def test_update_changes_what_the_options_name(
    shell: Shell, operator: Operator, tmp_path: Path
) -> None:
    await shell(*CREATE, "--stage", "20%", "--stage", "rest", "--pause-at", "2")
    file = tmp_path / "criteria.json"
    file.write_text(json.dumps({"failure_criteria": [{"count": 7}]}))

    nothing = await shell("update", "j")
    updated = await shell("update", "j", "--max-in-progress", "4", "--rollout", str(file))

    assert nothing.code == 2
    assert updated.out == "updated j: failure_criteria, rollout.max_in_progress\n"
    job = await operator.get("j")
    assert job.rollout.max_in_progress == 4
    assert job.failure_criteria[0].count == 7
    assert len(job.stages) == 2


@pytest.mark.usefixtures("fleet")
async def test_update_keeps_the_limit_when_the_file_has_none(
    shell: Shell, operator: Operator, tmp_path: Path
) -> None:
    await shell(*CREATE, "--stage", "20%", "--stage", "rest", "--max-in-progress", "4")
    file = tmp_path / "stages.json"
    stages = [{"percent": 20, "releases_per_minute": 7}, {"remainder": True}]
    file.write_text(json.dumps({"rollout": {"stages": stages}}))

    updated = await shell("update", "j", "--rollout", str(file))

    assert updated.out == "updated j: rollout.stages\n"
    job = await operator.get("j")
    assert job.rollout.max_in_progress == 4
    assert job.rollout.stages[0].releases_per_minute == 7
