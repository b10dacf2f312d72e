"""Counts the rows that PostgreSQL reads for a call."""

from collections.abc import Awaitable

import asyncpg

# Entries read of indexes, and rows read by sequential scans of tables.
_ROWS_READ = """
    SELECT sum(pg_stat_get_xact_tuples_returned(oid))::bigint FROM pg_class
    WHERE relnamespace IN ('jobs'::regnamespace, 'public'::regnamespace) AND relkind IN ('r', 'i')
"""


async def rows_read(
    connection: asyncpg.Connection,
    call: Awaitable[object],
    prepare: Awaitable[object] | None = None,
) -> int:
    """Return the number of rows that a call reads after `prepare`. Rolls both back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        if prepare:
            await prepare
        before: int = await connection.fetchval(_ROWS_READ)
        await call
        after: int = await connection.fetchval(_ROWS_READ)
    finally:
        await transaction.rollback()
    return after - before
