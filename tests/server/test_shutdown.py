"""A stop: health goes first, calls in flight are finished, then the pool is closed."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc
from grpc import StatusCode
from grpc_health.v1 import health_pb2

from jobs_grpc.db.migrate import RequestRole
from tests.support.callers import Operator
from tests.support.cli import address_of
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.health import wait_until_healthy, watch_health
from tests.support.server import open_channel, running_server
from tests.support.waiting import TIMEOUT, wait_until

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# Longer than a test may take: a stop that uses it up is found out.
LONG = {"JOBS_SHUTDOWN_GRACE": "600"}
SHORT = {"JOBS_SHUTDOWN_GRACE": "0.2"}


@dataclass
class Stoppable:
    """A service to stop in mid-test, and a channel that does not end with it."""

    address: str
    channel: grpc.aio.Channel
    operator: Operator
    running: AsyncExitStack
    stopping: "asyncio.Task[None] | None" = None

    def stop(self) -> None:
        """Begin to stop."""
        self.stopping = asyncio.create_task(self.running.aclose())

    async def stopped(self) -> None:
        """Return when the stop has ended."""
        assert self.stopping
        await asyncio.wait_for(self.stopping, TIMEOUT)


@asynccontextmanager
async def _service(
    database: Database, tenant: str, grace: dict[str, str]
) -> AsyncIterator[Stoppable]:
    """A service whose tenant has a job "a"."""
    await database.add_devices(tenant, 1)
    async with AsyncExitStack() as running:
        server = await running.enter_async_context(running_server(database.request_dsn, **grace))
        async with open_channel(server.address) as channel:
            operator = Operator(jobs_pb2_grpc.JobServiceStub(channel), tenant)
            await operator.create(job_id="a", target_all=True)
            service = Stoppable(server.address, channel, operator, running)
            yield service
            await service.stopped()


async def _next_status(watch: Any) -> int:
    async with asyncio.timeout(TIMEOUT):
        response: health_pb2.HealthCheckResponse = await watch.read()
    return response.status


async def test_calls_in_flight_are_answered(database: Database, tenant: str) -> None:
    async with _service(database, tenant, LONG) as service:
        async with job_lock_held(database, tenant, "a"):
            call = asyncio.create_task(service.operator.cancel("a"))
            await database.wait_for_blocked_sessions(1)
            service.stop()
            await _until_refused(service.address, tenant)
            assert service.stopping
            assert not service.stopping.done()

        assert (await call).status == pb.Job.CANCELED


async def test_new_calls_are_refused_while_others_are_finished(
    database: Database, tenant: str
) -> None:
    async with _service(database, tenant, LONG) as service:
        async with job_lock_held(database, tenant, "a"):
            call = asyncio.create_task(service.operator.cancel("a"))
            await database.wait_for_blocked_sessions(1)
            service.stop()
            await _until_refused(service.address, tenant)

            with expect_failure(StatusCode.UNAVAILABLE):
                await service.operator.list()
        await call


async def test_health_says_not_serving_before_the_last_call_has_ended(
    database: Database, tenant: str
) -> None:
    async with _service(database, tenant, LONG) as service:
        watch = watch_health(service.channel)
        assert await _next_status(watch) == health_pb2.HealthCheckResponse.SERVING
        async with job_lock_held(database, tenant, "a"):
            call = asyncio.create_task(service.operator.cancel("a"))
            await database.wait_for_blocked_sessions(1)
            service.stop()

            assert await _next_status(watch) == NOT_SERVING
            assert not call.done()
        await call


async def test_an_open_watch_does_not_hold_up_the_stop(database: Database, tenant: str) -> None:
    async with _service(database, tenant, LONG) as service:
        watch = watch_health(service.channel)
        await _next_status(watch)

        service.stop()
        await service.stopped()


async def test_a_call_that_outlasts_the_grace_is_cut_off_and_undone(
    database: Database, tenant: str
) -> None:
    async with _service(database, tenant, SHORT) as service, job_lock_held(database, tenant, "a"):
        call = asyncio.create_task(service.operator.cancel("a"))
        await database.wait_for_blocked_sessions(1)

        service.stop()
        await service.stopped()

        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asyncio.wait_for(call, TIMEOUT)
        assert raised.value.code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
        await database.wait_for_blocked_sessions(0)
    status = "SELECT status::text FROM jobs.jobs WHERE tenant_id = $1"
    assert await database.owner.fetchval(status, tenant) == "IN_PROGRESS"


async def test_no_session_is_left_afterwards(database: Database, tenant: str) -> None:
    async with _service(database, tenant, LONG) as service:
        service.stop()
        await service.stopped()

        await wait_until(lambda: _no_session(database))


async def test_no_session_is_left_of_a_call_that_was_cut_off(
    database: Database, tenant: str
) -> None:
    async with _service(database, tenant, SHORT) as service, job_lock_held(database, tenant, "a"):
        call = asyncio.create_task(service.operator.cancel("a"))
        await database.wait_for_blocked_sessions(1)
        service.stop()
        await service.stopped()

        await wait_until(lambda: _no_session(database))
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def _no_session(database: Database) -> bool:
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1"
    role = RequestRole.of_dsn(database.request_dsn).name
    count: int = await database.owner.fetchval(sessions, role)
    return count == 0


async def _until_refused(address: str, tenant: str) -> None:
    """Return when the server takes no new connection's call."""

    async def refused() -> bool:
        async with open_channel(address) as channel:
            stub = jobs_pb2_grpc.JobServiceStub(channel)
            metadata = Operator(stub, tenant).metadata
            try:
                # A connection made just as the listener closes may get no answer at all.
                await stub.ListJobs(pb.ListJobsRequest(), metadata=metadata, timeout=1)
            except grpc.aio.AioRpcError as e:
                return e.code() is StatusCode.UNAVAILABLE
            return False

    await wait_until(refused)


