"""Limits of messages: how large a request may be, alone or in a stream."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode
from grpc.aio import AioRpcError, Channel

from jobs_grpc.rpc.request_reader import Waits
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.health import is_healthy
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until

LIMIT = 65536

REPORTS = "/fleet.jobs.v1.DeviceJobService/ReportExecutions"


def padded(size: int) -> bytes:
    """A GetJobRequest for the job "j" with that many bytes: the last job_id counts."""
    last = pb.GetJobRequest(job_id="j").SerializeToString()
    # A tag, and a length in three bytes.
    return b"\x0a" + _varint(size - len(last) - 4) + b"x" * (size - len(last) - 4) + last


def _varint(number: int) -> bytes:
    return bytes([number & 127 | 128, number >> 7 & 127 | 128, number >> 14])


async def get(server: Server, tenant: str, raw: bytes) -> bytes:
    """Call GetJob with bytes."""
    call: Any = server.channel.unary_unary(GET)
    answer: bytes = await call(raw, metadata=(("x-tenant-id", tenant),), timeout=TIMEOUT)
    return answer


async def report(channel: Channel, tenant: str, raw: bytes) -> None:
    """Send bytes as a report, and read until the stream ends."""
    call: Any = channel.stream_stream(REPORTS)
    async for _ in call([raw], metadata=(("x-tenant-id", tenant),), timeout=TIMEOUT):
        pass


GET = "/fleet.jobs.v1.JobService/GetJob"
CHECK = "/grpc.health.v1.Health/Check"


def begin(
    server: Server, tenant: str, *raws: bytes, method: str = GET, complete: bool = False
) -> Any:
    """Call a method, send messages, and unless it is to be complete, leave it at that."""

    async def sent() -> AsyncIterator[bytes]:
        for raw in raws:
            yield raw
        if not complete:
            await asyncio.Event().wait()

    call: Any = server.channel.stream_unary(method)
    return call(sent(), metadata=(("x-tenant-id", tenant),), timeout=TIMEOUT)


@pytest.fixture
async def job(database: Database, operator: Operator) -> Operator:
    """The test's tenant, with the job "j"."""
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", target_all=True)
    return operator


async def test_a_request_may_be_so_large(database: Database, job: Operator) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_REQUEST_BYTES=str(LIMIT)) as server:
        assert await get(server, job.tenant, padded(LIMIT))

        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
            await get(server, job.tenant, padded(LIMIT + 1))

    assert failure.message == f"The request has {LIMIT + 1} bytes (JOBS_MAX_REQUEST_BYTES is 65536)"
    assert failure.metadata == {"setting": "JOBS_MAX_REQUEST_BYTES", "value": "65536"}
    assert failure.retry_after is None


async def test_what_is_much_larger_is_refused_unread(database: Database, job: Operator) -> None:
    """By gRPC itself, which gives no reason."""
    async with running_server(database.request_dsn, JOBS_MAX_REQUEST_BYTES=str(LIMIT)) as server:
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED) as failure:
            await get(server, job.tenant, padded(2 * LIMIT + 1))

        assert "larger than max" in failure.message
        assert await get(server, job.tenant, padded(100))


async def test_a_report_that_is_too_large_ends_its_stream(
    database: Database, job: Operator
) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_REQUEST_BYTES=str(LIMIT)) as server:
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
            await report(server.channel, job.tenant, padded(LIMIT + 1))

    assert failure.metadata["setting"] == "JOBS_MAX_REQUEST_BYTES"


async def test_a_report_that_is_no_message_ends_its_stream(server: Server, job: Operator) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"):
        await report(server.channel, job.tenant, b"\xff")


async def test_the_caller_is_checked_before_the_message(server: Server) -> None:
    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_METADATA"):
        await get(server, "", b"\xff")


async def test_who_is_not_known_is_refused_before_there_is_a_message(server: Server) -> None:
    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_METADATA"):
        await begin(server, "")


async def unread(server: Server, tenant: str) -> Any:
    """A call that counts, where JOBS_MAX_TENANT_CALLS is 1, and whose message does not come."""
    calls = [begin(server, tenant)]

    async def counted() -> bool:
        if calls[-1].done():
            # It came while the list was asked for, and was the one too many.
            calls.append(begin(server, tenant))
        try:
            await server.operator(tenant).list()
        except AioRpcError as e:
            return e.code() == StatusCode.RESOURCE_EXHAUSTED
        return False

    await wait_until(counted)
    return calls[-1]


async def test_a_call_counts_before_its_message_has_come(database: Database, job: Operator) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        call = await unread(server, job.tenant)
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as failure:
            await server.operator(job.tenant).list()

        assert failure.metadata["setting"] == "JOBS_MAX_TENANT_CALLS"
        call.cancel()


async def test_a_call_that_is_given_up_before_its_message_is_canceled(
    database: Database, job: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    """And not one that lacks its message."""
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        call = await unread(server, job.tenant)
        caplog.set_level(logging.INFO)
        caplog.clear()
        call.cancel()

        async def logged() -> bool:
            return any(message.startswith("GetJob") for message in caplog.messages)

        await wait_until(logged)
        assert "GetJob CANCELLED" in caplog.messages


async def test_a_wait_that_has_just_run_out_is_in_nobodys_way() -> None:
    waits = Waits(1)

    async def runs_out() -> None:
        async with waits.acquire(0):
            await asyncio.Event().wait()

    first = asyncio.create_task(runs_out())
    # It begins to wait, and its time is over before it hears of that.
    for _ in range(2):
        await asyncio.sleep(0)
    assert not first.done()

    async with waits.acquire(TIMEOUT):
        pass
    with pytest.raises(TimeoutError):
        await first


async def test_a_message_must_come_in_time(database: Database, job: Operator) -> None:
    async with running_server(database.request_dsn, JOBS_REQUEST_READ_TIMEOUT="1") as server:
        with expect_failure(StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST") as failure:
            await begin(server, job.tenant)

    assert failure.message == "The request has not come within 1 s (JOBS_REQUEST_READ_TIMEOUT)"


async def test_a_call_without_a_message_is_told_so(server: Server, job: Operator) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST") as failure:
        await begin(server, job.tenant, complete=True)

    assert failure.message == "The call has no request"


async def test_the_first_message_is_the_request(server: Server, job: Operator) -> None:
    raw = pb.GetJobRequest(job_id="j").SerializeToString()
    answer = await begin(server, job.tenant, raw)

    assert pb.GetJobResponse.FromString(answer).job.job_id == "j"


async def test_few_can_keep_health_checks_waiting_for_a_message(
    database: Database, job: Operator
) -> None:
    """They need no credentials, so the longest wait ends when there is one too many."""
    async with running_server(database.request_dsn) as server:
        first = begin(server, "", method=CHECK)
        others: list[Any] = []

        async def ended() -> bool:
            others.append(begin(server, "", method=CHECK))
            return bool(first.done())

        await wait_until(ended)
        assert len(others) >= 16
        assert await is_healthy(server.channel)
        for other in others:
            other.cancel()
