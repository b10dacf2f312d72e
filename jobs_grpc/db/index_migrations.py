"""Applies migrations that create and drop indexes outside a transaction, while servers run."""

import re
from collections.abc import Sequence

import asyncpg

from jobs_grpc.db.schema import Migration, SchemaError
from jobs_grpc.db.sql_statements import split_statements

_CREATE_INDEX = re.compile(
    r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS (\w+)\s+ON (\w+)\.\w+\s"
)
_DROP_INDEX = re.compile(r"DROP INDEX CONCURRENTLY IF EXISTS (\w+)\.(\w+)")

# These statements block neither reads nor writes, even while they wait for a lock. They wait for
# the transactions that are open when they start, so they can take as long as the longest of those.
_TIMEOUTS = ("lock_timeout", "statement_timeout", "transaction_timeout")  # the last: from 17 on
_DISABLE_TIMEOUTS = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY($1)"

_IS_INVALID = "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"


def index_statements(migration: Migration) -> Sequence[str]:
    """Return the statements of a migration that runs outside a transaction.

    Raises SchemaError if one of them is not a CREATE or DROP INDEX CONCURRENTLY that can be
    repeated.
    """
    statements = split_statements(migration.sql)
    for statement in statements:
        if not (_CREATE_INDEX.match(statement) or _DROP_INDEX.fullmatch(statement)):
            raise SchemaError(
                f"migration {migration.label}: outside a transaction, a statement must be CREATE"
                " INDEX CONCURRENTLY IF NOT EXISTS name ON schema.table or DROP INDEX CONCURRENTLY"
                f" IF EXISTS schema.name, not: {statement}"
            )
    return statements


async def run_outside_transaction(connection: asyncpg.Connection, migration: Migration) -> None:
    """Run the statements of `migration` as run_index_statements does."""
    await run_index_statements(connection, index_statements(migration))


async def run_index_statements(connection: asyncpg.Connection, statements: Sequence[str]) -> None:
    """Run the statements one by one. Safe to repeat after an interruption.

    Changes the timeouts of the session.
    """
    await connection.execute(_DISABLE_TIMEOUTS, _TIMEOUTS)
    for statement in statements:
        if created := _CREATE_INDEX.match(statement):
            await _drop_if_invalid(connection, f"{created[2]}.{created[1]}")
        await connection.execute(statement)


async def _drop_if_invalid(connection: asyncpg.Connection, index: str) -> None:
    """Drop the index if its build was interrupted.

    PostgreSQL keeps such an index: writes update it, no query uses it, and IF NOT EXISTS treats it
    as finished.
    """
    if await connection.fetchval(_IS_INVALID, index):
        await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
