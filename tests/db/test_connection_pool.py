"""ConnectionPool: what is left to other tenants, and how connections are reused and closed.

tests/limits/test_fair_semaphore_model.py has the turns of tenants and the calls that are canceled.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from jobs_grpc.config import Config
from jobs_grpc.db.connection_pool import ConnectionPool, PooledConnection
from jobs_grpc.errors import DatabaseUnavailable, Overloaded
from tests.support.clock import Clock
from tests.support.database import Database
from tests.support.waiting import read_until, run_ready_tasks, wait_until_true
from tests.support.waiting_calls import WaitingCalls

LONG = 60.0
PID = "SELECT pg_backend_pid()"
OF_REQUESTS = "usename <> current_user"

OpenPool = Callable[..., Awaitable[ConnectionPool]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_pool(database: Database, clock: Clock) -> AsyncIterator[OpenPool]:
    """A function that opens a pool. Its connections are open from the start, by default."""
    pools = []

    async def open_pool(
        max_size: int, min_size: int | None = None, max_wait: float = LONG
    ) -> ConnectionPool:
        config = Config.from_env(
            {
                "JOBS_DATABASE_URL": database.request_dsn,
                "JOBS_POOL_MAX_SIZE": str(max_size),
                "JOBS_POOL_MIN_SIZE": str(max_size if min_size is None else min_size),
                "JOBS_POOL_TIMEOUT": str(max_wait),
            }
        )
        pools.append(ConnectionPool(config, clock))
        await pools[-1].open()
        return pools[-1]

    yield open_pool
    for pool in pools:
        pool.terminate()


@asynccontextmanager
async def acquired(pool: ConnectionPool, tenant: str) -> AsyncIterator[PooledConnection]:
    pooled = await pool.acquire(tenant)
    try:
        yield pooled
    finally:
        pool.release(tenant, pooled)


async def test_one_tenant_gets_eight_of_ten_connections(open_pool: OpenPool) -> None:
    calls = WaitingCalls(partial(acquired, await open_pool(10)))
    await calls.start(*(f"a{n}" for n in range(20)))
    assert len(calls.served) == 8

    await calls.start("b1", "c1")
    assert calls.served[8:] == ["b1", "c1"]

    # Two other tenants hold connections now, so b2 gets the first connection that becomes free.
    await calls.start("b2")
    await calls.end("a0", "b1")
    assert calls.served[10:] == ["b2"]
    await calls.cancel()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
async def test_one_tenant_gets_all_connections_of_a_small_pool(
    open_pool: OpenPool, size: int
) -> None:
    calls = WaitingCalls(partial(acquired, await open_pool(size)))

    await calls.start(*(f"a{n}" for n in range(size + 1)))

    assert len(calls.served) == size
    await calls.cancel()


async def test_call_fails_and_leaves_the_queue_when_it_waits_too_long(open_pool: OpenPool) -> None:
    pool = await open_pool(1, max_wait=0.01)
    async with acquired(pool, "a"):
        with pytest.raises(Overloaded):
            await pool.acquire("b")

    async with acquired(pool, "c"):
        pass


async def test_connections_open_when_they_are_needed(
    database: Database, open_pool: OpenPool
) -> None:
    pool = await open_pool(3, min_size=1)
    await wait_for_sessions(database, 1)

    async with acquired(pool, "a"), acquired(pool, "b"):
        await wait_for_sessions(database, 2)


async def test_connection_is_closed_when_it_has_been_idle_for_long(
    database: Database, open_pool: OpenPool, clock: Clock
) -> None:
    pool = await open_pool(3, min_size=1)
    async with acquired(pool, "a"), acquired(pool, "b"), acquired(pool, "c"):
        clock.now = 100
    clock.now = 399
    async with acquired(pool, "a"):
        await pool.close_unused()
    assert len(await database.sessions(OF_REQUESTS)) == 3

    clock.now = 401
    await pool.close_unused()
    await wait_for_sessions(database, 1)

    clock.now = 1000
    await pool.close_unused()
    await wait_for_sessions(database, 1)


async def test_call_gets_another_connection_when_an_idle_one_is_lost(
    database: Database, open_pool: OpenPool
) -> None:
    pool = await open_pool(1)
    async with acquired(pool, "a") as pooled:
        lost = pooled.connection
        pid = await lost.fetchval(PID)
    await database.owner.execute("SELECT pg_terminate_backend($1::integer)", pid)

    await wait_until_true(lambda: lost.is_closed())

    async with acquired(pool, "a") as pooled:
        assert await pooled.connection.fetchval(PID) != pid


async def test_connection_is_used_again_when_its_canceled_statement_has_ended(
    database: Database, open_pool: OpenPool
) -> None:
    pool = await open_pool(1)
    pooled = await pool.acquire("a")
    pid = await pooled.connection.fetchval(PID)
    statement = asyncio.create_task(pooled.connection.execute("SELECT pg_sleep(60)"))
    await database.wait_for_session("wait_event = 'PgSleep'")

    statement.cancel()
    await asyncio.wait({statement})
    await pool.recover("a", pooled)

    async with acquired(pool, "b") as pooled:
        assert await pooled.connection.fetchval(PID) == pid


async def test_connection_returns_when_its_call_is_canceled_while_it_connects(
    open_pool: OpenPool,
) -> None:
    pool = await open_pool(1, min_size=0)
    connecting = asyncio.create_task(pool.acquire("a"))
    await run_ready_tasks()
    connecting.cancel()
    await asyncio.wait({connecting})

    async with acquired(pool, "b") as pooled:
        assert await pooled.connection.fetchval(PID)


async def test_waiting_call_fails_and_opens_no_connection_when_the_pool_is_terminated(
    database: Database, open_pool: OpenPool
) -> None:
    pool = await open_pool(1)
    async with acquired(pool, "a"):
        waiting = asyncio.create_task(pool.acquire("b"))
        await run_ready_tasks()
        pool.terminate()

    with pytest.raises(DatabaseUnavailable):
        await waiting
    await wait_for_sessions(database, 0)


async def test_close_ends_the_session_of_a_statement_that_was_just_canceled(
    database: Database, open_pool: OpenPool
) -> None:
    pool = await open_pool(1)
    pooled = await pool.acquire("a")
    statement = asyncio.create_task(pooled.connection.execute("SELECT pg_sleep(60)"))
    await database.wait_for_session("wait_event = 'PgSleep'")

    statement.cancel()
    await asyncio.wait({statement})
    recovery = asyncio.create_task(pool.recover("a", pooled))
    await run_ready_tasks()
    recovery.cancel()
    await pool.close()

    await wait_for_sessions(database, 0)


async def test_close_returns_when_the_last_statement_has_finished(
    database: Database, open_pool: OpenPool
) -> None:
    pool = await open_pool(1)
    pooled = await pool.acquire("a")
    statement = asyncio.create_task(pooled.connection.fetchval("SELECT 1 FROM pg_sleep(0.3)"))
    await database.wait_for_session("wait_event = 'PgSleep'")
    statement.add_done_callback(lambda _: pool.release("a", pooled))

    # Less than the time after which close() terminates the connections.
    async with asyncio.timeout(4):
        await pool.close()

    assert await statement == 1


async def test_close_returns_when_the_last_call_is_canceled_as_its_turn_comes(
    open_pool: OpenPool,
) -> None:
    pool = await open_pool(1)
    pooled = await pool.acquire("a")
    waiting = asyncio.create_task(pool.acquire("b"))
    await run_ready_tasks()
    closing = asyncio.create_task(pool.close())
    await run_ready_tasks()

    # No other task runs between the release and the cancellation.
    pool.release("a", pooled)
    waiting.cancel()

    # Less than the time after which close() terminates the connections.
    async with asyncio.timeout(4):
        await closing
    assert waiting.cancelled()


async def wait_for_sessions(database: Database, count: int) -> None:
    await read_until(lambda: database.sessions(OF_REQUESTS), lambda found: len(found) == count)


async def test_connections_to_other_servers_are_closed_at_once(open_pool: OpenPool) -> None:
    pool = await open_pool(2)
    async with acquired(pool, "a") as used:
        pool.abort_others(used.server)
        assert not used.connection.is_closed()

        pool.abort_others("another server")

        await asyncio.sleep(0)  # The event loop closes them.
        assert used.connection.is_closed()
        async with acquired(pool, "a") as replacement:
            assert await replacement.connection.fetchval("SELECT 1") == 1
