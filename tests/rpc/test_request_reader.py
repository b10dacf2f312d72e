"""Reading requests: limits of size and time, for single requests and streams."""

import asyncio
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode
from grpc.aio import EOF, AioRpcError, Channel

from jobs_grpc.auth.principal import Principal, set_principal
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from jobs_grpc.rpc.request_reader import RequestReader, StreamRequests
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error, expect_failure
from tests.support.health import is_healthy
from tests.support.rpcs import padded
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until, wait_until_true

LIMIT = 65536
SMALL_REQUESTS = {"JOBS_MAX_REQUEST_BYTES": f"{LIMIT}", "JOBS_MAX_DOCUMENT_BYTES": "8192"}

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
GET_JOB = "/fleet.jobs.v1.JobService/GetJob"
CREATE_JOB = "/fleet.jobs.v1.JobService/CreateJob"
REPORT_EXECUTIONS = "/fleet.jobs.v1.DeviceJobService/ReportExecutions"


async def get(server: Server, tenant: str, raw: bytes, method: str = GET_JOB) -> bytes:
    call: Any = server.channel.unary_unary(method)
    response: bytes = await call(raw, metadata=(("x-tenant-id", tenant),), timeout=TIMEOUT)
    return response


async def report(channel: Channel, tenant: str, raw: bytes) -> None:
    """Send bytes as a report and read until the stream ends."""
    call: Any = channel.stream_stream(REPORT_EXECUTIONS)
    async for _ in call([raw], metadata=(("x-tenant-id", tenant),), timeout=TIMEOUT):
        pass


def start_call(
    server: Server, tenant: str, *messages: bytes, method: str = GET_JOB, half_close: bool = False
) -> Any:
    """Call a method and send messages. Without `half_close`, the request stream stays open."""

    async def requests() -> AsyncIterator[bytes]:
        for message in messages:
            yield message
        if not half_close:
            await asyncio.Event().wait()

    call: Any = server.channel.stream_unary(method)
    return call(requests(), metadata=(("x-tenant-id", tenant),), timeout=TIMEOUT)


async def test_request_is_rejected_when_it_is_larger_than_the_limit(
    database: Database, operator_with_job: Operator
) -> None:
    async with running_server(database.request_dsn, **SMALL_REQUESTS) as server:
        # The job_id is read; the other fields of a job are missing.
        await expect_error(
            "INVALID_FIELD", get(server, operator_with_job.tenant, padded(LIMIT), CREATE_JOB)
        )

        failure = await expect_error(
            "LIMIT_EXCEEDED", get(server, operator_with_job.tenant, padded(LIMIT + 1), CREATE_JOB)
        )

    assert failure.message == f"The request has {LIMIT + 1} bytes (JOBS_MAX_REQUEST_BYTES is 65536)"
    assert failure.metadata == {"setting": "JOBS_MAX_REQUEST_BYTES", "value": "65536"}
    assert failure.retry_after is None


async def test_request_is_rejected_unread_when_it_is_more_than_twice_the_limit(
    database: Database, operator_with_job: Operator
) -> None:
    """gRPC itself rejects it, without a reason."""
    async with running_server(database.request_dsn, **SMALL_REQUESTS) as server:
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED) as failure:
            await get(server, operator_with_job.tenant, padded(2 * LIMIT + 1))

        assert "larger than max" in failure.message
        assert await get(server, operator_with_job.tenant, padded(100))


async def test_report_stream_ends_when_a_report_is_too_large(
    database: Database, operator_with_job: Operator
) -> None:
    async with running_server(database.request_dsn, **SMALL_REQUESTS) as server:
        failure = await expect_error(
            "LIMIT_EXCEEDED", report(server.channel, operator_with_job.tenant, padded(LIMIT + 1))
        )

    assert failure.metadata["setting"] == "JOBS_MAX_REQUEST_BYTES"


async def test_report_stream_ends_when_a_report_is_malformed(
    server: Server, operator_with_job: Operator
) -> None:
    await expect_error(
        "MALFORMED_REQUEST", report(server.channel, operator_with_job.tenant, b"\xff")
    )


async def test_caller_is_authenticated_before_the_request_is_decoded(server: Server) -> None:
    await expect_error("INVALID_METADATA", get(server, "", b"\xff"))


async def test_unauthenticated_call_is_rejected_before_it_sends_a_message(server: Server) -> None:
    await expect_error("INVALID_METADATA", start_call(server, ""))


async def call_without_message(server: Server, tenant: str) -> Any:
    """Start a call that sends no message and wait until it uses up JOBS_MAX_TENANT_CALLS=1."""
    calls = [start_call(server, tenant)]

    async def is_counted() -> bool:
        if calls[-1].done():
            # It was rejected because it arrived while the list call was in flight.
            calls.append(start_call(server, tenant))
        try:
            await server.operator(tenant).list()
        except AioRpcError as e:
            return e.code() == StatusCode.RESOURCE_EXHAUSTED
        return False

    await wait_until(is_counted)
    return calls[-1]


