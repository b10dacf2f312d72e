"""The commands of rollouts: create --stage, advance, approve, update."""

import asyncio
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
    await database.add_devices(operator.tenant, 10)


async def finish_open_stage(server: Server, operator: Operator) -> None:
    """Let each of the ten devices start the job "j", if it may, and succeed."""
    for number in range(1, 11):
        device = server.device(operator.tenant, f"d{number:05}")
        if await device.start_next():
            await device.update("j", "SUCCEEDED")


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
        "jobs-grpc: no stage of j waits for an approval; to approve or reject the open stage in"
        " advance, name it\n"
    )
    assert approved.out.startswith("approved stage 1 of j:\n")
