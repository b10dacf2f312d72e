"""Runs the SQL statements that serve calls, after the first readiness check that passes."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TypeAlias

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db import citus
from jobs_grpc.db.connect import SERVER, connect
from jobs_grpc.db.connection_pool import ConnectionPool
from jobs_grpc.db.interrupted_statements import fetch_with_repeats
from jobs_grpc.db.outage import Outage, describe
from jobs_grpc.db.pg_errors import (
    CONNECTION_LOST,
    is_outage,
    is_prepared_statement_mismatch,
    is_retryable,
    is_schema_error,
)
from jobs_grpc.db.readiness import (
    DatabaseUnresponsive,
    NotIsolated,
    NotReady,
    SchemaMismatch,
    check_ready,
)
from jobs_grpc.errors import (
    DatabaseUnavailable,
    JobsError,
    LockTimeout,
    QueryTimeout,
    SchemaNotCurrent,
)
from jobs_grpc.observability import tracing
from jobs_grpc.observability.histogram import Histogram

logger = logging.getLogger(__name__)

Row = asyncpg.Record

PgMicros: TypeAlias = int
"""A timestamptz as PostgreSQL sends it: microseconds since 2000-01-01 UTC."""

_CHECK_TIMEOUT = 3.0
# Between two checks of the isolation on all nodes of a Citus cluster.
_NODES_CHECK_SECONDS = 10.0

# Buckets of the time that statements take, in seconds.
_STATEMENT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)

# The connection pool counts statements for several tenants as those of one additional tenant.
_SEVERAL_TENANTS = ""

_POOLER_PROBLEM = (
    "a connection pooler does not track prepared statements: set JOBS_STATEMENT_CACHE_SIZE=0"
)


class Database:
    """The connections of the request role, which tenants take turns to use.

    They open after the first readiness check that passes, and survive restarts of the database.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.pool: ConnectionPool | None = None
        """The connections that serve calls; None before the first readiness check that passes."""
        self._check_connection: asyncpg.Connection | None = None
        self._next_check_of_nodes = 0.0
        # What the last check found.
        self._problem: NotReady | None = None
        self.is_distributed = False
        """Whether Citus distributes the tenants over nodes. False before the first check."""
        self.outage = Outage()
        self.statement_seconds = Histogram(_STATEMENT_SECONDS) if config.metrics.listen else None

    async def fetch(self, sql: str, tenant_id: str, *args: object) -> Sequence[Row]:
        """Run one statement in its own transaction. The tenant is its first argument.

        Raises DatabaseUnavailable (also as LockTimeout), QueryTimeout, SchemaNotCurrent,
        Overloaded if no connection becomes free in time, and asyncpg.PostgresError for errors of
        the statement itself.
        """
        return await self._fetch(tenant_id, sql, tenant_id, *args)

    async def fetch_for_tenants(
        self, sql: str, tenant_ids: Sequence[str], *args: object
    ) -> Sequence[Row]:
        """Like `fetch`, for several tenants: the sorted `tenant_ids` are the first argument."""
        pool_tenant = tenant_ids[0] if tenant_ids[0] == tenant_ids[-1] else _SEVERAL_TENANTS
        return await self._fetch(pool_tenant, sql, tenant_ids, *args)

    async def _fetch(self, pool_tenant: str, sql: str, *args: object) -> Sequence[Row]:
        pool = self.pool
        if pool is None:
            if isinstance(self._problem, SchemaMismatch):
                raise SchemaNotCurrent from self._problem
            raise DatabaseUnavailable from self._problem
        try:
            pooled = await pool.acquire(pool_tenant)
        except DatabaseUnavailable as e:
            if isinstance(e.__cause__, Exception) and is_outage(e.__cause__):
                self.outage.note_failure(e.__cause__)
            raise
        span = tracing.start_statement(sql)
        started = time.perf_counter() if self.statement_seconds else 0.0
        try:
            try:
                rows = await fetch_with_repeats(
                    pooled.connection, self._config.database.query_timeout, sql, *args
                )
            finally:
                if self.statement_seconds:
                    self.statement_seconds.observe(time.perf_counter() - started)
        except Exception as e:
            if span is not None:
                tracing.end_statement(span, e)
            # After an error of the statement itself, the connection is intact.
            if isinstance(e, asyncpg.PostgresError) and not is_outage(e):
                pool.release(pool_tenant, pooled)
                responds = True
            else:
                responds = await pool.recover(pool_tenant, pooled)
            if unavailable := self._unavailable(sql, e, responds=responds):
                raise unavailable from e
            raise
        except BaseException as e:
            if span is not None:
                tracing.end_statement(span, e)
            await pool.recover(pool_tenant, pooled)
            raise
        if span is not None:
            tracing.end_statement(span)
        pool.release(pool_tenant, pooled)
        return rows

    def _unavailable(self, sql: str, error: Exception, *, responds: bool) -> JobsError | None:
        """Return what to raise instead of `error`; None if it is an error of the statement itself.

        Logs it, except LockTimeout, which the update batcher expects.
        """
        if isinstance(error, asyncpg.LockNotAvailableError):
            return LockTimeout()
        if isinstance(error, TimeoutError) and responds:
            limit = self._config.database.query_timeout
            logger.warning("a statement exceeded JOBS_QUERY_TIMEOUT (%g s): %s", limit, sql)
            return QueryTimeout(limit)
        if is_prepared_statement_mismatch(error):
            self.outage.note_failure(_POOLER_PROBLEM)
            return DatabaseUnavailable()
        if is_outage(error):
            self.outage.note_failure(error)
            return DatabaseUnavailable()
        if is_retryable(error):
            logger.warning("a statement failed with UNAVAILABLE: %s: %s", describe(error), sql)
            return DatabaseUnavailable()
        if isinstance(self._problem, SchemaMismatch) and is_schema_error(error):
            return SchemaNotCurrent()
        return None

    async def check(self) -> None:
        """Check that the database responds, has the current schema and isolates tenants.

        Opens the connections when the check first passes. Raises NotReady, or NotIsolated after
        it has closed all connections. Uses a separate connection, so that load on the others
        does not look like an outage. Also closes connections that have been idle for long, so
        call it about once a second.
        """
        asked_at = time.monotonic()
        try:
            await self._check()
        except NotReady as e:
            self._problem = e
            if not isinstance(e, DatabaseUnresponsive):
                self.outage.note_response(asked_at)
            raise
        self._problem = None
        self.outage.note_response(asked_at)

    async def _check(self) -> None:
        try:
            if self._check_connection is None or self._check_connection.is_closed():
                self._check_connection = await self._connect()
            async with asyncio.timeout(_CHECK_TIMEOUT):
                # On Citus, this opens a connection to each node.
                now = time.monotonic()
                all_nodes = self.pool is None or now >= self._next_check_of_nodes
                await check_ready(self._check_connection, all_nodes=all_nodes)
                if all_nodes:
                    self._next_check_of_nodes = now + _NODES_CHECK_SECONDS
            if self.pool is None:
                self.is_distributed = await citus.is_installed(self._check_connection)
                pool = ConnectionPool(self._config)
                await pool.open()
                self.pool = pool
            await self.pool.close_unused()
        except NotIsolated:
            if self.pool is not None:
                self.pool.terminate()
                self.pool = None
            raise
        except (*CONNECTION_LOST, TimeoutError, asyncpg.PostgresError) as e:
            self._drop_check_connection()
            if is_prepared_statement_mismatch(e):
                raise NotReady(_POOLER_PROBLEM) from e
            if isinstance(e, asyncpg.PostgresError) and not is_retryable(e):
                raise NotReady(f"the database can't be used: {describe(e)}") from e
            self.outage.note_failure(e)
            raise DatabaseUnresponsive(f"the database does not respond: {describe(e)}") from e

    async def close(self) -> None:
        """Close all connections. Running statements get a few seconds to finish."""
        self._drop_check_connection()
        pool, self.pool = self.pool, None
        if pool is not None:
            await pool.close()

    async def _connect(self) -> asyncpg.Connection:
        connection = await connect(
            self._config.database.url,
            command_timeout=_CHECK_TIMEOUT,
            statement_cache_size=self._config.database.statement_cache_size,
        )
        try:
            self._note_server(await connection.fetchval(SERVER))
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _note_server(self, server: str) -> None:
        """Close the connections to the previous server if this is another one.

        If its machine is lost, their statements would wait for their timeouts.
        """
        if self.pool is not None:
            self.pool.abort_others(server)
        self.outage.note_server(server)

    def _drop_check_connection(self) -> None:
        if self._check_connection is not None:
            self._check_connection.terminate()
            self._check_connection = None
