"""Connections of the owner, for background work across tenants."""

import asyncio
import weakref
from collections.abc import Sequence
from typing import Any

import asyncpg

from jobs_grpc.db.connect import abort, connect
from jobs_grpc.db.interrupted_statements import fetch_with_repeats
from jobs_grpc.db.outage import Outage
from jobs_grpc.db.pg_errors import is_retryable

_ACQUIRE_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 5.0


class NotTheOwner(Exception):
    """The login is subject to row-level security, so searches across tenants find nothing."""


class StatementTimedOut(Exception):
    """One statement was too slow and was canceled; database and session are intact."""


def is_transient(error: Exception) -> bool:
    """Whether a later attempt of the statement can succeed, so that the error is not a bug."""
    timeouts = (StatementTimedOut, asyncpg.LockNotAvailableError)
    return isinstance(error, timeouts) or is_retryable(error)


class OwnerPool:
    """At most `max_size` connections, inside `async with`. They open on first use.

    When `outage` notes that the database is on another server, they are closed at once.
    """

    def __init__(
        self,
        owner_dsn: str,
        *,
        max_size: int,
        statement_timeout: float,
        statement_cache_size: int = 100,
        outage: Outage | None = None,
    ) -> None:
        self._owner_dsn = owner_dsn
        self._max_size = max_size
        self._statement_timeout = statement_timeout
        self._statement_cache_size = statement_cache_size
        self._open: weakref.WeakSet[asyncpg.Connection] = weakref.WeakSet()
        if outage:
            outage.on_new_server(self._abort_all)

    async def __aenter__(self) -> "OwnerPool":
        # The type of asyncpg's stubs has each option of `connect` by name.
        connect_to_host: Any = self._connect
        self._pool = await asyncpg.create_pool(
            self._owner_dsn,
            connect=connect_to_host,
            min_size=0,
            max_size=self._max_size,
            command_timeout=self._statement_timeout,
            statement_cache_size=self._statement_cache_size,
            init=_check_owner,
            reset=_no_reset,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.wait_for(self._pool.close(), _CLOSE_TIMEOUT)
        except TimeoutError:
            self._pool.terminate()

    async def fetch(self, sql: str, *args: object) -> Sequence[asyncpg.Record]:
        """Run one statement in its own transaction.

        Raises NotTheOwner, StatementTimedOut, and what asyncpg raises if the database is
        unavailable.
        """
        async with self._pool.acquire(timeout=_ACQUIRE_TIMEOUT) as connection:
            try:
                return await fetch_with_repeats(connection, self._statement_timeout, sql, *args)
            except TimeoutError as e:
                # If the database does not respond to the cancel request either, releasing the
                # connection raises a TimeoutError in place of this.
                raise StatementTimedOut(f"no response in {self._statement_timeout:g} s") from e

    async def _connect(self, dsn: str, **options: Any) -> asyncpg.Connection:
        connection = await connect(dsn, **options)
        self._open.add(connection)
        return connection

    def _abort_all(self) -> None:
        for connection in self._open:
            abort(connection)


async def _check_owner(connection: asyncpg.Connection) -> None:
    if await connection.fetchval("SELECT row_security_active('jobs.jobs')"):
        raise NotTheOwner(
            "the login of JOBS_OWNER_DATABASE_URL is subject to row-level security; use the owner"
            " of the tables"
        )


async def _no_reset(connection: object) -> None:
    """Skip the pool's reset, which costs a round trip. The session has no state to reset."""
