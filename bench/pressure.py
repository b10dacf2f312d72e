"""What other programs do in a database, and what PostgreSQL then cannot remove.

Each pressure is a login without privileges in the tables of the service, except to read them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeAlias

import asyncpg

from bench.environment import Environment

SETTINGS = ("wal_level=logical",)
"""The settings of PostgreSQL that the pressures need."""

_LOGIN = "analyst"
_CREATE_LOGIN = f"""
    DO $$ BEGIN
        IF to_regrole('{_LOGIN}') IS NULL THEN
            CREATE ROLE {_LOGIN} LOGIN REPLICATION IN ROLE pg_read_all_data;
        END IF;
    END $$
"""
_READERS = 4
_READER_PAUSE = 1.0
_SLOT = "unread"

Pressure: TypeAlias = Callable[[Environment, str], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _idle_transaction(env: Environment, tenant: str) -> AsyncIterator[None]:
    """Leave a transaction open that has an id, as after a write. Dead rows cannot be removed."""
    async with _login(env) as connection, connection.transaction():
        await connection.execute("SELECT pg_current_xact_id()")
        yield


@asynccontextmanager
async def _endless_readers(env: Environment, tenant: str) -> AsyncIterator[None]:
    """Count the executions again and again, in transactions with one snapshot each."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        readers = []
        for _ in range(_READERS):
            connection = await stack.enter_async_context(_login(env))
            await connection.execute("SELECT set_config('app.tenant_id', $1, false)", tenant)
            readers.append(tasks.create_task(_read_on(connection)))
        yield
        for reader in readers:
            reader.cancel()


async def _read_on(connection: asyncpg.Connection) -> None:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        while True:
            await connection.execute("SELECT count(*) FROM jobs.job_executions")
            await asyncio.sleep(_READER_PAUSE)


@asynccontextmanager
async def _unread_slot(env: Environment, tenant: str) -> AsyncIterator[None]:
    """Create a replication slot that nothing reads. WAL cannot be removed."""
    async with _login(env) as connection:
        await connection.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", _SLOT)
        yield
        await connection.execute("SELECT pg_drop_replication_slot($1)", _SLOT)


@asynccontextmanager
async def _login(env: Environment) -> AsyncIterator[asyncpg.Connection]:
    await env.owner.execute(_CREATE_LOGIN)
    connection = await asyncpg.connect(env.cluster.dsn("jobs", _LOGIN))
    yield connection
    await connection.close()


PRESSURES: Mapping[str, Pressure] = {
    "idle-transaction": _idle_transaction,
    "endless-readers": _endless_readers,
    "unread-slot": _unread_slot,
}
"""The pressures by name."""