async def test_sigterm_ends_the_process_when_its_calls_are_answered(
    database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    environment = os.environ | {
        "JOBS_DATABASE_URL": database.request_dsn,
        "JOBS_LISTEN": "127.0.0.1:0",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jobs_grpc.cli", "serve"),
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        address = await address_of(process)
        async with open_channel(address) as channel:
            await wait_until_healthy(channel)
            operator = Operator(jobs_pb2_grpc.JobServiceStub(channel), tenant)
            await operator.create(job_id="a", target_all=True)
            async with job_lock_held(database, tenant, "a"):
                call = asyncio.create_task(operator.cancel("a"))
                await database.wait_for_blocked_sessions(1)
                process.send_signal(signal.SIGTERM)
                await _until_refused(address, tenant)

            assert (await call).status == pb.Job.CANCELED
            _, log = await asyncio.wait_for(process.communicate(), TIMEOUT)
        assert process.returncode == 0
        assert b"Traceback" not in log
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_calls_that_have_arrived_are_served(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC has them, but has not handed them over: this loop was busy, and then stops."""
    # What is sent has arrived only when gRPC's threads had their turn, too.
    monkeypatch.setattr("jobs_grpc.server.app._FAREWELL", 1.0)
    warm, sent, release = threading.Event(), threading.Event(), threading.Event()

    def call(address: str) -> list[StatusCode]:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        with grpc.insecure_channel(address, options) as channel:
            stub = jobs_pb2_grpc.JobServiceStub(channel)
            metadata = (("x-tenant-id", tenant),)
            stub.ListJobs(pb.ListJobsRequest(), metadata=metadata, timeout=TIMEOUT)
            warm.set()
            release.wait(TIMEOUT)
            calls = [
                stub.ListJobs.future(pb.ListJobsRequest(), metadata=metadata, timeout=TIMEOUT)
                for _ in range(8)
            ]
            sent.set()
            return [each.code() for each in calls]

    async with running_server(database.request_dsn) as server:
        calling = asyncio.create_task(asyncio.to_thread(call, server.address))
        await asyncio.to_thread(warm.wait, TIMEOUT)
        release.set()
        # Held up on purpose: nothing is handed over in the meantime.
        sent.wait(TIMEOUT)

    assert await calling == [StatusCode.OK] * 8
