"""Imports devices, their groups, labels and time zones, as the owner of the tables."""

import itertools
import json
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import asyncpg

from jobs_grpc.contract.dot_segments import DOT_SEGMENT_PROBLEM, has_dot_segment
from jobs_grpc.db import schema
from jobs_grpc.db.connect import connect

_ROWS_PER_COPY = 5000
_MAX_NAMED = 20


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A line of the file: a device, and optionally one of its groups, its time zone and labels."""

    device_id: str
    group_id: str | None = None
    time_zone: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class TooManyLabels(Exception):
    """A device would have too many labels. The message names up to 20 devices."""


class DotSegments(Exception):
    """New devices would have IDs with dot segments. The message names up to 20 of them."""


class TooManyDevices(Exception):
    """The tenant would have too many devices."""


@dataclass(frozen=True, slots=True)
class Imported:
    """The number of rows that the import added to each table."""

    devices: int
    memberships: int
    changed: int
    """The devices whose labels or time zone are new or have changed."""
    warnings: list[str] = field(default_factory=list)
    """Of PostgreSQL, if the login may not update the statistics of the tables."""


async def import_devices(
    owner_dsn: str,
    tenant_id: str,
    rows: Iterable[DeviceRow],
    max_devices: int | None = None,
    on_commit: Callable[[Imported], None] = lambda _: None,
) -> Imported:
    """Add devices and memberships, and merge labels, in one transaction; then run ANALYZE.

    If the transaction fails, nothing changes. `on_commit` is called before ANALYZE. `rows` is read
    while it is sent, so it may be larger than memory; errors that it raises end the import. A
    device may occur several times, with different groups; the last value of a label and the last
    time zone count. Raises DotSegments, TooManyLabels, and TooManyDevices if the tenant would have
    more than `max_devices`.
    """
    connection = await connect(owner_dsn, timeout=10)
    try:
        async with connection.transaction():
            # The platform's tables can force row-level security on their owner: set the tenant.
            # On Citus, on all nodes: it sends SET LOCAL to them, but not set_config.
            await connection.execute("SET LOCAL citus.propagate_set_commands = 'local'")
            set_tenant = "SELECT format('SET LOCAL app.tenant_id = %L', $1::text)"
            await connection.execute(await connection.fetchval(set_tenant, tenant_id))
            await connection.execute(schema.read_sql("import/begin.sql"))
            has_labels = False
            records = _records(rows)
            while batch := list(itertools.islice(records, _ROWS_PER_COPY)):
                has_labels = has_labels or any(zone or labels for *_, zone, labels in batch)
                await connection.copy_records_to_table("jobs_import", records=batch)
            devices = await _insert_devices(connection, tenant_id)
            memberships = await _insert(connection, "import/memberships.sql", tenant_id)
            changed = 0
            # Without labels, the login needs no privileges on jobs.devices.
            if has_labels:
                changed = await _insert(connection, "import/labels.sql", tenant_id)
                await _check_label_counts(connection, tenant_id)
            may_insert = schema.read_sql("import/may_insert.sql")
            if devices and await connection.fetchval(may_insert, "device_counts"):
                change = "SELECT jobs.change_device_count($1, $2)"
                count = await connection.fetchval(change, tenant_id, devices)
                if None not in (count, max_devices) and count > max_devices:
                    raise TooManyDevices(f"the tenant would have {count:,} devices")
            # Without the privilege, the devices join continuous jobs at the next full scan.
            if (devices or memberships or changed) and await connection.fetchval(
                may_insert, "device_changes"
            ):
                await connection.execute(schema.read_sql("import/note.sql"), tenant_id)
        imported = Imported(devices, memberships, changed)
        on_commit(imported)
        # Autovacuum does it as well, but only after a minute or later. PostgreSQL skips, with a
        # warning, a table that the login may not analyze.
        connection.add_log_listener(lambda _, message: imported.warnings.append(message.message))
        if devices:
            await connection.execute("ANALYZE public.device_state")
        if memberships:
            await connection.execute("ANALYZE public.device_group_members")
        if changed:
            await connection.execute("ANALYZE jobs.devices")
        return imported
    finally:
        await connection.close()


def _records(
    rows: Iterable[DeviceRow],
) -> Iterator[tuple[int, str, str | None, str | None, str | None]]:
    """Yield the rows of the table of import/begin.sql."""
    for line, row in enumerate(rows):
        labels = json.dumps(dict(row.labels), ensure_ascii=False) if row.labels else None
        yield line, row.device_id, row.group_id, row.time_zone, labels


async def _check_label_counts(connection: asyncpg.Connection, tenant_id: str) -> None:
    """Raise TooManyLabels if a device of the tenant has too many."""
    sql = schema.read_sql("import/too_many_labels.sql")
    if rows := await connection.fetch(sql, tenant_id):
        names = ", ".join(row["device_id"] for row in rows)
        raise TooManyLabels(f"more than 32 labels would be on: {names}")


async def _insert_devices(connection: asyncpg.Connection, tenant_id: str) -> int:
    """Register the devices that are missing and return their number. Raises DotSegments."""
    inserted = 0
    refused: list[str] = []
    async for (device_id,) in _rows(connection, "import/devices.sql", tenant_id):
        inserted += 1
        if has_dot_segment(device_id) and len(refused) < _MAX_NAMED:
            refused.append(device_id)
    if refused:
        raise DotSegments(f"device_id {DOT_SEGMENT_PROBLEM}: {', '.join(refused)}")
    return inserted


async def _insert(connection: asyncpg.Connection, name: str, tenant_id: str) -> int:
    """Run sql/`name` for the tenant and return the number of rows that it inserted or changed.

    Counts the rows that it returns: on Citus, the command tag also counts those that existed.
    """
    inserted = 0
    async for _ in _rows(connection, name, tenant_id):
        inserted += 1
    return inserted


def _rows(
    connection: asyncpg.Connection, name: str, tenant_id: str
) -> AsyncIterable[asyncpg.Record]:
    return connection.cursor(schema.read_sql(name), tenant_id, prefetch=_ROWS_PER_COPY)
