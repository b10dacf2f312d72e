"""Repeats statements that a migration interrupts."""

import time

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from jobs_grpc.db.pg_errors import is_interrupted_by_migration

# A migration commits several times, so it can interrupt a statement more than once.
_REPEATS = 3


async def fetch_with_repeats(
    connection: asyncpg.Connection | PoolConnectionProxy, seconds: float, sql: str, *args: object
) -> list[asyncpg.Record]:
    """Run a statement in its own transaction; if a migration interrupts it, run it again.

    A statement that fails has changed nothing. Raises TimeoutError if all this takes more than
    `seconds`.
    """
    deadline = time.monotonic() + seconds
    for _ in range(_REPEATS):
        try:
            return await connection.fetch(sql, *args, timeout=deadline - time.monotonic())
        except asyncpg.PostgresError as e:
            if not is_interrupted_by_migration(e):
                raise
    return await connection.fetch(sql, *args, timeout=deadline - time.monotonic())
