"""The examples, and the Python snippets of the pages."""

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs_grpc.client import JobsClient
from tests.support.database import Database
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
