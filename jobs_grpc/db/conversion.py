"""Converts a database whose migrations had earlier numbers, while no server runs.

The earlier migrations 0001 to 0035 are now 0001. convert.sql changes the tables of a database that
has all of them to those that 0001 creates.
"""

import hashlib

import asyncpg

from jobs_grpc.db import schema
from jobs_grpc.db.sql_statements import execute_each
from jobs_grpc.db.views_and_functions import drop_others

LAST_COMMIT = "28ee0805"
"""The last commit with the earlier numbers."""

FIRST_CHECKSUM = "5b2b8d5bb2e2670aa983bb4c69d92e4dfe89a48460dc839ba9cb8c6c90b972e1"
"""The checksum of the earlier migration 0001."""

# The SHA-256 of the checksums of the earlier migrations 0001 to 0035 without 0020. That one ran
# last and only dropped an index; on Citus, the earlier version can fail before it.
_DIGEST = "303b4c39d062d44834f85f7edb4932af8d47c3b615e22eb227e4cdbb31777964"
_MIGRATIONS = (
    "SELECT version, name, checksum FROM jobs.migrations WHERE version <> 20 ORDER BY version"
)

# Databases with still earlier numbers have this table.
_HAS_EARLIEST = "SELECT to_regclass('jobs.schema_migrations') IS NOT NULL"
_EARLIEST = "SELECT version, name FROM jobs.schema_migrations ORDER BY version"

# Not by backend_type, which is NULL for sessions of other roles unless the owner is a superuser.
_SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1"
)


class ConversionError(Exception):
    """The database can't be converted. The message says what to do."""


async def convert(connection: asyncpg.Connection, request_role: str) -> list[str]:
    """Convert a database with the earlier numbers in one transaction. Return one line per change.

    Raises ConversionError if the database is not at the earlier 0035, or if a server is connected.
    """
    if not (last := await _earlier_migration(connection)):
        return []
    if await connection.fetchval(_SESSIONS, request_role):
        raise ConversionError(
            f"the database must be converted while no server runs, but sessions of {request_role}"
            " are open: stop all servers, back up the database, and migrate again"
        )
    [first, *_] = schema.migrations()
    async with connection.transaction():
        await drop_others(connection)
        await execute_each(connection, schema.read_sql("convert.sql"))
        await connection.execute(
            "INSERT INTO jobs.migrations (version, name, checksum) VALUES ($1, $2, $3)",
            first.version,
            first.name,
            first.checksum,
        )
    return [f"converted migration {last} to {first.label}"]


async def _earlier_migration(connection: asyncpg.Connection) -> str | None:
    """Return the label of the earlier migration 0035; None: the database has today's numbers."""
    applied = await connection.fetch(_MIGRATIONS)
    if not applied and await connection.fetchval(_HAS_EARLIEST):
        earliest = await connection.fetch(_EARLIEST)
        raise _not_convertible(earliest[-1])
    checksums = [row["checksum"] for row in applied]
    if checksums[:1] != [FIRST_CHECKSUM]:
        return None
    if hashlib.sha256(",".join(checksums).encode()).hexdigest() != _DIGEST:
        raise _not_convertible(applied[-1])
    return _label(applied[-1])


def _not_convertible(last: asyncpg.Record) -> ConversionError:
    return ConversionError(
        f"the database is at migration {_label(last)} of an earlier version; this version continues"
        f" from 0035, with all migrations before it: run `jobs-grpc migrate` of commit"
        f" {LAST_COMMIT} first"
    )


def _label(migration: asyncpg.Record) -> str:
    return f"{migration['version']:04} {migration['name']}"
