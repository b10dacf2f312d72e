"""The connections to the database: a pool, and some that are kept out of it between uses."""

import asyncio
import logging
import operator
import time
from contextlib import suppress
from dataclasses import dataclass, field

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

# Seconds for which a connection is kept out of the pool.
_AT_HAND = 1.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A connection of the pool's that stays at hand between uses, for a while."""

    connection: PoolConnectionProxy
    since: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        """Whether it is to go back, also if it is always in use: its plans get old."""
        return time.monotonic() - self.since > _AT_HAND


class Connections:
    """A pool, and at hand what has just been used of it.

    To give a connection back to the pool and to have it again takes an eighth of a small call.
    No statement leaves anything behind in its session, so connections are not reset between
    uses and a transaction pooler may stand in between.
    """

    def __init__(self, pool: asyncpg.Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._at_hand: list[Lease] = []
        self._put_aways: set[asyncio.Task[None]] = set()
        self._closing = False

    @classmethod
    async def open(cls, config: Config) -> "Connections":
        """Connect. Raises what asyncpg does."""
        pool = await asyncpg.create_pool(
            config.database.url,
            min_size=config.pool.min_size,
            max_size=config.pool.max_size,
            timeout=CONNECT_TIMEOUT,
            command_timeout=config.database.query_timeout,
            statement_cache_size=config.database.statement_cache_size,
            init=set_types,
            reset=_no_reset,
        )
        return cls(pool, config.pool.timeout)

    async def borrow(self) -> Lease:
        """One that nobody uses. Raises DatabaseUnavailable, and Overloaded if none came free."""
        return self._idle() or Lease(await self._acquire())

    async def give_back(self, borrowed: Lease, *, intact: bool) -> None:
        """Have it at hand for the next one, or leave it to the pool if it is not `intact`."""
        if intact and not self._closing:
            self._keep(borrowed)
        else:
            await self._release(borrowed.connection)

    def put_away(self) -> None:
        """Give what is due back to the pool, which closes what is not used for long."""
        at_hand, self._at_hand = self._at_hand, []
        for borrowed in at_hand:
            self._keep(borrowed)

    def terminate(self) -> None:
        """Cut off whoever uses one."""
        self._closing = True
        self._at_hand.clear()
        self._pool.terminate()

    async def close(self) -> None:
        """Close all, in use or not."""
        self._closing = True
        while borrowed := self._idle():
            await self._release(borrowed.connection)
        try:
            await asyncio.wait_for(self._pool.close(), _CLOSE_TIMEOUT)
        except TimeoutError:
            self._pool.terminate()
        if self._put_aways:
            await asyncio.wait(self._put_aways)

    def _idle(self) -> Lease | None:
        """One that is at hand, unless it was closed meanwhile."""
        while self._at_hand:
            borrowed = self._at_hand.pop()
            # What closes is no longer the pool's, and refuses to be asked.
            with suppress(asyncpg.InterfaceError):
                if not borrowed.connection.is_closed():
                    return borrowed
        return None

    def _keep(self, borrowed: Lease) -> None:
        if not borrowed.is_due():
            self._at_hand.append(borrowed)
            return
        # Nobody waits for it, as it may not answer.
        task = asyncio.create_task(self._retire(borrowed.connection))
        self._put_aways.add(task)
        task.add_done_callback(self._put_aways.discard)

    async def _retire(self, connection: PoolConnectionProxy) -> None:
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await forget_plans(connection)
        except (*CONNECTION_LOST, TimeoutError, asyncpg.PostgresError) as e:
            logger.warning("plans could not be forgotten: %r", e)
        finally:
            await self._release(connection)

    async def _release(self, connection: PoolConnectionProxy) -> None:
        """Release a connection, also one that no longer answers: that one is closed instead."""
        try:
            await self._pool.release(connection, timeout=_RELEASE_TIMEOUT)
        except (*CONNECTION_LOST, TimeoutError) as e:
            logger.warning("a connection was given up: %r", e)

    async def _acquire(self) -> PoolConnectionProxy:
        pool = self._pool
        try:
            return await pool.acquire(timeout=self._timeout)
        except TimeoutError as e:
            # Full all the same while a connection is being given back.
            full = pool.get_size() - pool.get_idle_size() >= pool.get_max_size()
            raise (Overloaded() if full else DatabaseUnavailable()) from e
        except (*CONNECTION_LOST, asyncpg.PostgresError) as e:
            raise DatabaseUnavailable from e


async def set_types(connection: asyncpg.Connection) -> None:
    """Let moments be numbers, and look up what the driver would have to when a call asks.

    A datetime takes ten times as long to make, and a page has thousands.
    """
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda moment: (moment,),
        decoder=operator.itemgetter(0),
        format="tuple",
    )
    await connection.fetch(schema.read_sql("checks/types.sql"))


async def forget_plans(connection: asyncpg.Connection | PoolConnectionProxy) -> None:
    """Have statements planned anew.

    A plan is kept until the tables are analyzed, also one that was made while they, or a
    tenant's part of them, were so small that any index would do.
    """
    await connection.execute("DISCARD PLANS")


async def _no_reset(connection: object) -> None:
    """Spare a round trip: there is no session state to reset."""
