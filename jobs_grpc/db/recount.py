"""Compares the stored counts of jobs with their executions, and repairs them."""

import json
from collections.abc import Sequence

import asyncpg

from jobs_grpc.db.owner_pool import OwnerPool

RECOUNT = "SELECT * FROM jobs.recount($1, $2) ORDER BY table_name, key, column_name"
_REPAIR = "SELECT * FROM jobs.repair_counts($1, $2) ORDER BY table_name, key, column_name"
_EXISTS = "SELECT job_id FROM jobs.jobs WHERE tenant_id = $1 AND job_id = $2 AND deleted_at IS NULL"

# Seconds. A recount reads a million executions in about four.
_STATEMENT_TIMEOUT = 600.0


async def recount_job(
    owner_dsn: str, tenant_id: str, job_id: str, *, repair: bool
) -> tuple[Sequence[asyncpg.Record], Sequence[asyncpg.Record]] | None:
    """Return the counts of a job that differed, and those that still do: all without `repair`.

    Returns None if there is no such job. Reads all its executions; a repair keeps the job lock
    meanwhile. Raises NotTheOwner and StatementTimedOut.
    """
    job = (tenant_id, job_id)
    async with OwnerPool(owner_dsn, max_size=1, statement_timeout=_STATEMENT_TIMEOUT) as pool:
        if not await pool.fetch(_EXISTS, *job):
            return None
        repaired = await pool.fetch(_REPAIR, *job) if repair else []
        remaining = await pool.fetch(RECOUNT, *job)
        return repaired or remaining, remaining


def row_name(row: asyncpg.Record) -> str:
    """Return the key of the row with a count, without its job, such as "stage 0"."""
    return ", ".join(f"{column} {value}" for column, value in json.loads(row["key"]).items())


def describe(row: asyncpg.Record) -> str:
    """Say which count differs, such as "job_stages.failures (stage 0) is 5, counted 2"."""
    name = row_name(row)
    column = f"{row['table_name']}.{row['column_name']}{name and f' ({name})'}"
    return f"{column} is {row['stored']:,}, counted {row['counted']:,}"
