"""Workers: connections spread over them, dead ones are replaced, one stop drains all."""

import asyncio
import errno
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing.context import SpawnProcess
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.config import Config, ConfigError
from jobs_grpc.server import supervisor
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.metrics import scrape_until
from tests.support.server import reserved_address, running_server
from tests.support.server_process import Serve, connected_operator, serving
from tests.support.waiting import TIMEOUT, wait_until, wait_until_true

pytestmark = pytest.mark.slow

_SWEEPER_FAILED = "maintenance (timeouts) failed"


@asynccontextmanager
async def _workers(
    database: Database, **variables: str
) -> AsyncIterator[tuple[Serve, str, list[int]]]:
    """Run a service with two workers that listen; yields it, its address and their pids."""
    async with serving(database.request_dsn, "--workers", "2", **variables) as service:
        pids = [int(await service.wait_for_log(r"worker \d is pid (\d+)")) for _ in range(2)]
        address = await service.address()
        assert await service.address() == address
        yield service, address, pids


@asynccontextmanager
async def _operators(address: str, tenant: str, count: int) -> AsyncIterator[list[Operator]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(connected_operator(address, tenant))
            for _ in range(count)
        ]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
async def workers(database: Database) -> AsyncIterator[str]:
    """The address of a service with two workers, which have a pool of one session each."""
    async with _workers(database, JOBS_POOL_MAX_SIZE="1") as (_, address, _pids):
        yield address


