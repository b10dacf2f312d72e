"""The examples, and the Python snippets of the pages."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as pb

from jobs_grpc.client import JobsClient
from jobs_grpc.client.retry import MAX_ATTEMPTS
from tests.support.database import Database
from tests.support.scripted_server import Refusal, running_scripted_server
from tests.support.server import Server, reserved_address
from tests.support.waiting import TIMEOUT

ROOT = Path(__file__).parents[2]

# Restores the default handler of SIGINT, which a process that is started in the background inherits
# as ignored, and runs run_job.py.
INTERRUPTIBLE_RUN_JOB = """
import runpy
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_path("examples/run_job.py", run_name="__main__")
"""


WATCH_JOB_BEHIND_PROXY = """
import { readFileSync } from "node:fs";
const source = readFileSync("examples/watch_job.js", "utf8");
const { watchJob } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
const responses = [
  new Response("<html>", { status: 502 }),
  new Response('id: 1\\ndata: {"status": "COMPLETED"}\\n\\n'),
];
globalThis.fetch = async () => responses.shift();
Math.random = () => 0;
console.log((await watchJob("", {}, () => {})).status);
"""


def snippets(page: str) -> list[str]:
    """Return the Python snippets of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


async def start(*arguments: str) -> asyncio.subprocess.Process:
    """Start Python, with its output in one pipe."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@pytest.mark.slow
async def test_run_job_and_device_agent_complete_a_job(
    server: Server, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["pump"], group="north")
    agent = await start("examples/device_agent.py", server.address, tenant, "pump")
    try:
        async with asyncio.timeout(TIMEOUT):
            operator = await start("examples/run_job.py", server.address, tenant, "north")
            output, _ = await operator.communicate()
    finally:
        agent.kill()
        await agent.communicate()

    assert operator.returncode == 0, output.decode()
    lines = output.decode().splitlines()
    assert re.fullmatch(r"created \S+ for 1 devices", lines[0])
    assert lines[-1] == "COMPLETED 1/1"


@pytest.mark.slow
async def test_device_agent_says_that_it_waits_and_that_the_server_is_away(
    server: Server, tenant: str
) -> None:
    with reserved_address() as address:
        waiting = await start("examples/device_agent.py", server.address, tenant, "nope")
        retrying = await start("examples/device_agent.py", address, tenant, "nope")
        try:
            async with asyncio.timeout(TIMEOUT):
                lines = [await _read_lines(agent, 2) for agent in (waiting, retrying)]
        finally:
            for agent in (waiting, retrying):
                agent.kill()
                await agent.communicate()

    assert lines[0] == [
        f"connecting to {server.address}",
        f"nothing is pending for nope of {tenant}; waiting for jobs",
    ]
    assert lines[1][1].startswith(f"calling {address} again: UNAVAILABLE: ")


@pytest.mark.slow
async def test_device_agent_survives_an_outage_and_an_execution_that_is_gone() -> None:
    execution = pb.DeviceExecution(job_id="j", document_type="reboot", execution_number=1)
    away = Refusal(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", retry_after=0)
    gone = Refusal(grpc.StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND")
    async with running_scripted_server(
        WatchPendingExecutions=pb.WatchPendingExecutionsResponse(executions=[execution]),
        StartNextExecution=[
            *[away] * MAX_ATTEMPTS,
            pb.StartNextExecutionResponse(execution=execution),
            pb.StartNextExecutionResponse(),
        ],
        UpdateExecution=gone,
    ) as server:
        agent = await start("examples/device_agent.py", server.address, "t", "pump")
        output, _ = await asyncio.wait_for(agent.communicate(), TIMEOUT)

    # It ends with the stream of the scripted server.
    assert agent.returncode == 0, output.decode()
    assert output.decode().splitlines()[-2:] == ["j: reboot", "j was ended by the server"]


@pytest.mark.slow
async def test_watch_job_continues_after_a_proxy_has_not_reached_the_gateway() -> None:
    if not (node := shutil.which("node")):
        assert not os.environ.get("CI"), "node is not installed"
        pytest.skip("node is not installed")
    process = await asyncio.create_subprocess_exec(
        *(node, "--input-type=module", "--eval", WATCH_JOB_BEHIND_PROXY),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT)

    assert output.decode() == "COMPLETED\n"


async def _read_lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout is not None
    return [(await process.stdout.readline()).decode().rstrip() for _ in range(count)]


@pytest.mark.slow
async def test_run_job_ends_without_traceback_when_interrupted(
    server: Server, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["pump"], group="north")
    operator = await start("-u", "-c", INTERRUPTIBLE_RUN_JOB, server.address, tenant, "north")
    assert operator.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        created = await operator.stdout.readline()
        operator.send_signal(signal.SIGINT)
        output, _ = await operator.communicate()

    assert created.startswith(b"created "), output
    assert (operator.returncode, b"Traceback" in output) == (130, False)


@pytest.mark.slow
async def test_readme_snippet_creates_a_job(
    server: Server, database: Database, tenant: str, jobs: JobsClient
) -> None:
    await database.add_devices(tenant, ["pump"], group="north")
    (snippet,) = snippets("README.md")
    code = snippet.replace("127.0.0.1:50051", server.address).replace('"demo"', f'"{tenant}"')

    process = await start("-c", code)
    output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
    assert [f"{job.job_id} 1" async for job in jobs.list()] == output.decode().split("\n")[:-1]


@pytest.mark.slow
def test_snippets_have_no_type_errors(tmp_path: Path) -> None:
    files = []
    for page in ("README.md", "docs/clients.md", "docs/bridges.md"):
        for number, snippet in enumerate(snippets(page)):
            file = tmp_path / f"{Path(page).stem.lower()}_{number}.py"
            file.write_text(snippet, encoding="utf-8")
            files.append(str(file))
    assert len(files) >= 6

    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml"]
    command = [*mypy, "--cache-dir", str(tmp_path / "cache"), *files]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603

    assert result.returncode == 0, result.stdout
