"""CreateJob concurrent with another CreateJob or CancelJob of the same job_id."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc
from grpc import StatusCode
from grpc.aio import AioRpcError

from tests.support.callers import Operator
from tests.support.database import Database, request_session, uncommitted
from tests.support.failures import expect_error
from tests.support.server import open_channel
from tests.support.world import World

CREATE = """
    SELECT * FROM jobs.create_job(
        $1, 'j', '{"document_type": "reboot", "target_all": true, "expires_in_hours": 24}', '{}',
        NULL, 99, 99, 24
    )
"""
in_transaction = pytest.mark.single_node("a call inside a transaction is not delegated on Citus")


async def race(world: World, *calls: Callable[[Operator], Awaitable[Any]]) -> list[Any]:
    """Make calls at the same time, each on its own connection; return responses and errors."""
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(open_channel(world.server.address)) for _ in calls
        ]
        operators = [
            Operator(jobs_pb2_grpc.JobServiceStub(channel), world.tenant) for channel in channels
        ]
        return await asyncio.gather(
            *(call(operator) for call, operator in zip(calls, operators, strict=True)),
            return_exceptions=True,
        )


def create(operator: Operator, **fields: Any) -> Awaitable[pb.CreateJobResponse]:
    return operator.create(job_id="j", target_all=True, **fields)


@pytest.fixture(autouse=True)
async def devices(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, 2)


async def test_fifty_equal_concurrent_creates_make_one_job(world: World) -> None:
    responses = await race(world, *[create] * 50)

    assert all(response == responses[0] for response in responses)
    assert responses[0].execution_count == 2
    (job,) = (await world.operator.list()).jobs
    assert job.execution_counts == pb.ExecutionCounts(queued=2)


async def test_one_of_fifty_different_concurrent_creates_succeeds(world: World) -> None:
    results = await race(
        world, *(partial(create, document_params={"number": number}) for number in range(50))
    )

    (created,) = [n for n, r in enumerate(results) if isinstance(r, pb.CreateJobResponse)]
    errors = [result for result in results if isinstance(result, AioRpcError)]
    assert [error.code() for error in errors] == [StatusCode.ALREADY_EXISTS] * 49
    (job,) = (await world.operator.list()).jobs
    assert job.document_params == {"number": created}


@in_transaction
async def test_second_create_waits_for_the_first(world: World) -> None:
    """An equal one returns its response, and a different one is rejected."""
    equal = world.create()
    response = await (await world.wait_for_commit(equal, CREATE))
    (job,) = (await world.operator.list()).jobs
    assert (response.execution_count, response.expires_at) == (2, job.expires_at)

    different = world.create("k", target_device_id="d00001")
    create_k = CREATE.replace("'j'", "'k'")
    second = await world.wait_for_commit(different, create_k)
    await expect_error("JOB_ALREADY_EXISTS", second)
    assert (await world.operator.get("k")).total_executions == 2


@in_transaction
async def test_waiting_create_succeeds_when_the_first_is_rolled_back(world: World) -> None:
    async with request_session(world.database) as (session, _):
        transaction = session.transaction()
        await transaction.start()
        await session.execute(CREATE, world.tenant)
        second = await world.blocked(world.create(target_device_id="d00002"))
        await transaction.rollback()

    assert (await second).execution_count == 1
    assert (await world.operator.get("j")).target_device_id == "d00002"


@in_transaction
async def test_job_cannot_be_read_or_canceled_before_its_create_commits(world: World) -> None:
    async with uncommitted(world.database, CREATE, world.tenant):
        for call in (world.operator.cancel("j"), world.operator.get("j")):
            await expect_error("JOB_NOT_FOUND", call)
        assert not (await world.operator.list()).jobs

    assert (await world.operator.get("j")).status == pb.Job.IN_PROGRESS
    await world.operator.cancel("j")


@in_transaction
async def test_repeated_create_returns_the_first_response_while_a_cancel_commits(
    world: World, operator: Operator
) -> None:
    first = await operator.create(job_id="j", target_all=True)
    create = operator.create(job_id="j", target_all=True)
    cancel = "SELECT jobs.cancel_job($1, 'j', 'no')"

    assert await (await world.wait_for_commit(create, cancel)) == first
    assert (await operator.get("j")).status == pb.Job.CANCELED


async def test_concurrent_creates_and_cancels_leave_one_job(world: World) -> None:
    results = await race(world, *[create, lambda operator: operator.cancel("j")] * 10)

    created = [result for result in results if isinstance(result, pb.CreateJobResponse)]
    canceled = [result for result in results if isinstance(result, pb.CancelJobResponse)]
    codes = {result.code() for result in results if isinstance(result, AioRpcError)}
    assert len(created) == 10
    assert len(canceled) <= 1
    assert codes <= {StatusCode.NOT_FOUND, StatusCode.FAILED_PRECONDITION}
    (job,) = (await world.operator.list()).jobs
    assert job.status == (pb.Job.CANCELED if canceled else pb.Job.IN_PROGRESS)
    assert job.total_executions == 2