async def test_connections_spread_over_the_workers(
    database: Database, workers: str, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    async with _operators(workers, tenant, 24) as operators:
        await operators[0].create(job_id="a", target_all=True)
        # Two blocked sessions mean that both workers have calls.
        async with job_lock_held(database, tenant, "a"):
            calls = [
                asyncio.create_task(operator.cancel("a", force=True)) for operator in operators
            ]
            await database.wait_for_blocked_sessions(2)
        results = await asyncio.gather(*calls, return_exceptions=True)

    assert sum(isinstance(result, pb.CancelJobResponse) for result in results) == 1


async def test_killed_workers_are_replaced_and_end_when_the_supervisor_is_killed(
    database: Database, tenant: str
) -> None:
    async with _workers(database) as (service, address, pids):
        new_pids = []
        for number, pid in enumerate(pids, 1):
            os.kill(pid, signal.SIGKILL)
            replaced = await service.wait_for_log(r"worker (\d) ended with signal 9; replacing")
            assert replaced == str(number)
            new_pids.append(int(await service.wait_for_log(r"worker \d is pid (\d+)")))
            await service.address()

        # The two original workers are gone, so a new one serves this call.
        async with _operators(address, tenant, 1) as (operator,):
            await operator.list()

        assert not {*pids} & {*new_pids}
        service.process.kill()
        await wait_until_true(lambda: not any(map(_is_alive, new_pids)))


async def test_workers_are_started_again_when_the_host_has_no_room_for_a_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop, attempts = asyncio.Event(), []

    def fail(process: SpawnProcess) -> None:
        attempts.append(process)
        if len(attempts) == 4:
            stop.set()
        raise OSError(errno.EAGAIN, "a test")

    monkeypatch.setattr(SpawnProcess, "start", fail)
    variables = {"JOBS_DATABASE_URL": "postgresql://127.0.0.1/none", "JOBS_WORKERS": "2"}
    config = Config.from_env(variables | {"JOBS_LISTEN": "127.0.0.1:0"})

    await supervisor.serve(config, stop, lambda _: None)

    assert len(attempts) == 4
    assert re.search(r"worker 1 could not start: .*a test; replacing it in 0.1 s", caplog.text)


async def test_stop_drains_all_workers_of_which_one_runs_maintenance(
    database: Database, tenant: str
) -> None:
    """A sweeper whose login is not the owner logs that it failed."""
    await database.add_devices(tenant, 1)
    async with AsyncExitStack() as stack:
        metrics = stack.enter_context(reserved_address())
        service, address, pids = await stack.enter_async_context(
            _workers(
                database,
                JOBS_METRICS_LISTEN=metrics,
                JOBS_POOL_MAX_SIZE="1",
                JOBS_POOL_TIMEOUT=f"{TIMEOUT}",
                JOBS_SHUTDOWN_GRACE="600",
                JOBS_OWNER_DATABASE_URL=database.request_dsn,
            )
        )
        operators = await stack.enter_async_context(_operators(address, tenant, 24))
        await operators[0].create(job_id="a", target_all=True)
        await operators[0].create(job_id="b", target_all=True)
        async with job_lock_held(database, tenant, "a"), job_lock_held(database, tenant, "b"):
            calls = [
                asyncio.create_task(operator.cancel("ab"[number % 2]))
                for number, operator in enumerate(operators)
            ]
            await database.wait_for_blocked_sessions(2)
            # A call that arrives while the server stops could be canceled.
            await scrape_until(metrics, lambda read: read.calls("started_total", "CancelJob") == 24)
            await wait_until_true(lambda: any(_SWEEPER_FAILED in line for line in service.log))
            service.process.terminate()
            await wait_until(lambda: _refuses_connections(address))
        results = await asyncio.gather(*calls, return_exceptions=True)

        assert await service.wait_for_exit() == 0
        assert not any(map(_is_alive, pids))
    # No call was canceled: each succeeded or failed because the job is already canceled.
    codes = {result.code() for result in results if isinstance(result, grpc.aio.AioRpcError)}
    assert codes <= {grpc.StatusCode.FAILED_PRECONDITION}
    log = "\n".join(service.log)
    assert log.count("(event loop: uvloop)") == 2
    assert log.count(_SWEEPER_FAILED) == 1
    assert "Traceback" not in log


async def _refuses_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:  # Refused, or reset if the listener closed before it accepted.
        return True
    writer.close()
    return False


async def test_signal_to_the_process_group_counts_as_one_stop(
    database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    async with (
        _workers(database, JOBS_SHUTDOWN_GRACE="600") as (service, address, pids),
        _operators(address, tenant, 1) as (operator,),
    ):
        await operator.create(job_id="a", target_all=True)
        async with job_lock_held(database, tenant, "a"):
            call = await database.blocked(operator.cancel("a"))
            os.killpg(service.process.pid, signal.SIGINT)
            # The worker without a call in flight ends at once.
            await wait_until_true(lambda: sum(map(_is_alive, pids)) == 1)

        assert (await call).status == pb.Job.CANCELED
        assert await service.wait_for_exit() == 0


async def test_second_signal_ends_all_workers_at_once(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, 1)
    async with (
        _workers(database, JOBS_SHUTDOWN_GRACE="600") as (service, address, pids),
        _operators(address, tenant, 1) as (operator,),
    ):
        await operator.create(job_id="a", target_all=True)
        async with job_lock_held(database, tenant, "a"):
            call = await database.blocked(operator.cancel("a"))
            service.process.terminate()
            await wait_until_true(lambda: sum(map(_is_alive, pids)) == 1)
            service.process.terminate()

            assert await service.wait_for_exit() == 130
            assert not any(map(_is_alive, pids))
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_workers_fail_when_port_is_in_use_by_a_server(database: Database) -> None:
    async with (
        running_server(database.request_dsn) as other,
        serving(database.request_dsn, "--workers", "2", JOBS_LISTEN=other.address) as service,
    ):
        assert await service.wait_for_exit() == 1
        assert service.log == [
            f"jobs-grpc: can't listen on {other.address} (JOBS_LISTEN):"
            " it is in use or not an address of this machine"
        ]


async def test_server_fails_when_port_is_in_use_by_workers(
    database: Database, workers: str
) -> None:
    async with serving(database.request_dsn, JOBS_LISTEN=workers) as service:
        assert await service.wait_for_exit() == 1
    assert service.log[-1] == (
        f"jobs-grpc: can't listen on {workers} (JOBS_LISTEN):"
        " it is in use or not an address of this machine"
    )


async def test_unknown_variable_and_fatal_error_of_a_worker_are_logged_once(
    database: Database,
) -> None:
    variables = {"JOBS_LOG_LEVEL": "WARNING", "JOBS_MAX_TARGET": "secret"}
    async with serving(database.owner_dsn, "--workers", "2", **variables) as service:
        assert await service.wait_for_exit() == 1

    (unknown,) = [line for line in service.log if "JOBS_MAX_TARGET" in line]
    assert " WARNING the environment variable JOBS_MAX_TARGET is unknown" in unknown
    (fatal,) = [line for line in service.log if "tenants are not isolated" in line]
    assert fatal.startswith("jobs-grpc: tenants are not isolated:")
    assert "secret" not in "".join(service.log)


def test_config_is_rejected_when_workers_share_a_unix_socket() -> None:
    environ: dict[str, Any] = {
        "JOBS_DATABASE_URL": "postgresql://",
        "JOBS_LISTEN": "unix:/tmp/s",
        "JOBS_WORKERS": "2",
    }

    with pytest.raises(ConfigError, match=r"^JOBS_WORKERS=2 can't share JOBS_LISTEN=unix:/tmp/s"):
        Config.from_env(environ)
