"""The connection pool, and whether the database behind it may be used."""

import asyncio
import logging
import operator
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from jobs_grpc import schema
from jobs_grpc.config import Config
from jobs_grpc.errors import DatabaseUnavailable, LockTimeout, Overloaded
from jobs_grpc.fair import FairSlots

logger = logging.getLogger(__name__)

Row = asyncpg.Record

Moment: TypeAlias = int
"""A timestamptz, here and above: microseconds since 2000-01-01, as PostgreSQL counts."""

_CONNECT_TIMEOUT = 5.0
_PROBE_TIMEOUT = 3.0
_CLOSE_TIMEOUT = 5.0

# Seconds for which a connection is kept out of the pool.
_AT_HAND = 1.0

# SQLSTATE classes and codes that speak of the server's condition, not of the statement:
# connection exceptions, insufficient resources, shutdown and start, system errors,
# read-only after a failover.
_OUTAGE = ("08", "53", "57P", "58", "25006")

# Those of a statement that may succeed the next time: canceled, serialization failure, deadlock.
_TRANSIENT = ("57014", "40001", "40P01")

# What a lost connection can surface as. InternalClientError: asyncpg caught in mid-switch.
_CONNECTION_LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def is_unavailable(error: Exception) -> bool:
    """Whether what an error of the driver speaks of may be over the next time."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in _TRANSIENT:
        return True
    return is_outage(error)


def is_outage(error: Exception) -> bool:
    """Whether an error of the driver speaks of the server or the way there, not of the SQL.

    A TimeoutError does: whoever can tell that it was the statement has to say so.
    """
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_OUTAGE)
    # asyncpg's own DataError is an InterfaceError, too: an argument of a wrong type, our defect.
    return isinstance(error, (*_CONNECTION_LOST, TimeoutError)) and not isinstance(
        error, ValueError
    )


class NotReady(Exception):
    """The database can't be used yet; the message says why."""


class NotIsolated(Exception):
    """Row-level security would not hold the request role to one tenant."""


class Database:
    """A pool that opens once the database has proved ready, and survives its restarts.

    Tenants take turns for its connections.

    No statement leaves anything behind in its session, so connections are not reset
    between uses and a transaction pooler may stand in between.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._slots = FairSlots(config.pool_max_size)
        self._pool: asyncpg.Pool | None = None
        # To give a connection back and have it again takes as long as an eighth of a small call.
        self._at_hand: list[_Borrowed] = []
        self._put_aways: set[asyncio.Task[None]] = set()
        self._probe: asyncpg.Connection | None = None

    async def fetch(self, sql: str, tenant_id: str, *args: object) -> Sequence[Row]:
        """Run one statement for the tenant that is its first argument, in its own transaction.

        Raises DatabaseUnavailable (LockTimeout is one), Overloaded if no connection came free
        in time, and asyncpg.PostgresError for what the statement itself raised.
        """
        async with self._slots.slot(tenant_id, self._config.pool_timeout):
            pool = self._pool
            if pool is None:
                raise DatabaseUnavailable from NotReady("the database has not proved ready")
            return await self._fetch(pool, sql, tenant_id, *args)

    async def _fetch(self, pool: asyncpg.Pool, sql: str, *args: object) -> Sequence[Row]:
        borrowed = self._idle() or _Borrowed(await self._acquire(pool))
        intact = False
        try:
            rows: list[Row] = await borrowed.connection.fetch(sql, *args)
            intact = True
        except Exception as e:
            # A refusal of the statement says nothing against the connection.
            intact = isinstance(e, asyncpg.PostgresError) and not is_outage(e)
            if isinstance(e, asyncpg.LockNotAvailableError):
                raise LockTimeout from e
            if is_unavailable(e):
                raise DatabaseUnavailable from e
            raise
        finally:
            if not intact or pool is not self._pool:
                await _give_back(pool, borrowed.connection)
            else:
                self._keep(pool, borrowed)
        return rows

    def _idle(self) -> "_Borrowed | None":
        """One that is at hand, unless it was closed meanwhile."""
        while self._at_hand:
            borrowed = self._at_hand.pop()
            # What closes is no longer the pool's, and refuses to be asked.
            with suppress(asyncpg.InterfaceError):
                if not borrowed.connection.is_closed():
                    return borrowed
        return None

    def _keep(self, pool: asyncpg.Pool, borrowed: "_Borrowed") -> None:
        """Have a connection at hand, or give it back to the pool once that is due.

        The pool closes what is not used for long. Nobody waits for it, as it may not answer.
        """
        if not borrowed.is_due():
            self._at_hand.append(borrowed)
            return
        task = asyncio.create_task(_retire(pool, borrowed.connection))
        self._put_aways.add(task)
        task.add_done_callback(self._put_aways.discard)

    async def _acquire(self, pool: asyncpg.Pool) -> PoolConnectionProxy:
        try:
            return await pool.acquire(timeout=self._config.pool_timeout)
        except TimeoutError as e:
            # Full all the same while a connection is being given back.
            full = pool.get_size() - pool.get_idle_size() >= pool.get_max_size()
            raise (Overloaded() if full else DatabaseUnavailable()) from e
        except (*_CONNECTION_LOST, asyncpg.PostgresError) as e:
            raise DatabaseUnavailable from e

    async def check(self) -> None:
        """Open the pool if the database answers, its schema is current and it isolates.

        Raises NotReady, or NotIsolated after it has cut off all calls. Uses a connection of
        its own, so that load on the pool does not read as an outage. To be called once a second.
        """
        try:
            if self._probe is None or self._probe.is_closed():
                self._probe = await self._connect()
            async with asyncio.timeout(_PROBE_TIMEOUT):
                await _check_privileges(self._probe, "checks/schema_usage.sql")
                await _check_isolation(self._probe)
                await _check_schema(self._probe)
                await _check_privileges(self._probe, "checks/privileges.sql")
            if self._pool is None:
                self._pool = await self._open_pool()
            at_hand, self._at_hand = self._at_hand, []
            for borrowed in at_hand:
                self._keep(self._pool, borrowed)
        except NotIsolated:
            if self._pool is not None:
                self._pool.terminate()
                self._pool = None
                self._at_hand.clear()
            raise
        except (*_CONNECTION_LOST, TimeoutError, asyncpg.PostgresError) as e:
            await self._drop_probe()
            answers = isinstance(e, asyncpg.PostgresError) and not is_unavailable(e)
            what = "can't be used" if answers else "does not answer"
            raise NotReady(f"the database {what}: {str(e) or type(e).__name__}") from e

    async def close(self) -> None:
        """Close all connections, in use or not."""
        await self._drop_probe()
        pool, self._pool = self._pool, None
        if pool is None:
            return
        while borrowed := self._idle():
            await _give_back(pool, borrowed.connection)
        try:
            await asyncio.wait_for(pool.close(), _CLOSE_TIMEOUT)
        except TimeoutError:
            pool.terminate()
        if self._put_aways:
            await asyncio.wait(self._put_aways)

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            self._config.database_url,
            timeout=_CONNECT_TIMEOUT,
            command_timeout=_PROBE_TIMEOUT,
            statement_cache_size=self._config.statement_cache_size,
        )

    async def _open_pool(self) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            self._config.database_url,
            min_size=self._config.pool_min_size,
            max_size=self._config.pool_max_size,
            timeout=_CONNECT_TIMEOUT,
            command_timeout=self._config.query_timeout,
            statement_cache_size=self._config.statement_cache_size,
            init=set_types,
            reset=_no_reset,
        )

    async def _drop_probe(self) -> None:
        if self._probe is not None:
            self._probe.terminate()
            self._probe = None


@dataclass(frozen=True, slots=True)
class _Borrowed:
    """A connection of the pool's that stays at hand between uses, for a while."""

    connection: PoolConnectionProxy
    since: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        """Whether it is to go back, also if it is always in use: its plans get old."""
        return time.monotonic() - self.since > _AT_HAND


