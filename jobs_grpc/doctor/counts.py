"""Compares the stored counts of jobs with their executions."""

import asyncio
import shlex
from contextlib import suppress

import asyncpg

from jobs_grpc.db import schema
from jobs_grpc.db.recount import RECOUNT, describe
from jobs_grpc.doctor.connection import DATABASE_ERRORS, check_failed
from jobs_grpc.doctor.finding import Finding, Status

MAX_EXECUTIONS = 1_000_000
"""The executions that the check reads by default."""

_CHECK = "counts"

# Seconds for all jobs.
_TIMEOUT = 20.0

_MAX_NAMED_JOBS = 5
_MAX_NAMED_COUNTS = 3

_NUMBER_OF_JOBS = "SELECT count(*) FROM jobs.jobs WHERE deleted_at IS NULL"


async def check_counts(connection: asyncpg.Connection, max_executions: int) -> list[Finding]:
    """Name the jobs whose counts differ, at most 5. Reads up to that many executions."""
    wrong: list[Finding] = []
    examined = executions = 0
    try:
        job_count = await connection.fetchval(_NUMBER_OF_JOBS)
        jobs = await connection.fetch(
            schema.read_sql("checks/doctor/jobs_to_recount.sql"), max_executions
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                for job in jobs:
                    if rows := await connection.fetch(RECOUNT, job["tenant_id"], job["job_id"]):
                        wrong.append(_wrong_job(job, rows))
                    if len(wrong) == _MAX_NAMED_JOBS:
                        break
                    examined += 1
                    executions += job["executions"]
    except DATABASE_ERRORS as e:
        return [check_failed(_CHECK, e)]
    if wrong:
        return wrong
    detail = f"the counts of {examined:,} jobs with {executions:,} executions are correct"
    if examined < job_count:
        detail += (
            f"; {job_count - examined:,} jobs were not examined (--max-executions"
            f" {max_executions}, at most {_TIMEOUT:.0f} s)"
        )
    return [Finding(_CHECK, Status.OK, detail)]


def _wrong_job(job: asyncpg.Record, rows: list[asyncpg.Record]) -> Finding:
    counts = "; ".join(map(describe, rows[:_MAX_NAMED_COUNTS]))
    more = "; …" if len(rows) > _MAX_NAMED_COUNTS else ""
    command = f"jobs-grpc recount {job['job_id']} --tenant {shlex.quote(job['tenant_id'])}"
    return Finding(
        _CHECK,
        Status.WARNING,
        f"job {job['job_id']} of tenant {job['tenant_id']}: {counts}{more}",
        f"run `{command} --repair`, which sets the counts, and report the bug with this output",
    )
