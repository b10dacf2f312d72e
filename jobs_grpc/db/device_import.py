"""Imports devices and group memberships into the platform's tables, as the owner."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import asyncpg

from jobs_grpc.db import schema

_ROWS_PER_COPY = 5000


@dataclass(frozen=True, slots=True)
class Member:
    """A device, and optionally a group that it belongs to."""

    device_id: str
    group_id: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """The number of rows that the import added to each table."""

    devices: int
    memberships: int
    warnings: Sequence[str]
    """Of PostgreSQL, if the login may not update the statistics of the tables."""


async def import_devices(owner_dsn: str, tenant_id: str, members: Iterable[Member]) -> Imported:
    """Add the devices and memberships that don't exist, in one transaction; then run ANALYZE.

    If the transaction fails, nothing is added. `members` is read while it is sent, so it may be
    larger than memory; errors that it raises end the import. A device may occur several times,
    with different groups.
    """
    connection = await asyncpg.connect(owner_dsn, timeout=10)
    try:
        async with connection.transaction():
            # The platform's tables can force row-level security on their owner: set the tenant.
            # On Citus, on all nodes: it sends SET LOCAL to them, but not set_config.
            await connection.execute("SET LOCAL citus.propagate_set_commands = 'local'")
            set_tenant = "SELECT format('SET LOCAL app.tenant_id = %L', $1::text)"
            await connection.execute(await connection.fetchval(set_tenant, tenant_id))
            await connection.execute(schema.read_sql("import/begin.sql"))
            rows = ((m.device_id, m.group_id) for m in members)
            while batch := list(itertools.islice(rows, _ROWS_PER_COPY)):
                await connection.copy_records_to_table("jobs_import", records=batch)
            devices = await _insert(connection, "import/devices.sql", tenant_id)
            memberships = await _insert(connection, "import/memberships.sql", tenant_id)
        # Autovacuum does it as well, but only after a minute or later. PostgreSQL skips, with a
        # warning, a table that the login may not analyze.
        warnings: list[str] = []
        connection.add_log_listener(lambda _, message: warnings.append(message.message))
        if devices:
            await connection.execute("ANALYZE public.device_state")
        if memberships:
            await connection.execute("ANALYZE public.device_group_members")
        return Imported(devices, memberships, warnings)
    finally:
        await connection.close()


async def _insert(connection: asyncpg.Connection, name: str, tenant_id: str) -> int:
    """Run sql/`name` for the tenant and return the number of rows that it inserted.

    Counts the rows that it returns: on Citus, the command tag also counts those that existed.
    """
    inserted = 0
    async for _ in connection.cursor(schema.read_sql(name), tenant_id, prefetch=_ROWS_PER_COPY):
        inserted += 1
    return inserted