async def _retire(pool: asyncpg.Pool, connection: PoolConnectionProxy) -> None:
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT):
            await forget_plans(connection)
    except (*_CONNECTION_LOST, TimeoutError, asyncpg.PostgresError) as e:
        logger.warning("plans could not be forgotten: %r", e)
    finally:
        await _give_back(pool, connection)


async def _give_back(pool: asyncpg.Pool, connection: PoolConnectionProxy) -> None:
    """Release a connection, also one that no longer answers: that one is closed instead."""
    try:
        await pool.release(connection, timeout=_PROBE_TIMEOUT)
    except (*_CONNECTION_LOST, TimeoutError) as e:
        logger.warning("a connection was given up: %r", e)


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


async def _check_isolation(connection: asyncpg.Connection) -> None:
    problems = await connection.fetch(
        schema.read_sql("checks/isolation.sql"), list(schema.TENANT_TABLES)
    )
    if problems:
        what = "; ".join(row["problem"] for row in problems)
        remedy = " ".join(f"{row['remedy']};" for row in problems)
        raise NotIsolated(f"tenants are not isolated: {what}. To mend it: {remedy}")


async def _check_schema(connection: asyncpg.Connection) -> None:
    try:
        current = await connection.fetchval(
            schema.read_sql("checks/schema.sql"),
            [migration.version for migration in schema.migrations()],
            [migration.checksum for migration in schema.migrations()],
            schema.code_checksum(),
        )
    except (
        asyncpg.InvalidSchemaNameError,
        asyncpg.UndefinedTableError,
        asyncpg.InsufficientPrivilegeError,
    ):
        current = False
    if not current:
        raise NotReady("the schema is not current for this version: run `jobs-grpc migrate`")


async def _check_privileges(connection: asyncpg.Connection, check: str) -> None:
    missing = await connection.fetch(schema.read_sql(check))
    if missing:
        remedy = " ".join(f"{row['remedy']};" for row in missing)
        raise NotReady(f"the request role lacks privileges; let the tables' owner run: {remedy}")
