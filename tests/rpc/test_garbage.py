"""Ended calls are freed without a garbage collection, because full collections are rare."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from tests.support.callers import Operator, read_to_end
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.server import Server, open_channel
from tests.support.waiting import TIMEOUT, wait_until_true

Call = Callable[[Server, Operator], Awaitable[None]]


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Free the garbage of earlier tests, and collect none until the test ends."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _calls_in_memory() -> int:
    """Return the number of calls that gRPC has not freed."""
    return sum(type(item).__name__ == "_ServicerContext" for item in gc.get_objects())


async def _cancel_watch(_: Server, operator: Operator) -> None:
    watch = operator.stub.WatchJob(pb.WatchJobRequest(job_id="a"), metadata=operator.metadata)
    await watch.read()
    watch.cancel()


async def _lose_connection(server: Server, operator: Operator) -> None:
    async with open_channel(server.address) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        watch = stub.WatchJob(pb.WatchJobRequest(job_id="a"), metadata=operator.metadata)
        await watch.read()


async def _watch_missing_job(_: Server, operator: Operator) -> None:
    watch = operator.stub.WatchJob(pb.WatchJobRequest(job_id="b"), metadata=operator.metadata)
    await expect_error("JOB_NOT_FOUND", read_to_end(watch))


async def _get_missing_job(_: Server, operator: Operator) -> None:
    await expect_error("JOB_NOT_FOUND", operator.get("b"))


async def _send_invalid_request(_: Server, operator: Operator) -> None:
    await expect_error("INVALID_FIELD", operator.create(target_all=True, expires_in_hours=-1))


@pytest.mark.parametrize(
    "call",
    [_cancel_watch, _lose_connection, _watch_missing_job, _get_missing_job, _send_invalid_request],
)
async def test_ended_calls_are_freed_without_a_garbage_collection(
    database: Database, server: Server, operator: Operator, no_collections: None, call: Call
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="a", target_all=True)
    before = _calls_in_memory()

    for _ in range(3):
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*(call(server, operator) for _ in range(5)))

    await wait_until_true(lambda: _calls_in_memory() <= before)
