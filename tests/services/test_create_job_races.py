"""CreateJob at the same time as another CreateJob or CancelJob of the same job."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc
from grpc import StatusCode
from grpc.aio import AioRpcError

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, open_channel

CREATE = (
    "SELECT * FROM jobs.create_job($1, 'j', 'reboot', '{}', NULL, NULL, true, 24, NULL, NULL,"
    " 99, 99)"
)


@asynccontextmanager
async def clients(server: Server, tenant: str, count: int) -> AsyncIterator[list[Operator]]:
    """That many operators in the tenant, each with a connection of its own."""
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(open_channel(server.address)) for _ in range(count)
        ]
        yield [Operator(jobs_pb2_grpc.JobServiceStub(channel), tenant) for channel in channels]


@pytest.fixture
async def rival(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A session of the request role, to hold a transaction open in."""
    connection = await asyncpg.connect(database.request_dsn)
    yield connection
    await connection.close()


async def test_fifty_equal_creates_at_once_make_one_job(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 5)

    async with clients(server, operator.tenant, 50) as rivals:
        answers = await asyncio.gather(*(r.create(job_id="j", target_all=True) for r in rivals))

    assert all(answer == answers[0] for answer in answers)
    assert answers[0].execution_count == 5
    (job,) = (await operator.list()).jobs
    assert job.execution_counts == pb.ExecutionCounts(queued=5)


async def test_of_fifty_different_creates_at_once_one_wins(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 5)

    async with clients(server, operator.tenant, 50) as rivals:
        answers = await asyncio.gather(
            *(
                r.create(job_id="j", target_all=True, document_params={"n": n})
                for n, r in enumerate(rivals)
            ),
            return_exceptions=True,
        )

    (winner,) = [n for n, a in enumerate(answers) if isinstance(a, pb.CreateJobResponse)]
    losers = [a for a in answers if isinstance(a, AioRpcError)]
    assert [a.code() for a in losers] == [StatusCode.ALREADY_EXISTS] * 49
    (job,) = (await operator.list()).jobs
    assert job.document_params == {"n": winner}


async def test_an_equal_create_waits_for_the_first_and_is_answered_the_same(
    database: Database, operator: Operator, rival: asyncpg.Connection
) -> None:
    await database.add_devices(operator.tenant, 2)
    async with rival.transaction():
        first = await rival.fetchrow(CREATE, operator.tenant)
        second = asyncio.create_task(operator.create(job_id="j", target_all=True))
        await database.wait_for_blocked_sessions(1)

    response = await second

    assert first is not None
    assert response.execution_count == first["execution_count"] == 2
    assert response.expires_at.ToMicroseconds() == first["expires_at"].timestamp() * 1_000_000
    assert len((await operator.list()).jobs) == 1


async def test_another_create_waits_for_the_first_and_finds_the_job_id_taken(
    database: Database, operator: Operator, rival: asyncpg.Connection
) -> None:
    await database.add_devices(operator.tenant, 2)
    async with rival.transaction():
        await rival.execute(CREATE, operator.tenant)
        second = asyncio.create_task(operator.create(job_id="j", target_device_id="d00001"))
        await database.wait_for_blocked_sessions(1)

    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await second
    assert (await operator.get("j")).total_executions == 2


async def test_a_create_that_waited_creates_the_job_if_the_first_is_rolled_back(
    database: Database, operator: Operator, rival: asyncpg.Connection
) -> None:
    await database.add_devices(operator.tenant, 2)
    transaction = rival.transaction()
    await transaction.start()
    await rival.execute(CREATE, operator.tenant)
    second = asyncio.create_task(operator.create(job_id="j", target_device_id="d00002"))
    await database.wait_for_blocked_sessions(1)
    await transaction.rollback()

    assert (await second).execution_count == 1
    assert (await operator.get("j")).target_device_id == "d00002"


async def test_a_job_that_is_not_committed_is_not_there_to_read_or_to_cancel(
    database: Database, operator: Operator, rival: asyncpg.Connection
) -> None:
    await database.add_devices(operator.tenant, 1)
    async with rival.transaction():
        await rival.execute(CREATE, operator.tenant)

        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            await operator.cancel("j")
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            await operator.get("j")
        assert not (await operator.list()).jobs

    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS
    await operator.cancel("j")


async def test_a_repeated_create_is_answered_the_same_while_a_cancel_commits(
    database: Database, operator: Operator, rival: asyncpg.Connection
) -> None:
    await database.add_devices(operator.tenant, 1)
    first = await operator.create(job_id="j", target_all=True)
    async with rival.transaction():
        await rival.execute("SELECT jobs.cancel_job($1, 'j', 'no')", operator.tenant)
        again = asyncio.create_task(operator.create(job_id="j", target_all=True))
        await database.wait_for_blocked_sessions(1)

    assert await again == first
    assert (await operator.get("j")).status == pb.Job.CANCELED


async def test_creates_and_cancels_at_once_leave_one_canceled_job_at_most(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 3)

    async with clients(server, operator.tenant, 20) as rivals:
        answers = await asyncio.gather(
            *(
                r.cancel("j") if n % 2 else r.create(job_id="j", target_all=True)
                for n, r in enumerate(rivals)
            ),
            return_exceptions=True,
        )

    created = [a for a in answers if isinstance(a, pb.CreateJobResponse)]
    canceled = [a for a in answers if isinstance(a, pb.CancelJobResponse)]
    codes = {a.code() for a in answers if isinstance(a, AioRpcError)}
    assert len(created) == 10
    assert len(canceled) <= 1
    assert codes <= {StatusCode.NOT_FOUND, StatusCode.FAILED_PRECONDITION}
    (job,) = (await operator.list()).jobs
    assert job.status == (pb.Job.CANCELED if canceled else pb.Job.IN_PROGRESS)
    assert job.total_executions == 3
