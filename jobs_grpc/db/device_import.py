"""Loading devices and group memberships into the platform's tables, as the owner."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import asyncpg

from jobs_grpc.db import schema

_BATCH = 5000


@dataclass(frozen=True, slots=True)
class Member:
    """A device, and possibly a group that it belongs to."""

    device_id: str
    group_id: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """How many rows of each table were new."""

    devices: int
    memberships: int


async def import_devices(owner_dsn: str, tenant_id: str, members: Iterable[Member]) -> Imported:
    """Add what is not there yet, in one transaction: all of `members` or, on any error, none.

    `members` is read as it is sent, so it may be larger than memory; what it raises ends
    the import. A device may come more than once, with different groups.
    """
    connection = await asyncpg.connect(owner_dsn, timeout=10)
    try:
        async with connection.transaction():
            # For a platform whose row-level security holds for the owner, too.
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant_id)
            await connection.execute(schema.read_sql("import/begin.sql"))
            rows = ((m.device_id, m.group_id) for m in members)
            while batch := list(itertools.islice(rows, _BATCH)):
                await connection.copy_records_to_table("jobs_import", records=batch)
            return Imported(
                await _insert(connection, "import/devices.sql", tenant_id),
                await _insert(connection, "import/memberships.sql", tenant_id),
            )
    finally:
        await connection.close()


async def _insert(connection: asyncpg.Connection, name: str, tenant_id: str) -> int:
    """Run sql/`name` for the tenant and return how many rows were new."""
    tag = await connection.execute(schema.read_sql(name), tenant_id)  # "INSERT 0 12"
    return int(tag.rpartition(" ")[2])
