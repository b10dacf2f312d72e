"""The connections of the request role, which tenants take turns to use."""

import asyncio
import contextvars
import operator
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db import schema
from jobs_grpc.db.connect import CONNECT_TIMEOUT, SERVER, abort, connect
from jobs_grpc.db.pg_errors import CONNECTION_LOST
from jobs_grpc.errors import DatabaseUnavailable, Overloaded
from jobs_grpc.limits.fair_semaphore import FairSemaphore
from jobs_grpc.observability.histogram import Histogram

_CLOSE_TIMEOUT = 5.0

# How long a canceled statement may take to end.
_CANCEL_TIMEOUT = 3.0

# A tenant can take a connection while it holds fewer than this factor times those that no call
# holds. With ten connections, one tenant alone gets eight; two stay free for other tenants.
_MAX_HELD_PER_FREE_CONNECTION = 4

# Buckets of the time that calls wait for a connection, in seconds.
_WAIT_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Connections beyond the minimum are closed when they have been idle for this long.
_MAX_IDLE_SECONDS = 300.0

Clock = Callable[[], float]
"""Returns seconds, like time.monotonic."""


@dataclass(slots=True, eq=False)
class PooledConnection:
    """An open connection, the server that it leads to, and when its last call ended."""

    connection: asyncpg.Connection
    server: str
    idle_since: float


