"""`jobs-grpc serve`: its command line and its signals."""

import asyncio
import signal
import socket

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2_grpc
from grpc_health.v1 import health_pb2

from jobs_grpc.config.reference import all_settings
from tests.support.callers import Operator
from tests.support.cli import Shell, address_of, spawn
from tests.support.database import Database, job_lock_held
from tests.support.health import wait_until_healthy, watch_health
from tests.support.server import open_channel
from tests.support.waiting import TIMEOUT


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell whose environment names no server."""
    return Shell(capsys)


@pytest.mark.slow
async def test_serve_rejects_owner_login_and_prints_remedy(database: Database) -> None:
    process = await spawn("serve", JOBS_DATABASE_URL=database.owner_dsn, JOBS_LISTEN="127.0.0.1:0")
    _, errors = await process.communicate()

    assert process.returncode == 1
    last = errors.decode().splitlines()[-1]
    assert last.startswith("jobs-grpc: tenants are not isolated: role ")
    assert "To fix it, run: " in last


async def test_serve_help_lists_every_setting(shell: Shell) -> None:
    result = await shell("serve", "--help")

    assert result.code == 0
    for setting in all_settings():
        assert f"{setting.variable} [{setting.default_text}]" in result.out


async def test_serve_fails_with_one_line_when_setting_is_invalid(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_DATABASE_URL", "postgresql://h/d")
    monkeypatch.setenv("JOBS_POOL_MAX_SIZE", "many")

    result = await shell("serve")

    assert (result.code, result.err) == (
        2,
        "jobs-grpc: JOBS_POOL_MAX_SIZE=many must be a whole number from 1 to 1000\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serve_cancels_calls_in_flight_on_second_signal(
    database: Database, tenant: str, number: int
) -> None:
    await database.add_devices(tenant, 1)
    process = await spawn(
        "serve",
        JOBS_DATABASE_URL=database.request_dsn,
        JOBS_LISTEN="127.0.0.1:0",
        JOBS_SHUTDOWN_GRACE="600",
    )
    async with open_channel(await address_of(process)) as channel:
        await wait_until_healthy(channel)
        operator = Operator(jobs_pb2_grpc.JobServiceStub(channel), tenant)
        await operator.create(job_id="j", target_all=True)
        watch = watch_health(channel)
        await watch.read()
        async with job_lock_held(database, tenant, "j"):
            call = asyncio.create_task(operator.cancel("j"))
            await database.wait_for_blocked_sessions(1)
            process.send_signal(number)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            process.send_signal(number)

            _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)
            with pytest.raises(grpc.aio.AioRpcError):
                await call
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert b"pending" not in errors
    assert b"stopped" in errors


@pytest.mark.slow
async def test_serve_fails_with_one_line_when_port_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await spawn(
            "serve", JOBS_DATABASE_URL="postgresql://u@127.0.0.1:1/d", JOBS_LISTEN=address
        )
        _, errors = await process.communicate()

    assert process.returncode == 1
    assert errors.decode() == (
        f"jobs-grpc: can't listen on {address} (JOBS_LISTEN):"
        " it is in use or not an address of this machine\n"
    )
