"""Reports the progress of a migration's index build, from a second session."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import asyncpg

from jobs_grpc.db.connect import connect

Report = Callable[[str], None]
"""Receives one line, which replaces the previous one."""

_INTERVAL_SECONDS = 1.0

# "create index NAME: PHASE, 42 %, waiting for process 123" of the session $1; no row if it does
# not create or drop an index at the moment.
_PROGRESS = r"""
    SELECT format('%s index %s: ', lower(statement[1]), statement[2]) || concat_ws(
        ', ',
        coalesce(phase, 'in progress'),
        CASE WHEN phase LIKE '%scanning table' THEN 100 * blocks_done / nullif(blocks_total, 0)
             WHEN phase LIKE '%loading tuples%' THEN 100 * tuples_done / nullif(tuples_total, 0)
        END || ' %',
        'waiting for process ' || nullif(array_to_string(pg_blocking_pids(pid), ', '), '')
    )
    FROM pg_stat_activity
    LEFT JOIN pg_stat_progress_create_index USING (pid),
        regexp_match(query, '(CREATE|DROP)[\w\s]* INDEX CONCURRENTLY [\w\s]*EXISTS (\S+)')
            AS statement
    WHERE pid = $1 AND state = 'active' AND statement IS NOT NULL
"""


@contextlib.asynccontextmanager
async def reporting_progress(
    owner_dsn: str, migrating: asyncpg.Connection, report: Report | None
) -> AsyncIterator[None]:
    """Report the progress of the session `migrating` about once a second during the block."""
    if report is None:
        yield
        return
    reports = asyncio.create_task(_report(owner_dsn, migrating.get_server_pid(), report))
    try:
        yield
    finally:
        reports.cancel()
        # A migration does not fail because its progress cannot be read.
        await asyncio.gather(reports, return_exceptions=True)


async def _report(owner_dsn: str, pid: int, report: Report) -> None:
    await asyncio.sleep(_INTERVAL_SECONDS)  # Most migrations are done by then.
    connection = await connect(owner_dsn, timeout=10)
    try:
        while True:
            if line := await connection.fetchval(_PROGRESS, pid):
                report(line)
            await asyncio.sleep(_INTERVAL_SECONDS)
    finally:
        connection.terminate()
