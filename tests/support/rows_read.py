"""Counts the rows that PostgreSQL reads for a call."""

from collections import Counter
from collections.abc import Awaitable

import asyncpg

# Entries read of indexes, and rows read by sequential scans of tables.
_ROWS_READ = """
    SELECT relname::text, pg_stat_get_xact_tuples_returned(oid) AS count FROM pg_class
    WHERE relnamespace IN ('jobs'::regnamespace, 'public'::regnamespace) AND relkind IN ('r', 'i')
        AND pg_stat_get_xact_tuples_returned(oid) > 0
"""


async def reads(
    connection: asyncpg.Connection,
    call: Awaitable[object],
    prepare: Awaitable[object] | None = None,
) -> Counter[str]:
    """Return how many entries of each index, and rows of each table, a call reads.

    Runs `prepare` first, which is not counted, and rolls both back.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        if prepare:
            await prepare
        before = await _counts(connection)
        await call
        after = await _counts(connection)
    finally:
        await transaction.rollback()
    return after - before


async def _counts(connection: asyncpg.Connection) -> Counter[str]:
    rows = await connection.fetch(_ROWS_READ)
    return Counter({row["relname"]: row["count"] for row in rows})


async def rows_read(
    connection: asyncpg.Connection,
    call: Awaitable[object],
    prepare: Awaitable[object] | None = None,
) -> int:
    return (await reads(connection, call, prepare)).total()
