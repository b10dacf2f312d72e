"""Limits of what is open at once: each is named, and hits whom it should."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode
from grpc.aio import EOF

from jobs_grpc.errors import LimitExceeded
from jobs_grpc.rpc.limits import ConcurrencyLimiter
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import Failure, expect_failure
from tests.support.health import is_healthy, watch_health
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until


@pytest.fixture
async def jobs(database: Database, operator: Operator) -> Operator:
    """The test's tenant, with the devices d00001 and d00002 and the jobs "j" and "k"."""
    await database.add_devices(operator.tenant, 2)
    for job_id in ("j", "k"):
        await operator.create(job_id=job_id, target_all=True)
    return operator


@asynccontextmanager
async def occupied(database: Database, tenant: str, **limits: str) -> AsyncIterator[Server]:
    """A server in which a call of the tenant is in flight."""
    async with running_server(database.request_dsn, **limits) as server:
        async with job_lock_held(database, tenant, "j"):
            waiting = asyncio.create_task(server.operator(tenant).cancel("j"))
            await database.wait_for_blocked_sessions(1)
            yield server
        await waiting


def watch(server: Server, tenant: str, device: str = "d00001") -> Any:
    """An open stream of a device."""
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    return stub.WatchPendingExecutions(
        device_pb.WatchPendingExecutionsRequest(),
        metadata=(("x-tenant-id", tenant), ("x-device-id", device)),
        timeout=TIMEOUT,
    )


def is_limit(failure: Failure, limit: str, value: str) -> bool:
    """Whether a failure names the limit, and when to try again."""
    assert limit in failure.message
    return (failure.metadata, failure.retry_after) == ({"setting": limit, "value": value}, 1)


async def test_a_tenant_has_so_many_calls_in_flight_and_others_have_theirs(
    database: Database, jobs: Operator
) -> None:
    async with occupied(database, jobs.tenant, JOBS_MAX_TENANT_CALLS="1") as server:
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
            await server.operator(jobs.tenant).list()

        assert is_limit(failure, "JOBS_MAX_TENANT_CALLS", "1")
        assert not (await server.operator("another").list()).jobs

    assert (await jobs.get("j")).status == pb.Job.CANCELED


async def test_a_call_that_has_ended_makes_room(database: Database, jobs: Operator) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        operator = server.operator(jobs.tenant)
        for _ in range(3):
            assert len((await operator.list()).jobs) == 2
            with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
                await operator.get("nowhere")
            with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
                await operator.list(limit=0)


async def test_a_client_that_has_gone_makes_room(database: Database, jobs: Operator) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        operator = server.operator(jobs.tenant)
        async with job_lock_held(database, jobs.tenant, "j"):
            gone = asyncio.create_task(operator.cancel("j"))
            await database.wait_for_blocked_sessions(1)
            gone.cancel()

            async def answered() -> bool:
                with contextlib.suppress(Exception):
                    return len((await operator.list()).jobs) == 2
                return False

            await wait_until(answered)


async def test_the_server_has_so_many_calls_in_flight_also_of_nobody(
    database: Database, jobs: Operator
) -> None:
    """Counted before authentication: a flood without credentials costs no more than that."""
    async with occupied(database, jobs.tenant, JOBS_MAX_CALLS="1") as server:
        other = server.operator("another")
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
            await other.list()
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
            await other.stub.ListJobs(pb.ListJobsRequest(), timeout=TIMEOUT)

        assert is_limit(failure, "JOBS_MAX_CALLS", "1")


async def test_health_checks_pass_a_full_server(database: Database, jobs: Operator) -> None:
    full = {"JOBS_MAX_CALLS": "1", "JOBS_MAX_STREAMS": "1"}
    async with occupied(database, jobs.tenant, **full) as server:
        stream = watch(server, jobs.tenant)
        await stream.read()
        health = watch_health(server.channel)
        await health.read()

        assert await is_healthy(server.channel)
        assert await is_healthy(server.channel, "fleet.jobs.v1.JobService")
        health.cancel()
        stream.cancel()


async def test_streams_of_health_are_limited_apart(database: Database, jobs: Operator) -> None:
    """They need no credentials: however many there are, they take nothing from others."""
    async with running_server(
        database.request_dsn, JOBS_MAX_CALLS="1", JOBS_MAX_STREAMS="1"
    ) as server:
        first, second = watch_health(server.channel), watch_health(server.channel)
        await first.read()

        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
            await second.read()
        stream = watch(server, jobs.tenant)
        await stream.read()
        assert await is_healthy(server.channel)
        first.cancel()
        stream.cancel()


@pytest.mark.parametrize(
    ("limit", "device", "other"),
    [
        ("JOBS_MAX_DEVICE_STREAMS", "d00001", "d00002"),
        ("JOBS_MAX_TENANT_STREAMS", "d00002", None),
        ("JOBS_MAX_STREAMS", "d00002", None),
    ],
)
async def test_streams_are_limited(
    database: Database, jobs: Operator, limit: str, device: str, other: str | None
) -> None:
    async with running_server(database.request_dsn, **{limit: "1"}) as server:
        first = watch(server, jobs.tenant)
        await first.read()

        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
            await watch(server, jobs.tenant, device).read()
        assert is_limit(failure, limit, "1")

        if other is not None:
            second = watch(server, jobs.tenant, other)
            assert len((await second.read()).executions) == 2
            second.cancel()
        # Calls are no streams.
        assert len((await server.operator(jobs.tenant).list()).jobs) == 2

        first.cancel()

        async def room() -> bool:
            again = watch(server, jobs.tenant, device)
            with contextlib.suppress(Exception):
                return await again.read() is not EOF
            return False

        await wait_until(room)


async def test_another_tenants_streams_are_its_own(database: Database, jobs: Operator) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_STREAMS="1") as server:
        streams = [watch(server, tenant) for tenant in (jobs.tenant, "another")]

        first, second = [await stream.read() for stream in streams]

        assert (len(first.executions), len(second.executions)) == (2, 0)
        for stream in streams:
            stream.cancel()


def test_nothing_is_kept_of_those_who_have_left() -> None:
    gauge = ConcurrencyLimiter("Too many", "JOBS_MAX", 2)
    for tenant in range(1000):
        with gauge.acquire(tenant), gauge.acquire(tenant):
            with pytest.raises(LimitExceeded), gauge.acquire(tenant):
                pass
            assert len(gauge) == 1
        with pytest.raises(KeyError), gauge.acquire(tenant):
            raise KeyError

    assert len(gauge) == 0
