"""Several processes on one port: connections are spread, the dead replaced, all stopped as one."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from jobs_grpc.config import Config, ConfigError
from tests.support.callers import Operator
from tests.support.cli import spawn
from tests.support.database import Database, job_lock_held
from tests.support.health import wait_until_healthy
from tests.support.server import open_channel, running_server
from tests.support.waiting import TIMEOUT, wait_until


@dataclass
class Service:
    """A service of several processes, and what it says on stderr."""

    process: asyncio.subprocess.Process
    log: list[str] = field(default_factory=list)

    async def said(self, pattern: str) -> str:
        """The first group of `pattern` in the next line that has it."""
        assert self.process.stderr
        async with asyncio.timeout(TIMEOUT):
            while line := (await self.process.stderr.readline()).decode():
                self.log.append(line)
                if match := re.search(pattern, line):
                    return match[1]
        raise AssertionError(f"it ended without saying so: {self.log}")

    async def ended(self) -> int:
        """Its exit code, when it has ended."""
        async with asyncio.timeout(TIMEOUT):
            _, rest = await self.process.communicate()
        self.log += rest.decode().splitlines()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def _started(dsn: str, workers: int = 2, **variables: str) -> AsyncIterator[Service]:
    variables = {"JOBS_DATABASE_URL": dsn, "JOBS_LISTEN": "127.0.0.1:0"} | variables
    process = await spawn("serve", "--workers", str(workers), stdin=None, **variables)
    try:
        yield Service(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def _workers(
    database: Database, **variables: str
) -> AsyncIterator[tuple[Service, str, list[int]]]:
    """A service with two workers, its address and their pids; they listen."""
    async with _started(database.request_dsn, 2, **variables) as service:
        pids = [int(await service.said(r"worker \d is pid (\d+)")) for _ in range(2)]
        address = await service.said(r"listening on (\S+)")
        assert await service.said(r"listening on (\S+)") == address
        yield service, address, pids


@asynccontextmanager
async def _callers(address: str, tenant: str, count: int) -> AsyncIterator[list[Operator]]:
    """Callers with a connection each."""
    async with AsyncExitStack() as open_channels:
        channels = [
            await open_channels.enter_async_context(open_channel(address)) for _ in range(count)
        ]
        for channel in channels:
            await wait_until_healthy(channel)
        yield [Operator(jobs_pb2_grpc.JobServiceStub(channel), tenant) for channel in channels]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def _until_gone(pids: list[int]) -> None:
    async def gone() -> bool:
        return not any(map(_is_alive, pids))

    await wait_until(gone)


async def test_connections_are_spread_over_the_processes(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, 1)
    # A process can't be at work in two sessions of the database.
    async with (
        _workers(database, JOBS_POOL_MAX_SIZE="1") as (_, address, _pids),
        _callers(address, tenant, 24) as callers,
    ):
        await callers[0].create(job_id="a", target_all=True)
        async with job_lock_held(database, tenant, "a"):
            calls = [asyncio.create_task(caller.cancel("a", force=True)) for caller in callers]
            await database.wait_for_blocked_sessions(2)
        answers = await asyncio.gather(*calls, return_exceptions=True)

    assert sum(isinstance(answer, pb.CancelJobResponse) for answer in answers) == 1


async def test_a_worker_that_is_killed_is_replaced(database: Database, tenant: str) -> None:
    async with _workers(database) as (service, address, pids):
        for number, pid in enumerate(pids, 1):
            os.kill(pid, signal.SIGKILL)
            assert await service.said(r"worker (\d) ended with signal 9; replaced") == str(number)
            assert int(await service.said(r"worker \d is pid (\d+)")) not in pids
            await service.said(r"listening on (\S+)")

        # Both of those that served at first are gone.
        async with _callers(address, tenant, 1) as (caller,):
            await caller.list()


async def test_a_stop_drains_all_of_them(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, 1)
    async with (
        _workers(database, JOBS_POOL_MAX_SIZE="1", JOBS_SHUTDOWN_GRACE="600") as started,
        _callers(started[1], tenant, 24) as callers,
    ):
        service, address, pids = started
        await callers[0].create(job_id="a", target_all=True)
        await callers[0].create(job_id="b", target_all=True)
        async with job_lock_held(database, tenant, "a"), job_lock_held(database, tenant, "b"):
            calls = [
                asyncio.create_task(caller.cancel("ab"[number % 2]))
                for number, caller in enumerate(callers)
            ]
            await database.wait_for_blocked_sessions(2)
            service.process.terminate()
            await wait_until(lambda: _is_refused(address))
        answers = await asyncio.gather(*calls, return_exceptions=True)

        assert await service.ended() == 0
        assert not any(map(_is_alive, pids))
    # Cut off is nobody: they were answered, or told that the job was canceled already.
    codes = {answer.code() for answer in answers if isinstance(answer, grpc.aio.AioRpcError)}
    assert codes <= {grpc.StatusCode.FAILED_PRECONDITION}
    assert not any("Traceback" in line for line in service.log)


async def _is_refused(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_a_signal_to_all_processes_of_the_group_is_one_stop(
    database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    async with (
        _workers(database, JOBS_SHUTDOWN_GRACE="600") as (service, address, pids),
        _callers(address, tenant, 1) as (caller,),
    ):
        await caller.create(job_id="a", target_all=True)
        async with job_lock_held(database, tenant, "a"):
            call = asyncio.create_task(caller.cancel("a"))
            await database.wait_for_blocked_sessions(1)
            os.killpg(service.process.pid, signal.SIGINT)
            # The other has nothing to finish.
            await wait_until(lambda: _one_is_left(pids))

        assert (await call).status == pb.Job.CANCELED
        assert await service.ended() == 0


async def _one_is_left(pids: list[int]) -> bool:
    return sum(map(_is_alive, pids)) == 1


async def test_a_second_signal_ends_them_at_once(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, 1)
    async with (
        _workers(database, JOBS_SHUTDOWN_GRACE="600") as (service, address, pids),
        _callers(address, tenant, 1) as (caller,),
    ):
        await caller.create(job_id="a", target_all=True)
        async with job_lock_held(database, tenant, "a"):
            call = asyncio.create_task(caller.cancel("a"))
            await database.wait_for_blocked_sessions(1)
            service.process.terminate()
            await wait_until(lambda: _one_is_left(pids))
            service.process.terminate()

            assert await service.ended() == 130
            assert not any(map(_is_alive, pids))
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_workers_end_with_their_parent(database: Database) -> None:
    async with _workers(database) as (service, _, pids):
        service.process.kill()

        await _until_gone(pids)


async def test_a_port_that_a_server_has_is_refused(database: Database) -> None:
    async with (
        running_server(database.request_dsn) as other,
        _started(database.request_dsn, JOBS_LISTEN=other.address) as service,
    ):
        assert await service.ended() == 1
        assert service.log == [
            f"jobs-grpc: can't listen on {other.address}: it is in use or not an address here"
        ]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_port_that_workers_have_is_refused(database: Database, workers: int) -> None:
    async with (
        _workers(database) as (_, address, _pids),
        _started(database.request_dsn, workers, JOBS_LISTEN=address) as service,
    ):
        assert await service.ended() == 1
        assert service.log[-1] == (
            f"jobs-grpc: can't listen on {address}: it is in use or not an address here"
        )


async def test_what_ends_one_process_for_good_ends_all_and_is_said_once(
    database: Database,
) -> None:
    async with _started(database.owner_dsn, JOBS_LOG_LEVEL="ERROR") as service:
        assert await service.ended() == 1

    (line,) = service.log
    assert line.startswith("jobs-grpc: tenants are not isolated:")


async def test_one_of_them_sweeps(database: Database) -> None:
    async with _workers(database) as (service, address, _pids):
        async with _callers(address, "any", 1):
            pass
        service.process.terminate()
        assert await service.ended() == 0

    # Only who would sweep says that it can't.
    assert sum("JOBS_OWNER_DATABASE_URL is not set" in line for line in service.log) == 1


def test_a_socket_in_a_folder_can_not_be_shared() -> None:
    environ: dict[str, Any] = {
        "JOBS_DATABASE_URL": "postgresql://",
        "JOBS_LISTEN": "unix:/tmp/s",
        "JOBS_WORKERS": "2",
    }

    with pytest.raises(ConfigError, match=r"^JOBS_WORKERS=2 can't share JOBS_LISTEN=unix:/tmp/s"):
        Config.from_env(environ)
