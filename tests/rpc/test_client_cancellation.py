"""A call that its client cancels releases its database connection and leaves no partial job."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_error
from tests.support.postgres import connected
from tests.support.waiting import TIMEOUT, wait_until
from tests.support.world import World


@pytest.fixture(scope="module")
def server_settings() -> dict[str, str]:
    """The server has one database connection, which the next call needs as well."""
    return {"JOBS_POOL_MIN_SIZE": "1", "JOBS_POOL_MAX_SIZE": "1"}


@asynccontextmanager
async def _uncommitted_create(database: Database, tenant: str, job_id: str) -> AsyncIterator[None]:
    """Create the job in another session without committing, so that a second create waits.

    Rolls back at the end of the block.
    """
    async with connected(database.owner_dsn) as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(
            'SELECT jobs.create_job($1, $2, \'{"document_type": "x", "target_all": true}\', \'{}\','
            " NULL, 9, 9, 24)",
            tenant,
            job_id,
        )
        yield
        await transaction.rollback()


async def test_database_connection_is_released_when_the_deadline_expires(world: World) -> None:
    await world.add_devices(1)
    await world.create("a")
    timeout = 0.25
    async with world.lock_held("a"):
        while not await _times_out_while_blocked(world.database, world.operator, timeout):
            timeout *= 2  # The machine is busy: the call did not reach the database in time.
            assert timeout < TIMEOUT

        assert len((await world.operator.list()).jobs) == 1
        await world.database.wait_for_blocked_sessions(0)
    assert (await world.operator.get("a")).status == pb.Job.IN_PROGRESS


async def test_canceled_create_leaves_no_job_and_can_be_repeated(world: World) -> None:
    await world.add_devices(3)
    request = pb.CreateJobRequest(job_id="a", document_type="reboot", target_all=True)
    async with _uncommitted_create(world.database, world.tenant, "a"):
        call = world.operator.stub.CreateJob(request, metadata=world.operator.metadata, timeout=30)
        await world.database.wait_for_blocked_sessions(1)

        call.cancel()

        assert not (await world.operator.list()).jobs
        await world.database.wait_for_blocked_sessions(0)
    await expect_error("JOB_NOT_FOUND", world.operator.get("a"))
    rows = "SELECT count(*) FROM jobs.job_executions WHERE tenant_id = $1"
    assert await world.database.owner.fetchval(rows, world.tenant) == 0
    assert (await world.create("a")).execution_count == 3


async def _times_out_while_blocked(database: Database, operator: Operator, seconds: float) -> bool:
    """Call CancelJob until its deadline passes; return whether it was blocked before that."""
    call = operator.stub.CancelJob(
        pb.CancelJobRequest(job_id="a"), metadata=operator.metadata, timeout=seconds
    )
    blocked = False

    async def is_blocked_or_done() -> bool:
        nonlocal blocked
        blocked = await database.blocked_sessions() == 1
        return blocked or call.done()

    await wait_until(is_blocked_or_done)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() is StatusCode.DEADLINE_EXCEEDED
    await database.wait_for_blocked_sessions(0)
    return blocked


async def test_database_connection_is_released_when_many_waiting_calls_are_canceled(
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