async def test_call_counts_as_in_flight_before_it_sends_a_message(
    database: Database, operator_with_job: Operator
) -> None:
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        call = await call_without_message(server, operator_with_job.tenant)
        failure = await expect_error(
            "LIMIT_EXCEEDED", server.operator(operator_with_job.tenant).list()
        )

        assert failure.metadata["setting"] == "JOBS_MAX_TENANT_CALLS"
        call.cancel()


async def test_call_is_logged_as_canceled_when_the_client_cancels_before_sending(
    database: Database, operator_with_job: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    """The log must not show it as a malformed request."""
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        call = await call_without_message(server, operator_with_job.tenant)
        caplog.set_level(logging.INFO)
        caplog.clear()
        call.cancel()

        await wait_until_true(
            lambda: any(message.startswith("GetJob") for message in caplog.messages)
        )
        assert "GetJob CANCELLED" in caplog.messages


@pytest.mark.slow
async def test_call_is_rejected_when_its_request_does_not_arrive_in_time(
    database: Database, operator_with_job: Operator
) -> None:
    async with running_server(database.request_dsn, JOBS_REQUEST_READ_TIMEOUT="1") as server:
        failure = await expect_error(
            "MALFORMED_REQUEST", start_call(server, operator_with_job.tenant)
        )

    assert failure.message == "The request did not arrive within 1 s (JOBS_REQUEST_READ_TIMEOUT)"


async def test_call_is_rejected_when_it_has_no_request(
    server: Server, operator_with_job: Operator
) -> None:
    failure = await expect_error(
        "MALFORMED_REQUEST", start_call(server, operator_with_job.tenant, half_close=True)
    )

    assert failure.message == "The call has no request; send one message"


async def test_unary_call_is_served_before_the_client_half_closes(
    server: Server, operator_with_job: Operator
) -> None:
    raw = pb.GetJobRequest(job_id="j").SerializeToString()
    response = await start_call(server, operator_with_job.tenant, raw)

    assert pb.GetJobResponse.FromString(response).job.job_id == "j"


async def test_oldest_health_check_is_ended_when_too_many_send_no_message(
    database: Database, operator_with_job: Operator
) -> None:
    """They need no credentials. When there are too many, the oldest call is ended."""
    async with running_server(database.request_dsn) as server:
        oldest = start_call(server, "", method=CHECK)
        later_calls: list[Any] = []

        async def oldest_is_ended() -> bool:
            later_calls.append(start_call(server, "", method=CHECK))
            return bool(oldest.done())

        await wait_until(oldest_is_ended)
        assert len(later_calls) >= 16
        failure = await expect_error("MALFORMED_REQUEST", oldest)
        assert failure.message == (
            "Too many health calls wait for their request; send the request at once"
        )
        assert await is_healthy(server.channel)
        for call in later_calls:
            call.cancel()


@pytest.mark.parametrize("method", [CHECK, WATCH, REFLECTION])
async def test_public_request_is_rejected_when_it_is_larger_than_4_kib(
    server: Server, method: str
) -> None:
    call: Any = server.channel.stream_stream(method)
    with expect_failure(StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST") as failure:
        async for _ in call(iter([padded(4097)]), timeout=TIMEOUT):
            pass

    assert failure.message == (
        "The request has 4097 bytes; requests of this method have at most 4096"
    )


async def test_report_is_not_decoded_until_the_memory_limit_has_room() -> None:
    memory = MemoryLimit(100, 100)
    unread_responses = Reservation(memory, "t")
    unread_responses.set_size(100)
    report = device_pb.ReportExecutionsRequest(report_id="r")

    raw_requests = [report.SerializeToString(), report.SerializeToString(), EOF]
    context = SimpleNamespace(read=AsyncMock(side_effect=raw_requests))
    handler = SimpleNamespace(request_deserializer=device_pb.ReportExecutionsRequest.FromString)
    reservation = Reservation(memory, "t")
    requests = StreamRequests(
        RequestReader(LIMIT, 1), context, handler, reservation, None, public=False
    )
    first = asyncio.ensure_future(anext(requests))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not first.done()

    unread_responses.release()

    assert await first == report
    assert memory.held > 0
    assert await anext(requests) == report
    with pytest.raises(StopAsyncIteration):
        await anext(requests)
    assert memory.held == 0


@pytest.mark.parametrize(("size", "turns"), [(16_384, ["aaab"]), (16_385, ["a", "a", "b", "a"])])
async def test_large_requests_of_tenants_are_decoded_in_turn(size: int, turns: list[str]) -> None:
    """One in an iteration of the event loop, and no tenant waits for all of another."""
    reader, iterations = RequestReader(LIMIT, 1), [""]

    async def decode(tenant: str) -> None:
        set_principal(Principal(tenant, frozenset()))

        def deserialize(_: bytes) -> None:
            iterations[-1] += tenant

        await reader.decode(SimpleNamespace(request_deserializer=deserialize), bytes(size))

    async with asyncio.TaskGroup() as group:
        for tenant in "aaab":
            group.create_task(decode(tenant))
        for _ in range(20):
            await asyncio.sleep(0)
            iterations.append("")

    assert list(filter(None, iterations)) == turns
