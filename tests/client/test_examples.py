"""The examples, and the Python snippets of the pages."""

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as pb

from jobs_grpc.client import JobsClient
from jobs_grpc.client.retry import MAX_ATTEMPTS
from tests.support.database import Database
from tests.support.device_certificates import device_settings
from tests.support.identities import Authority
from tests.support.processes import output_of, running_process, skip_without
from tests.support.scripted_server import Refusal, running_scripted_server
from tests.support.server import Server, reserved_address, running_server
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
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def running(*arguments: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """Run Python during the block, with its output in one pipe."""
    return running_process(sys.executable, *arguments, cwd=ROOT, stdout=PIPE, stderr=STDOUT)


@pytest.mark.slow
async def test_run_job_and_device_agent_complete_a_job(
    server: Server, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["pump"], group="north")
    async with (
        running("examples/device_agent.py", server.address, tenant, "pump"),
        asyncio.timeout(TIMEOUT),
    ):
        command = (sys.executable, "examples/run_job.py", server.address, tenant, "north")
        lines = (await output_of(*command, cwd=ROOT)).splitlines()

    assert re.fullmatch(r"created \S+ for 1 devices", lines[0])
    assert lines[-1] == "COMPLETED 1/1"


@pytest.mark.slow
async def test_device_agent_has_the_identity_of_its_certificate(
    database: Database, tenant: str, tmp_path: Path
) -> None:
    authority = Authority()
    await database.add_devices(tenant, ["pump"], group="north")
    settings = device_settings(authority, tmp_path)
    files = settings["JOBS_DEVICE_CA"], *authority.device(tenant, "pump").write(tmp_path, "pump")
    async with running_server(database.request_dsn, **settings) as server:
        address = server.app.device_address or ""
        async with (
            running("examples/device_agent.py", address, tenant, "pump", *files),
            asyncio.timeout(TIMEOUT),
        ):
            command = (sys.executable, "examples/run_job.py", server.address, tenant, "north")
            output = await output_of(*command, cwd=ROOT)

    assert output.splitlines()[-1] == "COMPLETED 1/1"


@pytest.mark.slow
async def test_device_agent_says_that_it_waits_and_that_the_server_is_away(
    server: Server, tenant: str
) -> None:
    agent = ("examples/device_agent.py",)
    with reserved_address() as address:
        async with (
            running(*agent, server.address, tenant, "nope") as waiting,
            running(*agent, address, tenant, "nope") as retrying,
            asyncio.timeout(TIMEOUT),
        ):
            lines = [await _read_lines(process, 2) for process in (waiting, retrying)]

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
        # It ends with the stream of the scripted server.
        command = (sys.executable, "examples/device_agent.py", server.address, "t", "pump")
        output = await asyncio.wait_for(output_of(*command, cwd=ROOT), TIMEOUT)

    assert output.splitlines()[-2:] == ["j: reboot", "j was ended by the server"]


@pytest.mark.slow
async def test_watch_job_continues_after_a_proxy_has_not_reached_the_gateway() -> None:
    if not (node := shutil.which("node")):
        skip_without("node")
    arguments = ("--input-type=module", "--eval", WATCH_JOB_BEHIND_PROXY)
    assert await output_of(node, *arguments, cwd=ROOT) == "COMPLETED\n"


async def _read_lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout is not None
    return [(await process.stdout.readline()).decode().rstrip() for _ in range(count)]


@pytest.mark.slow
async def test_run_job_ends_without_traceback_when_interrupted(
    server: Server, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["pump"], group="north")
    arguments = ("-u", "-c", INTERRUPTIBLE_RUN_JOB, server.address, tenant, "north")
    async with running(*arguments) as operator, asyncio.timeout(TIMEOUT):
        assert operator.stdout
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

    output = await output_of(sys.executable, "-c", code, cwd=ROOT)

    assert [f"{job.job_id} 1" async for job in jobs.list()] == output.split("\n")[:-1]


@pytest.mark.slow
def test_snippets_have_no_type_errors(tmp_path: Path) -> None:
    files = []
    for page in ("README.md", "docs/clients.md", "docs/bridges.md", "docs/devices.md"):
        for number, snippet in enumerate(snippets(page)):
            file = tmp_path / f"{Path(page).stem.lower()}_{number}.py"
            file.write_text(snippet, encoding="utf-8")
            files.append(str(file))
    assert len(files) >= 6

    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml"]
    # Not the cache of `make check`, which is of other options.
    command = [*mypy, "--cache-dir", ".mypy_cache/snippets", *files]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603

    assert result.returncode == 0, result.stdout
