"""A connection pool with a cache of recently used connections."""

import asyncio
import logging
import operator
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from jobs_grpc.config import Config
from jobs_grpc.db import schema
from jobs_grpc.db.pg_errors import CONNECTION_LOST
from jobs_grpc.errors import DatabaseUnavailable, Overloaded

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
_RELEASE_TIMEOUT = 3.0
_CLOSE_TIMEOUT = 5.0

# How long a connection stays out of the pool, for reuse by the next calls.
_REUSE_SECONDS = 1.0

Clock = Callable[[], float]
"""Returns seconds, like time.monotonic."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A connection, and the time at which it was acquired from the pool."""

    connection: PoolConnectionProxy
    since: float

    def expired(self, now: float) -> bool:
        """Whether to return the connection to the pool, even if calls keep it busy."""
        return now - self.since > _REUSE_SECONDS


class Connections:
    """A connection pool with a cache of leases.

    Acquiring a connection from the asyncpg pool and releasing it takes an eighth of the CPU time
    of a small call. So a lease is reused until it expires; then its plans are discarded and the
    connection returns to the pool. Connections are not reset between uses: no statement leaves
    session state behind, which also allows a transaction pooler.
    """

    def __init__(self, pool: asyncpg.Pool, timeout: float, clock: Clock) -> None:
        self._pool = pool
        self._timeout = timeout
        self._clock = clock
        self._idle: list[Lease] = []
        self._releases: set[asyncio.Task[None]] = set()
        self._closing = False

    @classmethod
    async def open(cls, config: Config, clock: Clock = time.monotonic) -> "Connections":
        """Connect. Raises what asyncpg raises."""
        pool = await asyncpg.create_pool(
            config.database.url,
            min_size=config.pool.min_size,
            max_size=config.pool.max_size,
            timeout=CONNECT_TIMEOUT,
            command_timeout=config.database.query_timeout,
            statement_cache_size=config.database.statement_cache_size,
            init=prepare_connection,
            reset=_no_reset,
        )
        return cls(pool, config.pool.timeout, clock)

    async def acquire(self) -> Lease:
        """Lease a connection. Raises DatabaseUnavailable, or Overloaded if all stay in use."""
        return self._take_idle() or Lease(await self._acquire(), self._clock())

    async def release(self, lease: Lease, *, reusable: bool) -> None:
        """Keep the lease for the next call, or return a connection that is not `reusable`."""
        if reusable and not self._closing:
            self._keep_or_return(lease)
        else:
            await self._release(lease.connection)

    def release_expired(self) -> None:
        """Return the connections of expired leases to the pool, which closes unused ones."""
        leases, self._idle = self._idle, []
        for lease in leases:
            self._keep_or_return(lease)

    def terminate(self) -> None:
        """Close all connections at once. Statements that are running fail."""
        self._closing = True
        self._idle.clear()
        self._pool.terminate()

    async def close(self) -> None:
        """Close all connections. Running statements get a few seconds to finish."""
        self._closing = True
        while lease := self._take_idle():
            await self._release(lease.connection)
        try:
            await asyncio.wait_for(self._pool.close(), _CLOSE_TIMEOUT)
        except TimeoutError:
            self._pool.terminate()
        if self._releases:
            await asyncio.wait(self._releases)

    def _take_idle(self) -> Lease | None:
        """Take a lease whose connection is still open."""
        while self._idle:
            lease = self._idle.pop()
            # If the pool has dropped the connection, is_closed() raises: try the next lease.
            with suppress(asyncpg.InterfaceError):
                if not lease.connection.is_closed():
                    return lease
        return None

    def _keep_or_return(self, lease: Lease) -> None:
        if not lease.expired(self._clock()):
            self._idle.append(lease)
            return
        # In a task, because a broken connection can take seconds to release.
        task = asyncio.create_task(self._discard_plans_and_release(lease.connection))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _discard_plans_and_release(self, connection: PoolConnectionProxy) -> None:
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await discard_plans(connection)
        except (*CONNECTION_LOST, TimeoutError, asyncpg.PostgresError) as e:
            logger.warning("could not discard the plans of a connection: %r", e)
        finally:
            await self._release(connection)

    async def _release(self, connection: PoolConnectionProxy) -> None:
        """Return a connection to the pool. The pool closes it if it does not respond."""
        try:
            await self._pool.release(connection, timeout=_RELEASE_TIMEOUT)
        except (*CONNECTION_LOST, TimeoutError) as e:
            logger.warning("closed a connection that did not respond: %r", e)

    async def _acquire(self) -> PoolConnectionProxy:
        pool = self._pool
        try:
            return await pool.acquire(timeout=self._timeout)
        except TimeoutError as e:
            # A connection that is being released counts as in use.
            full = pool.get_size() - pool.get_idle_size() >= pool.get_max_size()
            raise (Overloaded() if full else DatabaseUnavailable()) from e
        except (*CONNECTION_LOST, asyncpg.PostgresError) as e:
            raise DatabaseUnavailable from e


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
    await connection.fetch(schema.read_sql("checks/types.sql"))


async def discard_plans(connection: asyncpg.Connection | PoolConnectionProxy) -> None:
    """Discard the session's cached plans, so that statements are planned again.

    PostgreSQL keeps a plan until the tables are analyzed, even if it was made when the tenant's
    part of the tables was so small that any index would do.
    """
    await connection.execute("DISCARD PLANS")


async def _no_reset(connection: object) -> None:
    """Skip the pool's default reset, which costs a round trip: there is no session state."""
