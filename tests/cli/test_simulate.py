"""`jobs-grpc simulate`."""

import asyncio
import json
import os
import re
import signal
import socket
import sys

import pytest
from fleet.jobs.v1 import jobs_pb2_grpc

from jobs_grpc.cli import simulate
from jobs_grpc.dev.simulator.totals import Totals
from tests.support.callers import Operator
from tests.support.cli import Shell, run_on_terminal, spawn
from tests.support.database import Database
from tests.support.jobs import wait_for_counts
from tests.support.server import Server, reserved_address, running_server
from tests.support.waiting import TIMEOUT

FLEET = ("simulate", "--devices", "20", "--device-format", "d{:05}")
ALL_SUCCEED = ("--failure-rate", "0", "--stall-rate", "0")


@pytest.fixture
async def job(database: Database, operator: Operator) -> str:
    await database.add_devices(operator.tenant, 20)
    await operator.create(job_id="j", target_all=True)
    return "j"


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell whose environment names no server."""
    return Shell(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("output", [["--json"], []], ids=["json", "text"])
async def test_simulate_prints_summary_when_interrupted(
    server: Server, operator: Operator, job: str, output: list[str]
) -> None:
    process = await spawn(
        *FLEET,
        *("--latency", "0:0.1"),
        *ALL_SUCCEED,
        *output,
        JOBS_SERVER=server.address,
        JOBS_TENANT=operator.tenant,
    )
    await wait_for_counts(operator, job, succeeded=20)
    os.killpg(process.pid, signal.SIGINT)
    async with asyncio.timeout(TIMEOUT):
        out, err = await process.communicate()

    assert (process.returncode, err) == (0, b"")
    if output:
        summary = json.loads(out)
        assert (summary["started"], summary["errors"]) == (20, 0)
    else:
        # Progress lines precede the summary on a slow machine.
        assert re.match(r"after 0:0\d:\d\d: 20 started, ", out.decode().splitlines()[-1])


@pytest.mark.slow
async def test_simulate_keeps_running_when_server_becomes_unavailable(
    database: Database, operator: Operator, job: str
) -> None:
    with reserved_address() as address:
        async with running_server(database.request_dsn, JOBS_LISTEN=address) as server:
            process = await spawn(
                *FLEET,
                *("--latency", "0"),
                *ALL_SUCCEED,
                "--json",
                JOBS_SERVER=address,
                JOBS_TENANT=operator.tenant,
            )
            caller = Operator(jobs_pb2_grpc.JobServiceStub(server.channel), operator.tenant)
            await wait_for_counts(caller, job, succeeded=20)
        assert process.stderr is not None
        async with asyncio.timeout(TIMEOUT):
            note = (await process.stderr.readline()).decode()
            os.killpg(process.pid, signal.SIGINT)
            out, err = await process.communicate()

    assert note.startswith(
        (f"can't reach the server at {address}, retrying: ", "the server can't serve")
    )
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out)["started"] == 20


@pytest.mark.slow
async def test_simulate_stops_when_its_time_is_up(
    server: Server, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["device-0001"])
    process = await spawn(
        "simulate", "--devices", "3", "--for", "0.5", "--tenant", tenant, "--server", server.address
    )
    out, err = await process.communicate()

    assert (process.returncode, err) == (0, b"")
    assert re.fullmatch(r"after 0:0\d:\d\d: 0 started, 0 succeeded\n", out.decode())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "note"),
    [
        (["--devices", "3"], "3 devices, each with a stream; ends after 0.1 s"),
        (["--devices", "1", "--poll", "60"], "1 device, polling every 60 s; ends after 0.1 s"),
        (["--devices", "501"], "501 devices, polling when the server asks; ends after 0.1 s"),
    ],
)
async def test_simulate_says_on_a_terminal_what_it_starts(options: list[str], note: str) -> None:
    with reserved_address() as address:
        _, shown = await run_on_terminal(
            *("simulate", "--for", "0.1", *options, "--tenant", "t", "--server", address)
        )

    assert shown.splitlines()[0] == note


@pytest.mark.parametrize("on_terminal", [True, False])
def test_progress_line_has_counters_that_are_not_zero_and_fits_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, on_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: on_terminal)

    line = simulate._progress_line(
        Totals(active=1000, started=10_000, succeeded=9000, failed=500, stalled=100)
    )

    time, _, counters = line.partition(" ")
    assert counters == "active=1000 started=10000 succeeded=9000 failed=500 stalled=100"
    assert len(line) <= 80 or not on_terminal
    assert len(time) == len("12:00:00Z" if on_terminal else "2030-01-31T12:00:00Z")


@pytest.mark.parametrize("option", [[], ["--poll", "1"], ["--bridge"]], ids=" ".join)
async def test_simulate_fails_when_tenant_does_not_have_the_devices(
    shell: Shell, server: Server, tenant: str, option: list[str]
) -> None:
    result = await shell(
        *("simulate", "--devices", "3", *option), *("--tenant", tenant, "--server", server.address)
    )

    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"jobs-grpc: tenant {tenant} has no device device-0001;"
        " import it, or choose others with --first and --device-format\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("option", [["--json"], ["--bridge"], ["--poll", "0.01"]], ids=" ".join)
async def test_simulate_fails_when_server_refuses_connections(
    shell: Shell, option: list[str]
) -> None:
    with reserved_address() as address:
        result = await shell(
            *("simulate", "--devices", "3", "--for", "1"),
            *("--tenant", "t", "--server", address, *option),
        )

    assert (result.code, result.out) == (5, "")
    assert f"can't reach the server at {address}: Connection refused" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.slow
async def test_simulate_fails_when_server_never_responds(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = await shell(
            "simulate", "--devices", "3", "--for", "1", "--tenant", "t", "--server", address
        )

    assert (result.code, result.out) == (5, "")
    assert result.err == f"jobs-grpc: can't reach the server at {address}: no response\n"


async def test_simulate_succeeds_when_it_has_not_called_server_yet(shell: Shell) -> None:
    with reserved_address() as address:
        result = await shell(
            *("simulate", "--devices", "1", "--poll", "86400", "--for", "0.1"),
            *("--tenant", "t", "--server", address),
        )

    assert (result.code, result.err) == (0, "")


@pytest.mark.slow
async def test_simulate_counts_calls_that_a_limit_refuses(
    database: Database, operator: Operator, job: str, shell: Shell
) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        result = await shell(
            *FLEET,
            *("--poll", "0.01", "--for", "1"),
            *("--tenant", operator.tenant, "--server", server.address),
        )

    assert result.code == 0
    assert re.search(r", [\d,]+ refused\n", result.out)
    assert " errors" not in result.out
    assert "refused by a limit: RESOURCE_EXHAUSTED: " in result.err
    assert "can't reach" not in result.err
