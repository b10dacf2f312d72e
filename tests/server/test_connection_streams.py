"""JOBS_MAX_CONNECTION_STREAMS: a connection has a limited number of calls in flight."""

import asyncio
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc

from tests.support.database import Database
from tests.support.failures import Failure
from tests.support.health import watch_health
from tests.support.http2_windows import connect, rst_stream
from tests.support.server import open_channel, running_server
from tests.support.server_process import ServerProcess, running_server_process
from tests.support.waiting import TIMEOUT

GET_JOB = "/fleet.jobs.v1.JobService/GetJob"


async def test_call_waits_in_the_client_when_its_connection_has_too_many(
    database: Database,
) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_CONNECTION_STREAMS="2") as server:
        first, second, third = (watch_health(server.channel) for _ in range(3))
        await first.read()
        await second.read()
        waiting = asyncio.create_task(third.read())
        async with open_channel(server.address) as other_channel:
            await watch_health(other_channel).read()
        assert not waiting.done()

        first.cancel()

        async with asyncio.timeout(TIMEOUT):
            await waiting


@pytest.mark.slow
async def test_no_call_fails_when_200_callers_share_a_channel(
    database: Database, tenant: str
) -> None:
    """gRPC also counts calls that have ended but that the server has not released yet.

    A limit of 200 loses calls.
    """

    async def call(process: ServerProcess) -> None:
        operator = process.operator(tenant)
        for _ in range(5):
            await operator.list()

    async with running_server_process(
        database.request_dsn, JOBS_MAX_TENANT_CALLS="1000"
    ) as process:
        await asyncio.gather(*(call(process) for _ in range(200)))


@pytest.mark.slow
async def test_calls_that_are_opened_and_reset_hold_no_memory(
    process: ServerProcess, tenant: str
) -> None:
    """HEADERS and RST_STREAM, 10,000 times on each connection (CVE-2023-44487)."""
    operator = process.operator(tenant)

    async def attack() -> None:
        async with connect(process.address) as attacker, asyncio.timeout(TIMEOUT):
            for batch in range(100):
                for number in range(100):
                    stream = 2 * (100 * batch + number) + 1
                    attacker.raw.open(stream, GET_JOB, {})
                    attacker.raw.writer.write(rst_stream(stream))
                await attacker.raw.writer.drain()
                if attacker.is_closed:
                    return
                await asyncio.sleep(0)

    attacks = asyncio.gather(*(attack() for _ in range(4)), return_exceptions=True)
    while not attacks.done():
        await operator.list()
    await attacks

    process.check_memory()


@pytest.mark.slow
async def test_watches_that_open_at_once_are_served_or_refused_with_the_setting(
    database: Database, tenant: str
) -> None:
    """3,000 watches over 30 channels, 1,000 more than the tenant may open."""
    await database.add_devices(tenant, 1000)

    async def status(stub: Any, number: int) -> str:
        call = stub.WatchPendingExecutions(
            device_pb.WatchPendingExecutionsRequest(),
            metadata=(("x-tenant-id", tenant), ("x-device-id", f"d{number % 1000 + 1:05}")),
            timeout=TIMEOUT,
        )
        try:
            await call.read()
        except grpc.aio.AioRpcError as e:
            failure = Failure(e.code())
            failure.read(e)
            return f"{failure.code.name} {failure.metadata.get('setting')}"
        finally:
            opened.append(call)
        return "OK"

    opened: list[Any] = []
    async with running_server_process(
        database.request_dsn, JOBS_MAX_TENANT_STREAMS="2000"
    ) as process:
        channels = [
            grpc.aio.insecure_channel(
                process.address, options=[("grpc.use_local_subchannel_pool", 1)]
            )
            for _ in range(30)
        ]
        stubs = [device_jobs_pb2_grpc.DeviceJobServiceStub(channel) for channel in channels]
        statuses = await asyncio.gather(
            *(status(stubs[number % 30], number) for number in range(3000))
        )
        for channel in channels:
            await channel.close()

        assert statuses.count("OK") >= 2000
        assert set(statuses) == {"OK", "RESOURCE_EXHAUSTED JOBS_MAX_TENANT_STREAMS"}
        process.check_memory()
