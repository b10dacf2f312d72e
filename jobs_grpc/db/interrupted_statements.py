"""Repeats statements that a migration or the move of a shard interrupts."""

import time

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from jobs_grpc.db.pg_errors import is_interrupted_by_migration, is_shard_moved

# A migration commits several times, so it can interrupt a statement more than once.
_REPEATS = 3


async def fetch_with_repeats(
    connection: asyncpg.Connection | PoolConnectionProxy, seconds: float, sql: str, *args: object
) -> list[asyncpg.Record]:
    """Run a statement in its own transaction, and repeat it if it is interrupted.

    A migration can interrupt a statement, and on Citus the move of a shard. A failed statement has
    changed nothing. Raises TimeoutError if all attempts together take more than `seconds`.
    """
    deadline = time.monotonic() + seconds
    for _ in range(_REPEATS):
        try:
            return await connection.fetch(sql, *args, timeout=deadline - time.monotonic())
        except asyncpg.PostgresError as e:
            if not (is_interrupted_by_migration(e) or is_shard_moved(e)):
                raise
        # If a function was dropped while PostgreSQL analyzed the statement, the session has cached
        # the statement with the dropped function, so a repeat would fail too.
        await connection.execute("DISCARD PLANS", timeout=deadline - time.monotonic())
    return await connection.fetch(sql, *args, timeout=deadline - time.monotonic())
