"""jobs-grpc watch: a job followed to its end, and what it says of that."""

import asyncio
import io
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from rich.console import Console

from jobs_grpc.cli import live
from tests.support.callers import Operator
from tests.support.cli import Shell, on_terminal, spawn
from tests.support.database import Database
from tests.support.fleets import make_fleet, running_fleet
from tests.support.server import Server, reserved_address, running_server
from tests.support.waiting import TIMEOUT


@pytest.fixture
def shell(
    server: Server, tenant: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """A shell whose environment names the server and the tenant."""
    monkeypatch.setenv("JOBS_SERVER", server.address)
    monkeypatch.setenv("JOBS_TENANT", tenant)
    return Shell(capsys)


@pytest.fixture
async def job(database: Database, operator: Operator) -> str:
    """A job for fifty devices."""
    await database.add_devices(operator.tenant, 50)
    await operator.create(job_id="j", target_all=True)
    return "j"


@asynccontextmanager
async def watching(
    address: str, tenant: str, *argv: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A spawned `watch j`, and the first line that it has printed."""
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
    """The key=value pairs of a line."""
    return dict(pair.split("=") for pair in line.split()[2:])


async def test_it_follows_a_fleet_that_carries_a_job_from_queued_to_completed(
    shell: Shell, server: Server, tenant: str, job: str
) -> None:
    async with running_fleet(make_fleet(50, server.address, tenant)):
        result = await shell("watch", job)

    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [line.split()[1] for line in lines] == ["IN_PROGRESS"] * (len(lines) - 1) + ["COMPLETED"]
    for line in lines:
        counts = {name: int(number) for name, number in pairs(line).items()}
        assert counts.pop("total") == sum(counts.values()) == 50
    assert pairs(lines[-1])["succeeded"] == "50"


async def test_json_is_the_job_in_a_line_a_state(
    shell: Shell, server: Server, tenant: str, job: str
) -> None:
    async with running_fleet(make_fleet(50, server.address, tenant)):
        result = await shell("watch", job, "--json")

    assert (result.code, result.err) == (0, "")
    states = [json.loads(line) for line in result.out.splitlines()]
    assert {state["job_id"] for state in states} == {"j"}
    assert states[-1]["status"] == "COMPLETED"
    assert states[-1]["execution_counts"]["succeeded"] == 50


async def test_a_job_that_ended_otherwise_is_a_failure(
    shell: Shell, operator: Operator, job: str
) -> None:
    await operator.cancel(job)

    result = await shell("watch", job, "--json")

    assert result.code == 4
    (line,) = result.out.splitlines()
    assert json.loads(line)["status"] == "CANCELED"
    assert json.loads(line)["execution_counts"]["rejected"] == 50
    assert re.fullmatch(r"jobs-grpc: j is CANCELED after 0:0\d:\d\d: 50 REJECTED\n", result.err)


async def test_a_job_that_is_not_there_is_not_found(shell: Shell) -> None:
    result = await shell("watch", "nowhere")

    assert (result.code, result.out) == (3, "")
    assert result.err == "jobs-grpc: NOT_FOUND: Job not found\n"


async def test_the_timeout_is_that_of_the_whole_watch(shell: Shell, job: str) -> None:
    (told,) = await timed_out(shell, "watch", job)
    (away,) = await timed_out(shell, "watch", job, "--server", "127.0.0.1:1")

    assert pairs(told)["queued"] == "50"
    assert away.startswith("the server is away, trying again: ")


async def timed_out(shell: Shell, *argv: str) -> list[str]:
    """What a watch has said by the end of its timeout, which must be more than that.

    The timeout is doubled until there is time to say something, on a busy machine as well.
    """
    seconds, said = 0.25, list[str]()
    while not said:
        result = await shell(*argv, "--timeout", f"{seconds:g}")
        assert result.code == 5
        *said, last = (result.out + result.err).splitlines()
        assert last == f"jobs-grpc: j was not over within {seconds:g} seconds"
        seconds *= 2
        assert seconds < TIMEOUT
    return said


async def test_it_survives_a_restart_of_the_server(
    database: Database, operator: Operator, job: str
) -> None:
    async with AsyncExitStack() as stack:
        address = stack.enter_context(reserved_address())
        async with running_server(database.request_dsn, JOBS_LISTEN=address):
            process, line = await stack.enter_async_context(watching(address, operator.tenant))
            assert pairs(line)["queued"] == "50"
        await operator.cancel(job)
        async with running_server(database.request_dsn, JOBS_LISTEN=address):
            out, err = await process.communicate()

    assert process.returncode == 4
    (last,) = out.decode().splitlines()
    assert last.split()[1] == "CANCELED"
    assert err.decode().splitlines()[0].startswith("the server is away, trying again: ")


async def test_ctrl_c_tells_where_the_job_stands(server: Server, tenant: str, job: str) -> None:
    async with watching(server.address, tenant) as (process, _):
        os.killpg(process.pid, signal.SIGINT)
        out, err = await process.communicate()

    assert (process.returncode, out) == (130, b"")
    assert err.decode().startswith("j is IN_PROGRESS after 0:0")
    assert err.decode().endswith(": 50 QUEUED\n")


async def test_on_a_terminal_it_shows_a_bar(
    database: Database, server: Server, operator: Operator, job: str
) -> None:
    for number in range(1, 51):
        await database.set_status(operator.tenant, job, f"d{number:05}", "SUCCEEDED")
    await operator.cancel(job)
    code, shown = await on_terminal(
        "watch", job, JOBS_SERVER=server.address, JOBS_TENANT=operator.tenant
    )

    assert code == 4
    assert "50 of 50 over" in shown
    assert "100 %" in shown


def test_the_display_fits_a_terminal() -> None:
    counts = pb.ExecutionCounts(
        queued=100_000,
        in_progress=50_000,
        succeeded=600_000,
        failed=1,
        timed_out=20_000,
        rejected=229_999,
    )
    job = pb.Job(
        job_id="j" * 128,
        document_type="reboot",
        status=pb.Job.IN_PROGRESS,
        total_executions=1_000_000,
        succeeded_count=600_000,
        failed_count=250_000,
        execution_counts=counts,
        target_all=True,
    )
    job.created_at.GetCurrentTime()
    console = Console(width=80, file=io.StringIO(), color_system=None)

    for line in live.job_lines(job, rate=1000.0):
        console.print(line)

    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("…  IN_PROGRESS")
    assert lines[1].rstrip("% 0123456789")[-1] == "─"
    assert "850,000 of 1,000,000 over · 1,000.0/s · 0:02:30 to go · 0:00:00 elapsed" in lines


@pytest.mark.parametrize(
    ("numbers", "width", "parts"),
    [
        ([1, 1], 10, [5, 5]),
        ([1, 999_999], 10, [1, 9]),
        ([999_999, 0, 1], 10, [9, 0, 1]),
        ([1, 1, 1], 10, [3, 4, 3]),
        ([0, 0], 10, [0, 0]),
    ],
)
def test_a_state_that_is_there_is_in_the_bar(
    numbers: list[int], width: int, parts: list[int]
) -> None:
    assert live.widths(numbers, width) == parts


def test_a_rate_is_that_of_the_last_seconds() -> None:
    now = 0.0
    rate = live.Rate(lambda: now)
    rates = []
    for moment, number in ((0.0, 100), (10.0, 200), (40.0, 200), (41.0, 0)):
        now = moment
        rate.add(number)
        rates.append(rate.per_second())

    assert rates == [0, 10, 0, 0]