class ConnectionPool:
    """At most JOBS_POOL_MAX_SIZE connections, which open when they are needed.

    Waiting calls get the connection that becomes free next: tenants take turns, and calls of one
    tenant are FIFO. Connections are not reset between uses: no statement leaves session state
    behind, which also allows a transaction pooler.
    """

    def __init__(self, config: Config, clock: Clock = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        # Counts connections that are not open as well.
        self._semaphore = FairSemaphore(
            config.pool.max_size, lambda held: held // _MAX_HELD_PER_FREE_CONNECTION
        )
        # The most recently used connection last.
        self._idle: list[PooledConnection] = []
        self._open: set[PooledConnection] = set()
        self._recoveries: set[asyncio.Task[bool]] = set()
        self._closing = False
        self._all_free = asyncio.Event()
        self.wait_seconds = Histogram(_WAIT_SECONDS)
        """How long calls waited for a connection. A call that gets one at once does not wait."""

    @property
    def in_use(self) -> int:
        """The number of connections that calls hold."""
        return self._semaphore.held

    @property
    def idle(self) -> int:
        """The number of open connections that no call holds."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a connection."""
        return self._semaphore.waiting

    async def open(self) -> None:
        """Open JOBS_POOL_MIN_SIZE connections. Raises what asyncpg raises, and TimeoutError."""
        while len(self._idle) < self._config.pool.min_size:
            self._idle.append(await self._connect())

    async def acquire(self, tenant_id: str) -> PooledConnection:
        """Take a connection.

        Raises DatabaseUnavailable, or Overloaded if none becomes free within JOBS_POOL_TIMEOUT.
        """
        if not self._semaphore.try_take(tenant_id):
            await self._wait(tenant_id)
        try:
            while self._idle:
                pooled = self._idle.pop()
                if not pooled.connection.is_closed():
                    return pooled
                self._drop(pooled)
            return await self._connect()
        except BaseException as e:
            self._give_back(tenant_id)
            if isinstance(e, (*CONNECTION_LOST, TimeoutError, asyncpg.PostgresError)):
                raise DatabaseUnavailable from e
            raise

    def release(self, tenant_id: str, pooled: PooledConnection) -> None:
        """Return a connection after its statement has ended."""
        pooled.idle_since = self._clock()
        self._idle.append(pooled)
        self._give_back(tenant_id)

    async def recover(self, tenant_id: str, pooled: PooledConnection) -> bool:
        """Release a connection whose statement was canceled or lost, when the statement has ended.

        If the connection does not respond, closes it. Returns whether it responds.
        """
        # In a task, so that a second cancellation of the call does not interrupt it. In an empty
        # context, because what asyncpg logs belongs to no request.
        recovery = asyncio.create_task(
            self._recover(tenant_id, pooled), context=contextvars.Context()
        )
        self._recoveries.add(recovery)
        recovery.add_done_callback(self._recoveries.discard)
        return await asyncio.shield(recovery)

    async def close_unused(self) -> None:
        """Close connections beyond the minimum that have been idle for long."""
        unused_since = self._clock() - _MAX_IDLE_SECONDS
        while (
            len(self._open) > self._config.pool.min_size
            and self._idle
            and self._idle[0].idle_since < unused_since
        ):
            await self._close(self._idle.pop(0))

    def terminate(self) -> None:
        """Close all connections at once. Statements that are running fail."""
        self._closing = True
        self._idle.clear()
        while self._open:
            self._open.pop().connection.terminate()

    def abort_others(self, server: str) -> None:
        """Close the connections to other servers at once. Statements that are running fail."""
        for pooled in self._open:
            if pooled.server not in ("", server):  # One that opens has a timeout of its own.
                abort(pooled.connection)

    async def close(self) -> None:
        """Close all connections. Running statements get a few seconds to finish."""
        self._closing = True
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                if self.in_use:
                    await self._all_free.wait()
                while self._idle:
                    await self._close(self._idle.pop())
        except TimeoutError:
            self.terminate()
        if self._recoveries:
            await asyncio.wait(self._recoveries)

    async def _wait(self, tenant_id: str) -> None:
        started = self._clock()
        try:
            await self._semaphore.take(tenant_id, max_wait=self._config.pool.timeout)
        except TimeoutError as e:
            raise Overloaded from e
        finally:
            self.wait_seconds.observe(self._clock() - started)
            # It may have been canceled just after it got a connection.
            self._check_all_free()

    def _give_back(self, tenant_id: str) -> None:
        self._semaphore.release(tenant_id)
        self._check_all_free()

    def _check_all_free(self) -> None:
        if self._closing and not self.in_use:
            self._all_free.set()

    async def _connect(self) -> PooledConnection:
        config = self._config.database
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection = await connect(
                config.url,
                command_timeout=config.query_timeout,
                statement_cache_size=config.statement_cache_size,
            )
            pooled = PooledConnection(connection, "", self._clock())
            self._open.add(pooled)
            try:
                pooled.server = await connection.fetchval(SERVER)
                await prepare_connection(connection)
                if self._closing:
                    raise asyncpg.InterfaceError("the pool is closed")
            except BaseException:
                self._drop(pooled)
                raise
        return pooled

    async def _recover(self, tenant_id: str, pooled: PooledConnection) -> bool:
        try:
            # asyncpg runs it when the canceled statement has ended.
            await pooled.connection.execute("SELECT 1", timeout=_CANCEL_TIMEOUT)
        except Exception:
            self._drop(pooled)
            self._give_back(tenant_id)
            return False
        self.release(tenant_id, pooled)
        return True

    async def _close(self, pooled: PooledConnection) -> None:
        self._open.discard(pooled)
        # If closing fails, asyncpg terminates the connection.
        with suppress(*CONNECTION_LOST, TimeoutError, asyncpg.PostgresError):
            await pooled.connection.close(timeout=_CANCEL_TIMEOUT)

    def _drop(self, pooled: PooledConnection) -> None:
        self._open.discard(pooled)
        pooled.connection.terminate()


async def prepare_connection(connection: asyncpg.Connection) -> None:
    """Decode timestamptz as PgMicros, and load the types that calls return.

    A datetime takes ten times as long to create, and a page has thousands of them.
    """
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda micros: (micros,),
        decoder=operator.itemgetter(0),
        format="tuple",
    )
    async with connection.transaction():
        # asyncpg reads pg_class to look up types. Citus calls a function for each of its rows to
        # hide shards, which takes half a second. PostgreSQL itself ignores the setting.
        await connection.execute("SET LOCAL citus.override_table_visibility = off")
        await connection.fetch(schema.read_sql("checks/types.sql"))
