"""Checks of what keeps PostgreSQL from removing dead rows and WAL."""

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db import schema
from jobs_grpc.doctor.finding import Finding, Status

_MAX_SECONDS = 900.0
# If the role does not see since when. About 20 minutes of 100 calls per second.
_MAX_TRANSACTIONS = 100_000
# PostgreSQL keeps about as much for its checkpoints by default.
_MAX_WAL_BYTES = 1 << 30


async def check_dead_rows(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Name the transactions and slots that are so old that dead rows pile up."""
    sql = schema.read_sql("checks/doctor/dead_rows.sql")
    rows = await connection.fetch(sql, _MAX_SECONDS, _MAX_TRANSACTIONS)
    if not rows:
        return [Finding("dead-rows", Status.OK, "no old transaction keeps dead rows")]
    return [
        Finding(
            "dead-rows",
            Status.WARNING,
            f"{_holder(row)} keeps all rows that have died in the last {_age(row)}: VACUUM cannot"
            " remove them, so tables grow and calls get slower",
            f"end it, unless it is about to end: {row['remedy']}",
        )
        for row in rows
    ]


def _holder(row: asyncpg.Record) -> str:
    role = f" of the role {row['role']}" if row["role"] else ""
    return f"the {row['kind']} {row['name']}{role}"


def _age(row: asyncpg.Record) -> str:
    transactions = f"{row['transactions']:,} transactions"
    return transactions if row["seconds"] is None else f"{row['seconds']:,.0f} s, {transactions}"


async def check_slots(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Name the replication slots that keep much WAL."""
    rows = await connection.fetch(schema.read_sql("checks/doctor/slots.sql"), _MAX_WAL_BYTES)
    if not rows:
        return [Finding("slots", Status.OK, "no replication slot keeps much WAL")]
    return [
        Finding(
            "slots",
            Status.WARNING,
            f"the replication slot {row['name']} keeps {row['bytes'] / (1 << 30):,.1f} GiB of WAL,"
            f" and {'its reader lags' if row['active'] else 'nothing reads it'}: the disk fills up",
            f"let its reader catch up, or drop it: {row['remedy']} max_slot_wal_keep_size limits"
            " what slots keep",
        )
        for row in rows
    ]
