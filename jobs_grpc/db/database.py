"""The database, once it has proved ready: one statement a call."""

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db.connections import CONNECT_TIMEOUT, Connections
from jobs_grpc.db.fair_semaphore import FairSemaphore
from jobs_grpc.db.pg_errors import (
    CONNECTION_LOST,
    is_missing_prepared_statement,
    is_outage,
    is_unavailable,
)
from jobs_grpc.db.readiness import NotIsolated, NotReady, prove_ready
from jobs_grpc.errors import DatabaseUnavailable, LockTimeout

Row = asyncpg.Record

PgMicros: TypeAlias = int
"""A timestamptz, here and above: microseconds since 2000-01-01, as PostgreSQL counts."""

_PROBE_TIMEOUT = 3.0

_POOLED = (
    "a pooler that does not track prepared statements stands in between:"
    " set JOBS_STATEMENT_CACHE_SIZE=0"
)


class Database:
    """Connections that are made once the database has proved ready, and survive its restarts.

    Tenants take turns for them.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._slots = FairSemaphore(config.pool.max_size)
        self._connections: Connections | None = None
        self._probe: asyncpg.Connection | None = None

    async def fetch(self, sql: str, tenant_id: str, *args: object) -> Sequence[Row]:
        """Run one statement for the tenant that is its first argument, in its own transaction.

        Raises DatabaseUnavailable (LockTimeout is one), Overloaded if no connection came free
        in time, and asyncpg.PostgresError for what the statement itself raised.
        """
        async with self._slots.slot(tenant_id, self._config.pool.timeout):
            connections = self._connections
            if connections is None:
                raise DatabaseUnavailable from NotReady("the database has not proved ready")
            borrowed = await connections.borrow()
            intact = False
            try:
                rows: list[Row] = await borrowed.connection.fetch(sql, tenant_id, *args)
                intact = True
            except Exception as e:
                # A refusal of the statement says nothing against the connection.
                intact = isinstance(e, asyncpg.PostgresError) and not is_outage(e)
                if isinstance(e, asyncpg.LockNotAvailableError):
                    raise LockTimeout from e
                if is_missing_prepared_statement(e):
                    raise DatabaseUnavailable from NotReady(_POOLED)
                if is_unavailable(e):
                    raise DatabaseUnavailable from e
                raise
            finally:
                await connections.give_back(borrowed, intact=intact)
            return rows

    async def check(self) -> None:
        """Connect if the database answers, its schema is current and it isolates.

        Raises NotReady, or NotIsolated after it has cut off all calls. Uses a connection of
        its own, so that load on the others does not read as an outage. To be called once a
        second.
        """
        try:
            if self._probe is None or self._probe.is_closed():
                self._probe = await self._connect()
            async with asyncio.timeout(_PROBE_TIMEOUT):
                await prove_ready(self._probe)
            if self._connections is None:
                self._connections = await Connections.open(self._config)
            self._connections.put_away()
        except NotIsolated:
            if self._connections is not None:
                self._connections.terminate()
                self._connections = None
            raise
        except (*CONNECTION_LOST, TimeoutError, asyncpg.PostgresError) as e:
            self._drop_probe()
            if is_missing_prepared_statement(e):
                raise NotReady(_POOLED) from e
            answers = isinstance(e, asyncpg.PostgresError) and not is_unavailable(e)
            what = "can't be used" if answers else "does not answer"
            raise NotReady(f"the database {what}: {str(e) or type(e).__name__}") from e

    async def close(self) -> None:
        """Close all connections, in use or not."""
        self._drop_probe()
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            self._config.database.url,
            timeout=CONNECT_TIMEOUT,
            command_timeout=_PROBE_TIMEOUT,
            statement_cache_size=self._config.database.statement_cache_size,
        )

    def _drop_probe(self) -> None:
        if self._probe is not None:
            self._probe.terminate()
            self._probe = None
