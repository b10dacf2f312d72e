"""Shutdown: health reports NOT_SERVING, calls in flight finish, then the pool closes."""

import asyncio
import re
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc
from grpc import StatusCode
from grpc_health.v1 import health_pb2

from jobs_grpc.rpc.call_tracker import CallTracker
from jobs_grpc.server import shutdown
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.health import watch_health
from tests.support.http2 import connection
from tests.support.server import DEFAULT_OPTIONS, open_channel, reserved_address, running_server
from tests.support.server_process import connected_operator, serving
from tests.support.waiting import TIMEOUT, wait_until, wait_until_equal, wait_until_true

WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# Longer than the test timeout, so a shutdown that waits for the whole grace fails the test.
LONG_GRACE = {"JOBS_SHUTDOWN_GRACE": "600"}
SHORT_GRACE = {"JOBS_SHUTDOWN_GRACE": "0.2"}


@dataclass
class Stoppable:
    """A service that a test can stop, and a channel that outlives it."""

    address: str
    channel: grpc.aio.Channel
    operator: Operator
    running: AsyncExitStack
    stopping: "asyncio.Task[None] | None" = None

    def stop(self) -> None:
        self.stopping = asyncio.create_task(self.running.aclose())

    async def wait_until_stopped(self) -> None:
        assert self.stopping
        await asyncio.wait_for(self.stopping, TIMEOUT)


@asynccontextmanager
async def _service(
    database: Database, tenant: str, settings: dict[str, str]
) -> AsyncIterator[Stoppable]:
    await database.add_devices(tenant, 1)
    async with AsyncExitStack() as running:
        server = await running.enter_async_context(running_server(database.request_dsn, **settings))
        async with open_channel(server.address) as channel:
            operator = Operator(jobs_pb2_grpc.JobServiceStub(channel), tenant)
            await operator.create(job_id="a", target_all=True)
            service = Stoppable(server.address, channel, operator, running)
            yield service
            await service.wait_until_stopped()


@asynccontextmanager
async def _shutdown_after_grace(
    database: Database, tenant: str
) -> AsyncIterator["asyncio.Task[object]"]:
    """Stop a service; yields a call that waited for a lock for longer than the grace."""
    async with (
        _service(database, tenant, SHORT_GRACE) as service,
        job_lock_held(database, tenant, "a"),
    ):
        call: asyncio.Task[object] = await database.blocked(service.operator.cancel("a"))
        service.stop()
        await service.wait_until_stopped()
        yield call


async def _next_status(watch: Any) -> int:
    async with asyncio.timeout(TIMEOUT):
        response: health_pb2.HealthCheckResponse = await watch.read()
    return response.status


async def test_shutdown_waits_for_calls_in_flight_and_refuses_new_ones(
    database: Database, tenant: str
) -> None:
    async with _service(database, tenant, LONG_GRACE) as service:
        watch = watch_health(service.channel)
        assert await _next_status(watch) == health_pb2.HealthCheckResponse.SERVING
        async with job_lock_held(database, tenant, "a"):
            call = await database.blocked(service.operator.cancel("a"))
            service.stop()
            assert await _next_status(watch) == NOT_SERVING
            await _wait_until_rejected(service.address, tenant)
            with expect_failure(StatusCode.UNAVAILABLE):
                await service.operator.list()
            assert service.stopping
            assert not service.stopping.done()
            assert not call.done()

        assert (await call).status == pb.Job.CANCELED


async def test_shutdown_closes_sessions_and_does_not_wait_for_a_health_watch(
    database: Database, tenant: str
) -> None:
    async with _service(database, tenant, LONG_GRACE) as service:
        watch = watch_health(service.channel)
        await _next_status(watch)

        service.stop()
        await service.wait_until_stopped()

        await _wait_until_sessions_are_closed(database)


@pytest.mark.slow
async def test_shutdown_does_not_wait_for_a_health_watch_whose_client_does_not_read(
    database: Database, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        _service(database, tenant, LONG_GRACE) as service,
        connection(service.address, window=0) as slow,
    ):
        slow.call(1, WATCH_HEALTH, {}, health_pb2.HealthCheckRequest())
        async for received in slow.frames():
            if received.stream == 1:
                break

        service.stop()
        await service.wait_until_stopped()

    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_call_is_canceled_and_rolled_back_when_it_exceeds_the_grace(
    database: Database, tenant: str
) -> None:
    async with _shutdown_after_grace(database, tenant) as call:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asyncio.wait_for(call, TIMEOUT)
        assert raised.value.code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
        await _wait_until_sessions_are_closed(database)
    status = "SELECT status::text FROM jobs.jobs WHERE tenant_id = $1"
    assert await database.owner.fetchval(status, tenant) == "IN_PROGRESS"


