"""jobs-grpc migrate and serve, as far as their command line goes."""

import asyncio
import signal
import socket
import sys

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2_grpc
from grpc_health.v1 import health_pb2

from jobs_grpc.config.reference import all_settings
from tests.support.callers import Operator
from tests.support.cli import Shell, address_of, spawn
from tests.support.database import Database, job_lock_held
from tests.support.health import wait_until_healthy, watch_health
from tests.support.postgres import Postgres
from tests.support.server import open_channel
from tests.support.waiting import TIMEOUT


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell."""
    return Shell(capsys)


async def test_migrate_says_what_it_did(
    cluster: tuple[Postgres, str], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, _ = cluster
    async with running.database() as name:
        monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", running.dsn(name))
        monkeypatch.setenv("JOBS_DATABASE_URL", running.dsn(name, running.role))

        first = await shell("migrate")
        second = await shell("migrate")

    assert first.code == second.code == 0
    assert first.out.startswith("applied migration 0001 jobs\n")
    assert second.out == "the schema is current\n"


async def test_migrate_needs_the_owners_dsn(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBS_OWNER_DATABASE_URL", raising=False)

    result = await shell("migrate")

    assert result.code == 2
    assert result.err.startswith("jobs-grpc: JOBS_OWNER_DATABASE_URL is not set")


async def test_migrate_needs_a_request_dsn_with_a_user(
    cluster: tuple[Postgres, str], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, template = cluster
    async with running.database(template) as name:
        monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", running.dsn(name))
        monkeypatch.setenv("JOBS_DATABASE_URL", "postgresql:///jobs?host=/run/postgresql")

        refused = await shell("migrate")
        named = await shell("migrate", "--request-role", running.role.name)

    assert refused.code == 2
    assert refused.err.startswith("jobs-grpc: JOBS_DATABASE_URL names no user")
    assert (named.code, named.out) == (0, "the schema is current\n")


async def test_migrate_without_a_database_is_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/db")

    result = await shell("migrate")

    assert result.code == 5
    assert result.err.count("\n") == 1
    assert "secret" not in result.err


async def test_serve_refuses_the_owner_with_the_remedy(
    database: Database,
) -> None:
    process = await spawn("serve", JOBS_DATABASE_URL=database.owner_dsn, JOBS_LISTEN="127.0.0.1:0")
    _, errors = await process.communicate()

    assert process.returncode == 1
    last = errors.decode().splitlines()[-1]
    assert last.startswith("jobs-grpc: tenants are not isolated: role ")
    assert "To mend it: " in last


async def test_serve_help_lists_every_setting(shell: Shell) -> None:
    result = await shell("serve", "--help")

    assert result.code == 0
    for setting in all_settings():
        assert f"{setting.variable} [{setting.default_text}]" in result.out


async def test_a_wrong_setting_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_DATABASE_URL", "postgresql://h/d")
    monkeypatch.setenv("JOBS_POOL_MAX_SIZE", "many")

    result = await shell("serve")

    assert (result.code, result.err) == (
        2,
        "jobs-grpc: JOBS_POOL_MAX_SIZE=many must be a whole number from 1 to 1000\n",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_ends_the_calls_in_flight(
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


async def test_dev_without_its_extra_is_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setitem(sys.modules, "platformdirs", None)

    result = await shell("dev")

    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "jobs-grpc: no embedded PostgreSQL: in a clone of jobs-grpc, pip install '.[embedded]'\n"
    )


async def test_a_port_that_is_taken_is_one_line_of_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await spawn(
            "serve", JOBS_DATABASE_URL="postgresql://u@127.0.0.1:1/d", JOBS_LISTEN=address
        )
        _, errors = await process.communicate()

    assert process.returncode == 1
    assert errors.decode() == (
        f"jobs-grpc: can't listen on {address}: it is in use or not an address here\n"
    )
