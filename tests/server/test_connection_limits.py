"""Connections that misbehave: cut off, or held back, and nobody else is the worse for it."""

import asyncio
import logging
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from jobs_grpc.server import grpc_server
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.health import watch_health
from tests.support.http2 import (
    DATA,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    PING,
    WINDOW_UPDATE,
    Connection,
    connection,
    frame,
    message,
)
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until

SERVICE = "/fleet.jobs.v1"


@pytest.fixture
async def job(database: Database, operator: Operator) -> Operator:
    """The test's tenant, with the job "j" for the device d00001."""
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", target_all=True, document_params={"n": "x" * 1000})
    return operator


async def test_who_floods_with_pings_is_cut_off_and_others_go_on(
    server: Server, job: Operator
) -> None:
    async with connection(server.address) as flooder, asyncio.timeout(TIMEOUT):
        flooder.writer.write(frame(PING, payload=bytes(8)) * 100)

        goaways = [sent.payload async for sent in flooder.frames() if sent.kind == GOAWAY]

    assert struct.unpack(">I", goaways[-1][4:8]) == (ENHANCE_YOUR_CALM,)
    assert (await job.get("j")).job_id == "j"


@asynccontextmanager
async def not_read(server: Server, job: Operator) -> AsyncIterator[Connection]:
    """A connection whose watch of the job may not be sent a byte."""
    async with connection(server.address, window=0) as slow:
        slow.call(
            1,
            f"{SERVICE}.JobService/WatchJob",
            {"x-tenant-id": job.tenant},
            pb.WatchJobRequest(job_id="j"),
        )
        async for sent in slow.frames():
            if sent.stream == 1:
                break
        yield slow


async def test_who_does_not_read_holds_up_nobody_and_gets_the_newest_in_the_end(
    server: Server, job: Operator
) -> None:
    device = server.device(job.tenant, "d00001")
    async with not_read(server, job) as slow, asyncio.timeout(TIMEOUT):
        # What happens meanwhile is not kept for it.
        await device.start("j")
        for _ in range(50):
            await device.update("j", "IN_PROGRESS")
        await device.update("j", "SUCCEEDED")

        slow.writer.write(frame(WINDOW_UPDATE, stream=1, payload=struct.pack(">I", 1 << 20)))
        received = b""
        async for sent in slow.frames():
            received += sent.payload if sent.kind == DATA else b""
            if sent.kind == HEADERS:  # the trailers
                break

    answers = []
    while received:
        (length,) = struct.unpack(">I", received[1:5])
        answers.append(pb.WatchJobResponse.FromString(received[5 : 5 + length]).job)
        received = received[5 + length :]
    assert answers[-1].status == pb.Job.COMPLETED
    assert len(answers) <= 3


async def test_who_watches_health_and_does_not_read_holds_up_neither_it_nor_the_stop(
    database: Database,
) -> None:
    """A change of status is told to all others, and the server stops in its time."""
    async with (
        running_server(database.request_dsn) as own,
        connection(own.address, window=0) as slow,
    ):
        slow.call(1, "/grpc.health.v1.Health/Watch", {}, HealthCheckRequest())
        other = watch_health(own.channel)
        assert (await other.read()).status == HealthCheckResponse.SERVING

        await database.owner.execute(f"REVOKE USAGE ON SCHEMA jobs FROM {await role_of(own)}")
        try:
            assert (await other.read()).status == HealthCheckResponse.NOT_SERVING
        finally:
            await database.owner.execute(f"GRANT USAGE ON SCHEMA jobs TO {await role_of(own)}")
        assert (await other.read()).status == HealthCheckResponse.SERVING


async def role_of(server: Server) -> str:
    """The login of its DSN."""
    return (urlsplit(server.config.database.url).username or "").join('""')


async def test_reports_whose_answers_are_not_read_are_held_back(
    database: Database, server: Server, job: Operator
) -> None:
    """Of one stream 256 are under way; the others stay with the client."""
    report = device_pb.ReportExecutionsRequest(
        report=device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.IN_PROGRESS)
    )

    async def version() -> int:
        applied: int = await database.owner.fetchval(
            "SELECT version FROM jobs.job_executions WHERE tenant_id = $1", job.tenant
        )
        return applied

    async with connection(server.address, window=0) as slow:
        slow.open(
            1,
            f"{SERVICE}.DeviceJobService/ReportExecutions",
            {"x-tenant-id": job.tenant, "x-device-id": "d00001"},
        )
        for _ in range(1000):
            slow.writer.write(frame(DATA, stream=1, payload=message(report)))

        async def all_under_way() -> bool:
            return await version() == 1 + 256

        await wait_until(all_under_way)
        assert (await job.get("j")).execution_counts == pb.ExecutionCounts(in_progress=1)
        assert await version() == 1 + 256


async def test_who_never_reads_is_cut_off_when_its_connection_is_old(
    database: Database,
    job: Operator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.calls")
    short = {"grpc.max_connection_age_ms": 200, "grpc.max_connection_age_grace_ms": 200}
    options = dict(grpc_server.OPTIONS) | short
    monkeypatch.setattr(grpc_server, "OPTIONS", tuple(options.items()))
    async with running_server(database.request_dsn) as server, asyncio.timeout(TIMEOUT):
        async with not_read(server, job) as slow:
            async for _ in slow.frames():
                pass

            assert slow.reader.at_eof()

        async def ended() -> bool:
            return "WatchJob CANCELLED" in caplog.text

        await wait_until(ended)
        assert (await server.operator(job.tenant).get("j")).job_id == "j"
