"""Limits on open calls and streams: the error names the setting; other callers are not affected."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc.aio import EOF, AioRpcError
from grpc_health.v1.health_pb2 import HealthCheckRequest

from jobs_grpc.errors import Limit, LimitExceeded
from jobs_grpc.limits.concurrency_limits import ConcurrencyLimiter
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import check_limit_error, expect_error
from tests.support.health import is_healthy, watch_health
from tests.support.http2 import END_STREAM, HEADERS, connection
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until

CHECK_HEALTH = "/grpc.health.v1.Health/Check"


@pytest.fixture
async def operator_with_jobs(database: Database, operator: Operator) -> Operator:
    await database.add_devices(operator.tenant, 2)
    for job_id in ("j", "k"):
        await operator.create(job_id=job_id, target_all=True)
    return operator


@asynccontextmanager
async def server_with_call_in_flight(
    database: Database, tenant: str, **limits: str
) -> AsyncIterator[Server]:
    async with running_server(database.request_dsn, **limits) as server:
        async with job_lock_held(database, tenant, "j"):
            waiting = await database.blocked(server.operator(tenant).cancel("j"))
            yield server
        await waiting


def watch(server: Server, tenant: str, device: str = "d00001") -> Any:
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    return stub.WatchPendingExecutions(
        device_pb.WatchPendingExecutionsRequest(),
        metadata=(("x-tenant-id", tenant), ("x-device-id", device)),
        timeout=TIMEOUT,
    )


async def test_call_is_rejected_when_its_tenant_has_too_many_calls_in_flight(
    database: Database, operator_with_jobs: Operator
) -> None:
    async with server_with_call_in_flight(
        database, operator_with_jobs.tenant, JOBS_MAX_TENANT_CALLS="1"
    ) as server:
        failure = await expect_error(
            "LIMIT_EXCEEDED", server.operator(operator_with_jobs.tenant).list()
        )

        check_limit_error(failure, "JOBS_MAX_TENANT_CALLS", "1", retry_after=1)
        # Other tenants are served.
        assert not (await server.operator("another").list()).jobs

    assert (await operator_with_jobs.get("j")).status == pb.Job.CANCELED


async def test_finished_call_does_not_count(
    database: Database, operator_with_jobs: Operator
) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        operator = server.operator(operator_with_jobs.tenant)
        for _ in range(3):
            assert len((await operator.list()).jobs) == 2
            await expect_error("JOB_NOT_FOUND", operator.get("nowhere"))
            await expect_error("INVALID_FIELD", operator.list(limit=0))


async def test_call_does_not_count_when_its_client_is_gone(
    database: Database, operator_with_jobs: Operator
) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        operator = server.operator(operator_with_jobs.tenant)
        async with job_lock_held(database, operator_with_jobs.tenant, "j"):
            abandoned = await database.blocked(operator.cancel("j"))
            abandoned.cancel()

            async def is_served() -> bool:
                with contextlib.suppress(Exception):
                    return len((await operator.list()).jobs) == 2
                return False

            await wait_until(is_served)


async def test_unauthenticated_call_is_rejected_when_the_server_has_too_many_calls_in_flight(
    database: Database, operator_with_jobs: Operator
) -> None:
    """The limit applies before authentication, so it stops a flood without credentials."""
    async with server_with_call_in_flight(
        database, operator_with_jobs.tenant, JOBS_MAX_CALLS="1"
    ) as server:
        other = server.operator("another")
        failure = await expect_error("LIMIT_EXCEEDED", other.list())
        await expect_error(
            "LIMIT_EXCEEDED", other.stub.ListJobs(pb.ListJobsRequest(), timeout=TIMEOUT)
        )

        check_limit_error(failure, "JOBS_MAX_CALLS", "1", retry_after=1)


async def test_health_checks_succeed_when_the_server_is_at_its_limits(
    database: Database, operator_with_jobs: Operator
) -> None:
    full = {"JOBS_MAX_CALLS": "1", "JOBS_MAX_STREAMS": "1"}
    async with server_with_call_in_flight(database, operator_with_jobs.tenant, **full) as server:
        stream = watch(server, operator_with_jobs.tenant)
        await stream.read()
        health = watch_health(server.channel)
        await health.read()

        assert await is_healthy(server.channel)
        assert await is_healthy(server.channel, "fleet.jobs.v1.JobService")
        health.cancel()
        stream.cancel()


async def test_health_streams_have_a_separate_limit(
    database: Database, operator_with_jobs: Operator
) -> None:
    """They need no credentials, so they must not use up the limits of other calls."""
    async with running_server(
        database.request_dsn, JOBS_MAX_CALLS="1", JOBS_MAX_STREAMS="1"
    ) as server:
        first, second = watch_health(server.channel), watch_health(server.channel)
        await first.read()

        await expect_error("LIMIT_EXCEEDED", second.read())
        stream = watch(server, operator_with_jobs.tenant)
        await stream.read()
        assert await is_healthy(server.channel)
        first.cancel()
        stream.cancel()


@pytest.mark.parametrize(
    ("setting", "device", "unaffected_device"),
    [
        ("JOBS_MAX_DEVICE_STREAMS", "d00001", "d00002"),
        ("JOBS_MAX_TENANT_STREAMS", "d00002", None),
        ("JOBS_MAX_STREAMS", "d00002", None),
    ],
)
async def test_stream_is_rejected_when_too_many_are_open(
    database: Database,
    operator_with_jobs: Operator,
    setting: str,
    device: str,
    unaffected_device: str | None,
) -> None:
    async with running_server(database.request_dsn, **{setting: "1"}) as server:
        first = watch(server, operator_with_jobs.tenant)
        await first.read()

        failure = await expect_error(
            "LIMIT_EXCEEDED", watch(server, operator_with_jobs.tenant, device).read()
        )
        check_limit_error(failure, setting, "1", retry_after=1)

        if unaffected_device is not None:
            second = watch(server, operator_with_jobs.tenant, unaffected_device)
            assert len((await second.read()).executions) == 2
            second.cancel()
        # Unary calls do not count as streams.
        assert len((await server.operator(operator_with_jobs.tenant).list()).jobs) == 2

        first.cancel()

        async def can_open_stream() -> bool:
            stream = watch(server, operator_with_jobs.tenant, device)
            with contextlib.suppress(Exception):
                return await stream.read() is not EOF
            return False

        await wait_until(can_open_stream)


async def test_stream_limit_of_a_tenant_does_not_affect_another_tenant(
    database: Database, operator_with_jobs: Operator
) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_STREAMS="1") as server:
        streams = [watch(server, tenant) for tenant in (operator_with_jobs.tenant, "another")]

        first, second = [await stream.read() for stream in streams]

        assert (len(first.executions), len(second.executions)) == (2, 0)
        for stream in streams:
            stream.cancel()


def test_concurrency_limiter_forgets_keys_with_nothing_open() -> None:
    limiter = ConcurrencyLimiter(Limit.CALLS, 2)
    for tenant in range(1000):
        limiter.acquire(tenant)
        limiter.acquire(tenant)
        with pytest.raises(LimitExceeded):
            limiter.acquire(tenant)
        assert len(limiter) == 1
        limiter.release(tenant)
        limiter.release(tenant)

    assert len(limiter) == 0


async def test_health_checks_whose_responses_are_not_read_are_limited(database: Database) -> None:
    """Each takes memory until its client reads the response, and needs no credentials."""
    async with (
        running_server(database.request_dsn, JOBS_MAX_CALLS="10") as server,
        connection(server.address, window=0) as client,
        asyncio.timeout(TIMEOUT),
    ):
        for number in range(21):
            client.call(2 * number + 1, CHECK_HEALTH, {}, HealthCheckRequest())
        # Only refusals end, because their responses have no message to send.
        refused = 0
        async for frame in client.frames():
            refused += frame.type_ == HEADERS and bool(frame.flags & END_STREAM)
            if refused == 10:
                break
        # One check of each other connection is served.
        assert await is_healthy(server.channel)


async def open_report_stream(server: Server, tenant: str) -> Any:
    """Open a ReportExecutions stream that has received a response."""
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    stream = stub.ReportExecutions(metadata=(("x-tenant-id", tenant),), timeout=TIMEOUT)
    await stream.write(device_pb.ReportExecutionsRequest())
    await stream.read()
    return stream


@pytest.mark.parametrize(
    ("limits", "of_tenant", "of_all"),
    [
        ({"JOBS_MAX_REPORT_STREAMS": "3", "JOBS_MAX_TENANT_REPORT_STREAMS": "2"}, 2, 3),
        # A stream may hold 128 KiB, twice JOBS_MAX_REQUEST_BYTES: 8 fit a tenant, 16 fit all.
        (
            {
                "JOBS_MAX_REQUEST_BYTES": "65536",
                "JOBS_MAX_DOCUMENT_BYTES": "8192",
                "JOBS_MAX_TENANT_BUFFERED_BYTES": "1048576",
                "JOBS_MAX_BUFFERED_BYTES": "2097152",
            },
            8,
            16,
        ),
    ],
    ids=["set", "as many as fit"],
)
async def test_report_streams_are_limited(
    database: Database, tenant: str, limits: dict[str, str], of_tenant: int, of_all: int
) -> None:
    async with running_server(database.request_dsn, **limits) as server:
        streams = [await open_report_stream(server, f"{tenant}-1") for _ in range(of_tenant)]
        failure = await expect_error("LIMIT_EXCEEDED", open_report_stream(server, f"{tenant}-1"))
        check_limit_error(failure, "JOBS_MAX_TENANT_REPORT_STREAMS", str(of_tenant), retry_after=1)

        rest = range(of_all - of_tenant)
        streams += [await open_report_stream(server, f"{tenant}-2") for _ in rest]
        failure = await expect_error("LIMIT_EXCEEDED", open_report_stream(server, f"{tenant}-3"))
        check_limit_error(failure, "JOBS_MAX_REPORT_STREAMS", str(of_all), retry_after=1)

        streams[0].cancel()

        async def another_opens() -> bool:
            try:
                streams.append(await open_report_stream(server, f"{tenant}-3"))
            except AioRpcError:
                return False
            return True

        await wait_until(another_opens)
        for stream in streams:
            stream.cancel()
