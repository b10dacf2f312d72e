"""A client that gives up in mid-call costs neither a pool slot nor a half-made job."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT, wait_until


@pytest.fixture(scope="module")
async def server(database: Database) -> AsyncIterator[Server]:
    """A service with one connection: a slot that is not given back stops everything."""
    pool_of_one = {"JOBS_POOL_MIN_SIZE": "1", "JOBS_POOL_MAX_SIZE": "1"}
    async with running_server(database.request_dsn, **pool_of_one) as running:
        yield running


@asynccontextmanager
async def _being_created(database: Database, tenant: str, job_id: str) -> AsyncIterator[None]:
    """Another session has claimed the job_id; at the end of the block it takes that back."""
    holder = await asyncpg.connect(database.owner_dsn)
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(
            "SELECT jobs.create_job($1, $2, 'x', '{}', NULL, NULL, true, NULL, NULL, NULL, 9, 9)",
            tenant,
            job_id,
        )
        yield
        await transaction.rollback()
    finally:
        await holder.close()


async def test_a_canceled_call_gives_its_connection_back(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="a", target_all=True)
    async with job_lock_held(database, operator.tenant, "a"):
        call = operator.stub.CancelJob(
            pb.CancelJobRequest(job_id="a"), metadata=operator.metadata, timeout=30
        )
        await database.wait_for_blocked_sessions(1)

        call.cancel()

        assert len((await operator.list()).jobs) == 1
        await database.wait_for_blocked_sessions(0)
    assert (await operator.get("a")).status == pb.Job.IN_PROGRESS


async def test_a_call_past_its_deadline_gives_its_connection_back(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="a", target_all=True)
    timeout = 0.25
    async with job_lock_held(database, operator.tenant, "a"):
        while not await _seen_waiting(database, operator, timeout):
            timeout *= 2  # The machine is busy.
            assert timeout < TIMEOUT

        assert len((await operator.list()).jobs) == 1
        await database.wait_for_blocked_sessions(0)
    assert (await operator.get("a")).status == pb.Job.IN_PROGRESS


async def test_an_abandoned_create_leaves_no_job(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 3)
    request = pb.CreateJobRequest(job_id="a", document_type="reboot", target_all=True)
    async with _being_created(database, operator.tenant, "a"):
        call = operator.stub.CreateJob(request, metadata=operator.metadata, timeout=30)
        await database.wait_for_blocked_sessions(1)

        call.cancel()

        assert not (await operator.list()).jobs
        await database.wait_for_blocked_sessions(0)
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await operator.get("a")
    rows = "SELECT count(*) FROM jobs.job_executions WHERE tenant_id = $1"
    assert await database.owner.fetchval(rows, operator.tenant) == 0


async def test_an_abandoned_create_can_be_repeated(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 3)
    request = pb.CreateJobRequest(job_id="a", document_type="reboot", target_all=True)
    async with _being_created(database, operator.tenant, "a"):
        call = operator.stub.CreateJob(request, metadata=operator.metadata, timeout=30)
        await database.wait_for_blocked_sessions(1)
        call.cancel()
        await database.wait_for_blocked_sessions(0)

    response = await operator.create(job_id="a", target_all=True)

    assert response.execution_count == 3


async def _seen_waiting(database: Database, operator: Operator, seconds: float) -> bool:
    """Cancel the job with that deadline, which must pass; whether the call got to the job."""
    call = operator.stub.CancelJob(
        pb.CancelJobRequest(job_id="a"), metadata=operator.metadata, timeout=seconds
    )
    waits = False

    async def waits_or_is_over() -> bool:
        nonlocal waits
        waits = await database.blocked_sessions() == 1
        return waits or call.done()

    await wait_until(waits_or_is_over)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() is StatusCode.DEADLINE_EXCEEDED
    await database.wait_for_blocked_sessions(0)
    return waits


async def test_many_that_give_up_while_they_queue_for_the_pool(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="a", target_all=True)
    async with job_lock_held(database, operator.tenant, "a"):
        calls = [asyncio.create_task(operator.cancel("a")) for _ in range(20)]
        await database.wait_for_blocked_sessions(1)

        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

        assert len((await operator.list()).jobs) == 1
        await database.wait_for_blocked_sessions(0)
    assert (await operator.get("a")).status == pb.Job.IN_PROGRESS
