"""Connections that misbehave are closed or slowed down and do not affect others."""

import asyncio
import logging
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from jobs_grpc.server import grpc_server
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.health import wait_until_healthy, watch_health
from tests.support.http2 import (
    DATA,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
    Connection,
    connection,
    frame,
    message,
)
from tests.support.server import DEFAULT_OPTIONS, Server, open_channel, running_server
from tests.support.server_process import serving
from tests.support.waiting import TIMEOUT, wait_until_equal, wait_until_true

SERVICE = "/fleet.jobs.v1"
WATCH_JOB = f"{SERVICE}.JobService/WatchJob"
GET_JOB = f"{SERVICE}.JobService/GetJob"

CANCEL = struct.pack(">I", 8)


async def test_connection_is_closed_when_client_floods_it_with_pings(
    server: Server, operator_with_job: Operator
) -> None:
    async with connection(server.address) as flooder, asyncio.timeout(TIMEOUT):
        flooder.writer.write(frame(PING, payload=bytes(8)) * 100)

        goaways = [
            received.payload async for received in flooder.frames() if received.type_ == GOAWAY
        ]

    assert struct.unpack(">I", goaways[-1][4:8]) == (ENHANCE_YOUR_CALM,)
    assert (await operator_with_job.get("j")).job_id == "j"


@asynccontextmanager
async def unread_watch(server: Server, operator_with_job: Operator) -> AsyncIterator[Connection]:
    """Open a WatchJob whose flow-control window is 0, so that the server cannot send data."""
    async with connection(server.address, window=0) as slow:
        slow.call(
            1,
            f"{SERVICE}.JobService/WatchJob",
            {"x-tenant-id": operator_with_job.tenant},
            pb.WatchJobRequest(job_id="j"),
        )
        async for received in slow.frames():
            if received.stream == 1:
                break
        yield slow


async def test_slow_watcher_blocks_no_update_and_receives_the_newest_state(
    server: Server, operator_with_job: Operator
) -> None:
    device = server.device(operator_with_job.tenant, "d00001")
    async with unread_watch(server, operator_with_job) as slow, asyncio.timeout(TIMEOUT):
        # The server does not queue these states for the watcher.
        await device.start("j")
        for _ in range(50):
            await device.update("j", "IN_PROGRESS")
        await device.update("j", "SUCCEEDED")

        slow.writer.write(frame(WINDOW_UPDATE, stream=1, payload=struct.pack(">I", 1 << 20)))
        data = b""
        async for received in slow.frames():
            data += received.payload if received.type_ == DATA else b""
            if received.type_ == HEADERS:  # the trailers
                break

    jobs = []
    while data:
        (length,) = struct.unpack(">I", data[1:5])
        jobs.append(pb.WatchJobResponse.FromString(data[5 : 5 + length]).job)
        data = data[5 + length :]
    assert jobs[-1].status == pb.Job.COMPLETED
    assert len(jobs) <= 3


@pytest.mark.slow
async def test_health_watchers_receive_each_status_when_another_watcher_does_not_read(
    database: Database, server: Server
) -> None:
    role = request_role(server)
    async with connection(server.address, window=0) as slow:
        slow.call(1, "/grpc.health.v1.Health/Watch", {}, HealthCheckRequest())
        other = watch_health(server.channel)
        assert (await other.read()).status == HealthCheckResponse.SERVING

        await database.owner.execute(f"REVOKE USAGE ON SCHEMA jobs FROM {role}")
        try:
            assert (await other.read()).status == HealthCheckResponse.NOT_SERVING
        finally:
            await database.owner.execute(f"GRANT USAGE ON SCHEMA jobs TO {role}")
        assert (await other.read()).status == HealthCheckResponse.SERVING


def request_role(server: Server) -> str:
    """Return the login of the server's DSN as an SQL identifier."""
    return (urlsplit(server.config.database.url).username or "").join('""')


@pytest.mark.slow
async def test_report_stream_stops_reading_when_client_does_not_read_responses(
    database: Database, server: Server, operator_with_job: Operator
) -> None:
    """At most 256 reports of a stream are in flight; flow control holds back the rest."""
    report = device_pb.ReportExecutionsRequest(
        report=device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.IN_PROGRESS)
    )

    async def version() -> int:
        applied: int = await database.owner.fetchval(
            "SELECT version FROM jobs.job_executions WHERE tenant_id = $1", operator_with_job.tenant
        )
        return applied

    async with connection(server.address, window=0) as slow:
        slow.open(
            1,
            f"{SERVICE}.DeviceJobService/ReportExecutions",
            {"x-tenant-id": operator_with_job.tenant, "x-device-id": "d00001"},
        )
        for _ in range(1000):
            slow.writer.write(frame(DATA, stream=1, payload=message(report)))
        await wait_until_equal(version, 1 + 256)
        assert (await operator_with_job.get("j")).execution_counts == pb.ExecutionCounts(
            in_progress=1
        )
        assert await version() == 1 + 256


@pytest.mark.slow
async def test_watch_ends_at_maximum_connection_age_when_client_never_reads(
    database: Database, operator_with_job: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.calls")
    short_age = {"grpc.max_connection_age_ms": 200, "grpc.max_connection_age_grace_ms": 200}
    grpc_options = tuple((dict(grpc_server.OPTIONS) | short_age).items())
    options = replace(DEFAULT_OPTIONS, grpc_options=grpc_options)
    async with running_server(database.request_dsn, options) as server, asyncio.timeout(TIMEOUT):
        async with unread_watch(server, operator_with_job) as slow:
            async for _ in slow.frames():
                pass

            assert slow.reader.at_eof()

        await wait_until_true(lambda: "WatchJob CANCELLED" in caplog.text)
        assert (await server.operator(operator_with_job.tenant).get("j")).job_id == "j"


@pytest.mark.slow
async def test_client_that_leaves_before_it_has_read_responses_is_logged_as_canceled(
    database: Database, operator_with_job: Operator
) -> None:
    """Devices that lose their network do this; gRPC reports it as a failed write."""
    async with serving(database.request_dsn) as service:
        address = await service.address()
        async with open_channel(address) as channel:
            await wait_until_healthy(channel)
        tenant = {"x-tenant-id": operator_with_job.tenant}
        async with connection(address, window=0) as client, asyncio.timeout(TIMEOUT):
            streams = range(1, 180, 2)
            for stream in streams:
                if stream % 3:
                    client.call(stream, WATCH_JOB, tenant, pb.WatchJobRequest(job_id="j"))
                else:
                    client.call(stream, GET_JOB, tenant, pb.GetJobRequest(job_id="j"))
            headers = 0
            async for received in client.frames():
                headers += received.type_ == HEADERS
                if headers == len(streams):
                    break
            for stream in streams:
                client.writer.write(frame(RST_STREAM, stream=stream, payload=CANCEL))
            await client.writer.drain()
        service.process.terminate()
        await service.wait_for_exit()

    log = "\n".join(service.log)
    assert "WatchJob CANCELLED" in log
    assert "Traceback" not in log
    assert "ERROR" not in log
