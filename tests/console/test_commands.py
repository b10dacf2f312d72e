"""The commands that the console shows work in a shell, for every ID and text."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1.jobs_pb2 import JobExecution
from playwright.async_api import Locator

from tests.console.browser import Console
from tests.support.server import Server
from tests.support.world import World

JOB = "-1:odd"
DEVICE = "-it's $(here)"
CODE = "-x"


@pytest.fixture
def environment(server: Server) -> Mapping[str, str]:
    """The environment of a shell that has jobs-grpc and names the server."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "JOBS_SERVER": server.address}


async def _commands(place: Locator) -> list[str]:
    """Return the commands that a part of the page shows: of jobs-grpc, then of curl."""
    await place.get_by_text("Command line equivalent").click()
    return await place.locator(".terminal code").all_inner_texts()


async def _run(command: str, environment: Mapping[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        command,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, (command, output.decode())
    return output.decode()


async def test_commands_work_for_ids_that_begin_with_a_dash(
    world: World, console: Console, environment: Mapping[str, str]
) -> None:
    await world.add_devices([DEVICE])
    await world.create(JOB)
    device = world.device(DEVICE)
    await device.start(JOB)
    await device.update(JOB, JobExecution.FAILED, failure_code=CODE)
    page = await console.open(f"/jobs/{JOB}")
    await page.get_by_role("link", name=DEVICE).first.click()
    for command in await _commands(page.get_by_role("region", name="State")):
        assert DEVICE in await _run(command, environment)

    await page.go_back()
    await page.get_by_role("button", name="Retry these").click()
    cli, curl = await _commands(page.get_by_role("dialog"))
    assert "-- -1:odd" in cli
    await _run(cli, environment)
    assert (await world.operator.executions(JOB)).executions[0].execution_number == 2
    assert curl.startswith("curl ")


NAMED = {"stages": [{"device_count": 1, "display_name": "it's"}, {"remainder": True}]}
GATE = {"min_succeeded_percent": 90, "require_approval": True}
PLAIN = {"stages": [{"percent": 50, "gate": GATE}, {"remainder": True}], "max_in_progress": 1}


@pytest.mark.parametrize(
    ("rollout", "shown"),
    [
        (NAMED, "--rollout /dev/stdin"),
        (
            PLAIN,
            "--stage 50% --stage rest --min-succeeded 90 --require-approval --max-in-progress 1",
        ),
    ],
    ids=["file", "options"],
)
async def test_command_of_a_new_job_creates_it_with_its_stages(
    world: World,
    console: Console,
    environment: Mapping[str, str],
    rollout: dict[str, Any],
    shown: str,
) -> None:
    await world.add_devices([DEVICE, "pump-1"])
    await world.operator.create(
        job_id="first",
        document_type="custom",
        document_params={"text": 'it\'s 5 % \\ "done"'},
        target_device_ids={"device_ids": [DEVICE, "pump-1"]},
        rollout=rollout,
        execution_events=True,
    )
    page = await console.open("/new?copy=first")
    await page.get_by_role("button", name="Create job for 2 devices").wait_for()
    commands = await _commands(page.locator(".create"))
    assert shown in commands[0]
    for command in commands:
        await _run(command, environment)
    jobs = (await world.operator.list()).jobs
    assert len(jobs) == 3
    first = await world.operator.get("first")
    for job in jobs:
        copy = await world.operator.get(job.job_id)
        assert copy.rollout == first.rollout
        assert copy.execution_events
        assert copy.document_params == first.document_params
