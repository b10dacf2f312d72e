"""The event loop of a server process."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from jobs_grpc.config import Config
from jobs_grpc.server import event_loop
from tests.support.cli import spawn
from tests.support.database import Database
from tests.support.waiting import TIMEOUT

Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def start(database: Database) -> AsyncIterator[Start]:
    """A function that starts `jobs-grpc serve`. The process is killed when the test ends."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(**variables: str) -> asyncio.subprocess.Process:
        environ = {"JOBS_DATABASE_URL": database.request_dsn, "JOBS_LISTEN": "127.0.0.1:0"}
        processes.append(await spawn("serve", stdin=None, **(environ | variables)))
        return processes[-1]

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _logged_event_loop(process: asyncio.subprocess.Process) -> str:
    """Return the event loop of the line that says where the server listens."""
    assert process.stderr
    async with asyncio.timeout(TIMEOUT):
        while line := await process.stderr.readline():
            if match := re.search(r"listening on \S+ \(event loop: (\w+)\)", line.decode()):
                return match[1]
    raise AssertionError("the process exited before it listened")


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "loop"), [("auto", "uvloop"), ("asyncio", "asyncio")])
async def test_server_logs_its_event_loop_and_exits_on_sigterm(
    start: Start, setting: str, loop: str
) -> None:
    process = await start(JOBS_EVENT_LOOP=setting)

    assert await _logged_event_loop(process) == loop
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert process.returncode == 0
    assert b"Traceback" not in log


@pytest.mark.slow
async def test_worker_runs_on_uvloop(start: Start) -> None:
    process = await start(JOBS_WORKERS="2")

    assert await _logged_event_loop(process) == "uvloop"


def test_event_loop_is_that_of_asyncio_when_uvloop_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "_new_uvloop", None)
    config = Config.from_env({"JOBS_DATABASE_URL": "postgresql://u:p@127.0.0.1/d"})

    async def name() -> str:
        return event_loop.name()

    assert event_loop.run(config, name()) == "asyncio"
