"""`jobs-grpc watch`."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.support.callers import Operator
from tests.support.cli import Shell, run_on_terminal, spawn
from tests.support.database import Database
from tests.support.server import Server, reserved_address, running_server
from tests.support.waiting import TIMEOUT
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("shell")

UNAVAILABLE = ("can't reach the server at ", "the server can't serve the call, retrying: ")


@pytest.fixture
async def job(database: Database, operator: Operator) -> str:
    await database.add_devices(operator.tenant, 50)
    await operator.create(job_id="j", target_all=True)
    return "j"


@asynccontextmanager
async def running_watch(
    address: str, tenant: str, *argv: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Spawn `watch j` and yield the process and the first line that it prints."""
    process = await spawn("watch", "j", *argv, JOBS_SERVER=address, JOBS_TENANT=tenant)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            yield process, (await process.stdout.readline()).decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def pairs(line: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in line.split()[2:])


async def test_watch_exits_with_5_when_timeout_is_exceeded(shell: Shell, job: str) -> None:
    (state,) = await watch_until_timeout(shell, "watch", job)
    (note,) = await watch_until_timeout(shell, "watch", job, "--server", "127.0.0.1:1")

    assert pairs(state)["queued"] == "50"
    assert note.startswith(UNAVAILABLE)


async def watch_until_timeout(shell: Shell, *argv: str, count: int = 1) -> list[str]:
    """Return the lines that a watch prints before its timeout; there must be `count` or more.

    The timeout is doubled until there are, because the machine may be busy.
    """
    seconds, lines = 0.25, list[str]()
    while len(lines) < count:
        result = await shell(*argv, "--timeout", f"{seconds:g}")
        assert result.code == 5
        *lines, last = (result.out + result.err).splitlines()
        assert last == f"jobs-grpc: j did not finish within {seconds:g} seconds"
        seconds *= 2
        assert seconds < TIMEOUT
    return lines


@pytest.mark.slow
async def test_watch_continues_when_server_restarts(world: World, job: str) -> None:
    async with AsyncExitStack() as stack:
        address = stack.enter_context(reserved_address())
        async with running_server(world.database.request_dsn, JOBS_LISTEN=address):
            process, line = await stack.enter_async_context(running_watch(address, world.tenant))
            assert pairs(line)["queued"] == "50"
        await world.operator.cancel(job)
        async with running_server(world.database.request_dsn, JOBS_LISTEN=address):
            out, err = await process.communicate()

    assert process.returncode == 4
    (last,) = out.decode().splitlines()
    assert last.split()[1] == "CANCELED"
    assert err.decode().splitlines()[0].startswith(UNAVAILABLE)


@pytest.mark.slow
async def test_watch_prints_summary_when_interrupted(server: Server, tenant: str, job: str) -> None:
    async with running_watch(server.address, tenant) as (process, _):
        os.killpg(process.pid, signal.SIGINT)
        out, err = await process.communicate()

    assert (process.returncode, out) == (130, b"")
    assert err.decode().startswith("j is IN_PROGRESS after 0:0")
    assert err.decode().endswith(": 50 QUEUED\n")


@pytest.mark.slow
async def test_watch_shows_bar_on_terminal(world: World, job: str) -> None:
    for number in range(1, 51):
        await world.database.set_status(world.tenant, job, f"d{number:05}", "SUCCEEDED")
    await world.operator.cancel(job)
    code, shown = await run_on_terminal("watch", job)

    assert code == 4
    assert "50 of 50 finished" in shown
    assert "100 %" in shown


@pytest.mark.slow
async def test_watch_without_colors_tells_success_and_rejection_apart(
    database: Database, operator: Operator, job: str
) -> None:
    for number in range(1, 26):
        await database.set_status(operator.tenant, job, f"d{number:05}", "SUCCEEDED")
    await operator.cancel(job)

    _, shown = await run_on_terminal("watch", job, NO_COLOR="1")

    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).splitlines()]
    assert f"{'█' * 36}{'/' * 37}  100 %" in lines
    legend = [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
    assert "█ SUCCEEDED 25  / REJECTED or CANCELED 25" in legend


async def test_watch_names_the_first_devices_that_do_not_report(
    world: World, shell: Shell, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs_grpc.cli.watch_reads._QUIET", 0.2)
    for number in range(1, 6):
        await world.device(f"d{number:05}").start(job)
    await world.execute(
        "UPDATE jobs.job_executions SET last_updated_at = last_updated_at - interval '1 minute'"
        " WHERE tenant_id = $1 AND status = 'IN_PROGRESS'"
    )

    lines = await watch_until_timeout(shell, "watch", job, count=3)

    assert lines[1:] == [
        "no report for 0 s: d00001, d00002, d00003 and 2 more",
        "  jobs-grpc get j --status IN_PROGRESS  see all",
    ]