async def test_grace_includes_the_time_to_accept_streams(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server waits for new streams until half of the grace is over."""
    monkeypatch.setattr(shutdown, "_QUIET_SECONDS", 600)
    monkeypatch.setattr(shutdown, "_MAX_ACCEPT_SECONDS", 600)
    times: list[float] = []
    accept_streams, wait_for_calls = shutdown._accept_streams, CallTracker.wait_for_calls

    async def note_start(in_flight: CallTracker, seconds: float) -> None:
        times.append(asyncio.get_running_loop().time())
        await accept_streams(in_flight, seconds)

    async def note_deadline(in_flight: CallTracker, deadline: float) -> None:
        times.append(deadline)
        await wait_for_calls(in_flight, deadline)

    monkeypatch.setattr(shutdown, "_accept_streams", note_start)
    monkeypatch.setattr(CallTracker, "wait_for_calls", note_deadline)
    async with _shutdown_after_grace(database, tenant) as call:
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    accepting_since, deadline = times
    assert deadline <= accepting_since + float(SHORT_GRACE["JOBS_SHUTDOWN_GRACE"])


async def _wait_until_sessions_are_closed(database: Database) -> None:
    await wait_until_equal(lambda: database.sessions("usename <> current_user"), [])


async def _wait_until_rejected(address: str, tenant: str) -> None:
    """Return when the server accepts no new connection."""

    async def is_rejected() -> bool:
        async with open_channel(address) as channel:
            stub = jobs_pb2_grpc.JobServiceStub(channel)
            metadata = Operator(stub, tenant).metadata
            try:
                # The server may not respond to a connection made just as the listener closes.
                await stub.ListJobs(pb.ListJobsRequest(), metadata=metadata, timeout=1)
            except grpc.aio.AioRpcError as e:
                return e.code() is StatusCode.UNAVAILABLE
            return False

    await wait_until(is_rejected)


@pytest.mark.slow
async def test_process_exits_on_sigterm_after_its_calls_finish(
    database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    async with serving(database.request_dsn) as service:
        address = await service.address()
        async with connected_operator(address, tenant) as operator:
            await operator.create(job_id="a", target_all=True)
            async with job_lock_held(database, tenant, "a"):
                call = await database.blocked(operator.cancel("a"))
                service.process.send_signal(signal.SIGTERM)
                await _wait_until_rejected(address, tenant)

            assert (await call).status == pb.Job.CANCELED
        assert await service.wait_for_exit() == 0
    log = "\n".join(service.log)
    # A call that has just ended can still be counted.
    notice = r"stopping: finishing [12] calls? within 10 s; a second signal stops at once\n"
    assert re.search(notice, log), log
    assert "(event loop: uvloop)" in log
    assert "Traceback" not in log


async def test_reopened_watches_fail_with_unavailable_when_the_server_stops(
    database: Database, tenant: str
) -> None:
    """gRPC cancels calls without a reason if it receives them when it has stopped.

    The server sends GOAWAY before it ends streams, so it receives none of these watches.
    """
    codes: list[list[StatusCode]] = [[] for _ in range(50)]

    async def keep_watching(stub: Any, opened: asyncio.Event, ends: list[StatusCode]) -> None:
        while True:
            call = stub.WatchJob(pb.WatchJobRequest(job_id="a"), metadata=metadata)
            try:
                while await call.read():
                    opened.set()
            except grpc.aio.AioRpcError as e:
                ends.append(e.code())
            await asyncio.sleep(0)

    # No other server may listen on this address after the shutdown.
    with reserved_address() as address:
        async with _service(database, tenant, LONG_GRACE | {"JOBS_LISTEN": address}) as service:
            metadata = service.operator.metadata
            stub: Any = jobs_pb2_grpc.JobServiceStub(service.channel)
            opened = [asyncio.Event() for _ in codes]
            watching = [
                asyncio.create_task(keep_watching(stub, event, ends))
                for event, ends in zip(opened, codes, strict=True)
            ]
            await asyncio.gather(*(event.wait() for event in opened))

            service.stop()
            await service.wait_until_stopped()

            # On a busy machine, clients read the ends of their watches later.
            await wait_until_true(lambda: all(len(ends) >= 2 for ends in codes))
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)
    assert {code for ends in codes for code in ends} == {StatusCode.UNAVAILABLE}


@pytest.mark.slow
async def test_calls_that_arrived_before_shutdown_are_served(
    database: Database, tenant: str
) -> None:
    """gRPC has received the calls, but the busy event loop accepts them during the shutdown."""
    warm, sent, release = threading.Event(), threading.Event(), threading.Event()

    def send_calls(address: str) -> list[StatusCode]:
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
            return [call.code() for call in calls]

    # One second of notice, so that gRPC's threads have received all calls by its end.
    options = replace(DEFAULT_OPTIONS, drain_notice_seconds=1.0)
    async with running_server(database.request_dsn, options) as server:
        calling = asyncio.create_task(asyncio.to_thread(send_calls, server.address))
        await asyncio.to_thread(warm.wait, TIMEOUT)
        release.set()
        # Block the event loop on purpose, so that it accepts no call before the shutdown.
        sent.wait(TIMEOUT)

    assert await calling == [StatusCode.OK] * 8
