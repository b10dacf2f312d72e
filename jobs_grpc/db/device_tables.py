"""Who manages the device tables: this service, or the platform.

The service writes only to its own: it registers and deletes devices, and changes groups. `migrate`
decides it once and stores it in jobs.device_tables. They are the service's own if `migrate` creates
both tables, or if its option says so.
"""

from typing import Literal

import asyncpg

from jobs_grpc.db import schema

Choice = Literal["own", "platform"]

_KEYS = {
    "public.device_state": "tenant_id, device_id",
    "public.device_group_members": "tenant_id, group_id, device_id",
}


class NotWritable(Exception):
    """The service can't write to the device tables. The message says why."""


async def decide(connection: asyncpg.Connection, choice: Choice | None) -> list[str]:
    """Store who manages the device tables, before the first migration creates missing ones.

    Returns one line per change. Raises NotWritable if the service can't manage them.
    """
    stored = await connection.fetchval("SELECT is_own FROM jobs.device_tables")
    if choice is None and await _has_migrations(connection):
        return []
    is_own = choice == "own" if choice else await _creates_both(connection)
    if is_own:
        await _require_writable(connection)
    if is_own == stored:
        return []
    await connection.execute(
        "INSERT INTO jobs.device_tables (is_own) VALUES ($1)"
        " ON CONFLICT (is_only_row) DO UPDATE SET is_own = excluded.is_own",
        is_own,
    )
    manager = "the service's own" if is_own else "managed by the platform"
    return [f"the device tables are {manager}"]


async def are_own(connection: asyncpg.Connection) -> bool:
    """Return what `decide` has stored."""
    is_own: bool = await connection.fetchval("SELECT is_own FROM jobs.device_tables")
    return is_own


async def _has_migrations(connection: asyncpg.Connection) -> bool:
    found: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM jobs.migrations)")
    return found


async def _creates_both(connection: asyncpg.Connection) -> bool:
    """Whether the first migration, which is still to run, will create both tables."""
    existing: int = await connection.fetchval(
        "SELECT count(to_regclass(name)) FROM unnest($1::text[]) AS name", list(_KEYS)
    )
    return existing == 0


async def _require_writable(connection: asyncpg.Connection) -> None:
    problems = await connection.fetch(
        schema.read_sql("checks/own_device_tables.sql"), list(_KEYS), list(_KEYS.values())
    )
    if problems:
        listed = "; ".join(row["problem"] for row in problems)
        raise NotWritable(f"the service can't manage the device tables: {listed}")
