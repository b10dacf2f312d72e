"""Callers cannot make the server hold much memory: the tests measure one server process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.struct_pb2 import Struct
from grpc import Compression, StatusCode
from grpc.aio import AioRpcError

from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.http2 import END_STREAM, HEADERS, Connection, Frame, connection
from tests.support.server_process import ServerProcess, running_server_process
from tests.support.waiting import TIMEOUT

LIST_JOBS = "/fleet.jobs.v1.JobService/ListJobs"
WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@pytest.fixture(scope="module")
async def process(database: Database) -> AsyncIterator[ServerProcess]:
    """A server process, whose largest memory is that of all tests so far."""
    async with running_server_process(database.request_dsn) as running:
        yield running


async def first_trailers(burst: Connection, count: int) -> AsyncIterator[Frame]:
    """Yield the frames that end the first `count` calls of a connection."""
    async for received in burst.frames():
        if received.flags & END_STREAM and received.stream:
            yield received
            count -= 1
        if not count:
            return


async def refused(call: Any) -> StatusCode:
    try:
        async with asyncio.timeout(TIMEOUT):
            if hasattr(call, "__aiter__"):
                async for _ in call:
                    pass
            else:
                await call
    except AioRpcError as e:
        return e.code()
    return StatusCode.OK


@pytest.mark.parametrize("method", [WATCH_HEALTH, REFLECTION])
async def test_anonymous_streams_with_large_requests_are_refused_and_hold_no_memory(
    process: ServerProcess, tenant: str, method: str
) -> None:
    # As a string in field 1 of a HealthCheckRequest, and in field 3 of a ServerReflectionRequest.
    tag = b"\x0a" if method == WATCH_HEALTH else b"\x1a"
    request = tag + b"\xa0\x8d\x06" + b"x" * 100_000

    for _ in range(3):
        calls = []
        for _ in range(60):
            call: Any = process.channel.stream_stream(method)
            calls.append(call(iter([request])))
        codes = set(await asyncio.gather(*map(refused, calls)))
        # gRPC clients report INTERNAL if the server ends a call while they still send.
        # There are at most 16 reflection streams.
        assert codes <= {
            StatusCode.INVALID_ARGUMENT,
            StatusCode.INTERNAL,
            StatusCode.RESOURCE_EXHAUSTED,
        }

    process.check_memory()
    assert not (await process.operator(tenant).list()).jobs


@pytest.mark.slow
async def test_compressed_list_of_statuses_is_refused_and_holds_no_memory(
    process: ServerProcess, tenant: str
) -> None:
    """A few hundred bytes on the wire become 250,000 statuses; 4 kB would become millions."""
    metadata = (("x-tenant-id", tenant),)
    call: Any = process.channel.unary_unary(LIST_JOBS)
    larger = bytes(4_000_000)
    for _ in range(20):
        with expect_failure(StatusCode.RESOURCE_EXHAUSTED):
            await call(larger, metadata=metadata, compression=Compression.Gzip)
    for count, reason in ((250_000, "MALFORMED_REQUEST"), (16_000, "INVALID_FIELD")):
        request = pb.ListJobsRequest(statuses=[pb.Job.COMPLETED] * count).SerializeToString()
        for _ in range(20):
            with expect_failure(StatusCode.INVALID_ARGUMENT, reason):
                await call(request, metadata=metadata, compression=Compression.Gzip)

    process.check_memory()


@pytest.mark.slow
async def test_documents_of_nested_lists_are_refused_and_hold_a_bounded_part_of_the_memory(
    process: ServerProcess, tenant: str
) -> None:
    """A byte of such a document takes up to 30 bytes of memory: 60 documents, up to 400 MiB."""
    document = Struct()
    document.update({"lists": [[]] * 60_000})
    operator = process.operator(tenant)

    calls = [operator.create(target_all=True, document_params=document) for _ in range(60)]
    codes = set(await asyncio.gather(*map(refused, calls)))

    # A call that waits too long for bytes is refused with RESOURCE_EXHAUSTED.
    assert codes <= {StatusCode.INVALID_ARGUMENT, StatusCode.RESOURCE_EXHAUSTED}
    process.check_memory()


@pytest.mark.slow
async def test_burst_of_calls_that_wait_to_be_accepted_is_served(
    process: ServerProcess, database: Database, tenant: str
) -> None:
    """gRPC itself would refuse some of more than 1,000 calls with CANCELLED and no reason."""
    async with AsyncExitStack() as stack, asyncio.timeout(TIMEOUT):
        connections = [
            await stack.enter_async_context(connection(process.address)) for _ in range(30)
        ]
        for burst in connections:
            for number in range(100):
                burst.call(2 * number + 1, LIST_JOBS, {"x-tenant-id": tenant}, pb.ListJobsRequest())
        ended = [frame for burst in connections async for frame in first_trailers(burst, 100)]

    assert {frame.type_ for frame in ended} == {HEADERS}
