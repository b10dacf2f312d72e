"""Runs the SQL statements that serve calls, after the first readiness check that passes."""

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db.connection_pool import CONNECT_TIMEOUT, ConnectionPool
from jobs_grpc.db.pg_errors import (
    CONNECTION_LOST,
    is_outage,
    is_prepared_statement_mismatch,
    is_retryable,
)
from jobs_grpc.db.readiness import NotIsolated, NotReady, check_ready
from jobs_grpc.errors import DatabaseUnavailable, LockTimeout

Row = asyncpg.Record

PgMicros: TypeAlias = int
"""A timestamptz as PostgreSQL sends it: microseconds since 2000-01-01 UTC."""

_CHECK_TIMEOUT = 3.0

_POOLER_PROBLEM = (
    "a connection pooler does not track prepared statements: set JOBS_STATEMENT_CACHE_SIZE=0"
)


class Database:
    """The connections of the request role, which tenants take turns to use.

    They open after the first readiness check that passes, and survive restarts of the database.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pool: ConnectionPool | None = None
        self._check_connection: asyncpg.Connection | None = None

    async def fetch(self, sql: str, tenant_id: str, *args: object) -> Sequence[Row]:
        """Run one statement in its own transaction. The tenant is its first argument.

        Raises DatabaseUnavailable (also as LockTimeout), Overloaded if no connection becomes
        free in time, and asyncpg.PostgresError for errors of the statement itself.
        """
        pool = self._pool
        if pool is None:
            raise DatabaseUnavailable from NotReady("no readiness check has passed yet")
        pooled = await pool.acquire(tenant_id)
        reusable = False
        try:
            rows: list[Row] = await pooled.connection.fetch(sql, tenant_id, *args)
            reusable = True
        except Exception as e:
            # After an error of the statement itself, the connection is intact.
            reusable = isinstance(e, asyncpg.PostgresError) and not is_outage(e)
            if isinstance(e, asyncpg.LockNotAvailableError):
                raise LockTimeout from e
            if is_prepared_statement_mismatch(e):
                raise DatabaseUnavailable from NotReady(_POOLER_PROBLEM)
            if is_retryable(e):
                raise DatabaseUnavailable from e
            raise
        finally:
            if reusable:
                pool.release(tenant_id, pooled)
            else:
                await pool.recover(tenant_id, pooled)
        return rows

    async def check(self) -> None:
        """Check that the database responds, has the current schema and isolates tenants.

        Opens the connections when the check first passes. Raises NotReady, or NotIsolated after
        it has closed all connections. Uses a separate connection, so that load on the others
        does not look like an outage. Also closes connections that have been idle for long, so
        call it about once a second.
        """
        try:
            if self._check_connection is None or self._check_connection.is_closed():
                self._check_connection = await self._connect()
            async with asyncio.timeout(_CHECK_TIMEOUT):
                await check_ready(self._check_connection)
            if self._pool is None:
                pool = ConnectionPool(self._config)
                await pool.open()
                self._pool = pool
            await self._pool.close_unused()
        except NotIsolated:
            if self._pool is not None:
                self._pool.terminate()
                self._pool = None
            raise
        except (*CONNECTION_LOST, TimeoutError, asyncpg.PostgresError) as e:
            self._drop_check_connection()
            if is_prepared_statement_mismatch(e):
                raise NotReady(_POOLER_PROBLEM) from e
            responds = isinstance(e, asyncpg.PostgresError) and not is_retryable(e)
            problem = "can't be used" if responds else "does not respond"
            raise NotReady(f"the database {problem}: {str(e) or type(e).__name__}") from e

    async def close(self) -> None:
        """Close all connections. Running statements get a few seconds to finish."""
        self._drop_check_connection()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            self._config.database.url,
            timeout=CONNECT_TIMEOUT,
            command_timeout=_CHECK_TIMEOUT,
            statement_cache_size=self._config.database.statement_cache_size,
        )

    def _drop_check_connection(self) -> None:
        if self._check_connection is not None:
            self._check_connection.terminate()
            self._check_connection = None
