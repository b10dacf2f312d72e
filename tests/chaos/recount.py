"""Compares what is stored with what was acknowledged, in SQL that the service does not use."""

import asyncio

import asyncpg

from tests.chaos.directory import check_directory
from tests.chaos.history import History, Job
from tests.chaos.system import System

_WRONG_COUNTS = """
    SELECT j.tenant_id, j.job_id, r.*
    FROM jobs.jobs j
    CROSS JOIN LATERAL jobs.recount(j.tenant_id, j.job_id) r
    WHERE j.deleted_at IS NULL
"""
_WITHOUT_PENDING = """
    SELECT j.tenant_id, j.job_id FROM jobs.jobs j
    WHERE j.status = 'IN_PROGRESS' AND NOT EXISTS (
        SELECT FROM jobs.job_executions e
        WHERE e.tenant_id = j.tenant_id AND e.job_id = j.job_id
          AND e.status IN ('QUEUED', 'IN_PROGRESS')
    )
"""
# A failure criterion that trips sets paused_at or canceled_at, as the calls do.
_STARTED_AFTER_STOP = """
    SELECT j.tenant_id, j.job_id, e.device_id, e.started_at, j.paused_at, j.pause_cause,
           j.canceled_at, j.trip
    FROM jobs.jobs j
    JOIN jobs.job_executions e USING (tenant_id, job_id)
    WHERE (j.status = 'IN_PROGRESS' AND e.started_at > j.paused_at)
       OR e.started_at > j.canceled_at
"""
# Starts lock the job and read the time after that, so this holds exactly.
_STARTED_TOO_EARLY = """
    SELECT j.tenant_id, j.job_id, e.device_id, e.started_at, j.start_at, e.not_before
    FROM jobs.jobs j
    JOIN jobs.job_executions e USING (tenant_id, job_id)
    WHERE e.started_at < j.start_at OR e.started_at < e.not_before
"""
_LAST_STARTS = """
    SELECT tenant_id, job_id, max(started_at) AS started_at FROM (
        SELECT tenant_id, job_id, started_at FROM jobs.job_executions
        UNION ALL SELECT tenant_id, job_id, started_at FROM jobs.execution_attempts
    ) s
    WHERE started_at IS NOT NULL GROUP BY tenant_id, job_id
"""
_TOO_MANY_IN_PROGRESS = """
    SELECT j.tenant_id, j.job_id, count(*) AS in_progress, j.max_in_progress
    FROM jobs.jobs j
    JOIN jobs.job_executions e USING (tenant_id, job_id)
    WHERE e.status = 'IN_PROGRESS' AND j.max_in_progress IS NOT NULL
    GROUP BY j.tenant_id, j.job_id, j.max_in_progress
    HAVING count(*) > j.max_in_progress
"""
_TIME_OUT = (
    """
    UPDATE jobs.job_executions e SET times_out_at = clock_timestamp()
    FROM jobs.jobs j
    WHERE (j.tenant_id, j.job_id) = (e.tenant_id, e.job_id)
      AND j.status = 'IN_PROGRESS' AND e.status = 'IN_PROGRESS'
    RETURNING e.tenant_id, e.job_id, e.device_id
    """,
    """
    SELECT count(*) FROM jobs.job_executions
    WHERE status = 'IN_PROGRESS' AND (tenant_id, job_id, device_id)
        IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))
    """,
)
_EXPIRE = (
    """
    UPDATE jobs.jobs SET expires_at = clock_timestamp()
    WHERE status = 'IN_PROGRESS' AND deleted_at IS NULL
    RETURNING tenant_id, job_id
    """,
    """
    SELECT count(*) FROM jobs.jobs
    WHERE status = 'IN_PROGRESS'
      AND (tenant_id, job_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
    """,
)
_UNFINISHED_CANCELS = """
    SELECT tenant_id, job_id FROM jobs.jobs WHERE canceled_at IS NOT NULL AND NOT finalized
"""


async def check_limits(system: System, history: History) -> list[Job]:
    """Check what must hold at any time: a job exceeds no limit and starts nothing while paused.

    Returns the wrong jobs.
    """
    wrong = []
    async with system.owner() as owner:
        for sql, kind in (
            (_TOO_MANY_IN_PROGRESS, "too many executions in progress"),
            (_STARTED_AFTER_STOP, "an execution started after a pause or a cancel"),
            (_STARTED_TOO_EARLY, "an execution started before its job or its backoff ended"),
        ):
            for row in await owner.fetch(sql):
                history.add_violation(kind, f"{dict(row)}")
                wrong.append((row["tenant_id"], row["job_id"]))
    return wrong


async def check_stored(system: System, history: History, late_after: float) -> list[Job]:
    """Check everything that is stored, after the traffic has ended. Return the wrong jobs."""
    async with system.owner() as owner:
        await _check_deadlines(owner, history, late_after, "timeouts", _TIME_OUT)
        wrong = await _wait_until_none(
            owner, _UNFINISHED_CANCELS, history, "a cancel is not finished"
        )
        wrong += await _wait_until_none(
            owner, _WITHOUT_PENDING, history, "a job without pending executions is IN_PROGRESS"
        )
        wrong += await _check_jobs(owner, history)
        wrong += await _check_reports(owner, history)
        wrong += await _check_starts(owner, history)
        wrong += await check_limits(system, history)
        await check_directory(owner, history)
        await _check_deadlines(owner, history, late_after, "expired jobs", _EXPIRE)
        for row in await owner.fetch(_WRONG_COUNTS):
            history.add_violation("counts differ from a recount", f"{dict(row)}")
            wrong.append((row["tenant_id"], row["job_id"]))
    return wrong


async def _check_deadlines(
    owner: asyncpg.Connection, history: History, late_after: float, name: str, sql: tuple[str, str]
) -> None:
    """Let deadlines pass with the first statement; the second counts those not stored yet.

    For each 100 deadlines that pass at once, a second more is not late.
    """
    pass_now, count_left = sql
    keys = await owner.fetch(pass_now)
    columns = [[key[n] for key in keys] for n in range(len(keys[0]))] if keys else []
    loop = asyncio.get_running_loop()
    start = loop.time()
    while keys and (left := await owner.fetchval(count_left, *columns)):
        if loop.time() - start > 30:
            history.add_violation(f"{name} not stored after 30 s", f"{left} of {len(keys)}")
            return
        await asyncio.sleep(0.05)
    if (took := loop.time() - start) > late_after + len(keys) / 100:
        history.add_violation(f"{name} stored late", f"{len(keys)} after {took:.1f} s")


async def _wait_until_none(
    owner: asyncpg.Connection, sql: str, history: History, message: str
) -> list[Job]:
    """Wait until maintenance has left no rows that `sql` finds."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    while rows := await owner.fetch(sql):
        if loop.time() - start > 30:
            break
        await asyncio.sleep(0.1)
    for row in rows:
        history.add_violation(message, f"{dict(row)}")
    return [(row["tenant_id"], row["job_id"]) for row in rows]


async def _check_jobs(owner: asyncpg.Connection, history: History) -> list[Job]:
    """Check that acknowledged creates, cancels and pauses are stored."""
    stored = {
        (row["tenant_id"], row["job_id"]): row
        for row in await owner.fetch(
            "SELECT j.tenant_id, j.job_id, j.canceled_at, j.paused_at, j.status::text,"
            " (SELECT count(*) FROM jobs.job_executions e"
            "  WHERE e.tenant_id = j.tenant_id AND e.job_id = j.job_id) AS executions"
            " FROM jobs.jobs j WHERE j.deleted_at IS NULL"
        )
    }
    wrong = []

    def check(job: Job, holds: bool, message: str) -> None:
        if not holds and job not in history.deleted:
            history.add_violation(message, f"{job}")
            wrong.append(job)

    for job, executions in history.created.items():
        check(job, job in stored, "an acknowledged job is lost")
        if job in stored:
            count = stored[job]["executions"]
            check(job, count == executions, "an acknowledged job has another number of executions")
    for job in history.removed & stored.keys():
        history.add_violation("an acknowledged delete is lost", f"{job}")
        wrong.append(job)
    for job in history.canceled:
        canceled = job in stored and stored[job]["canceled_at"] is not None
        check(job, canceled, "an acknowledged cancel is lost")
    for job in history.paused:
        # A paused job completes when its executions in progress end.
        kept = job in stored and (
            stored[job]["paused_at"] or stored[job]["status"] != "IN_PROGRESS"
        )
        check(job, bool(kept), "an acknowledged pause is lost")
    return wrong


async def _check_reports(owner: asyncpg.Connection, history: History) -> list[Job]:
    """Check that acknowledged final reports are stored, as a current or an earlier attempt."""
    rows = await owner.fetch(
        "SELECT tenant_id, job_id, device_id, execution_number, status::text"
        " FROM jobs.job_executions UNION ALL"
        " SELECT tenant_id, job_id, device_id, execution_number, status::text"
        " FROM jobs.execution_attempts"
    )
    stored = {tuple(row)[:4]: row["status"] for row in rows}
    wrong = []
    for attempt, status in history.reported.items():
        job = attempt[:2]
        if job not in history.deleted and stored.get(attempt) != status:
            example = f"{attempt} has {stored.get(attempt)}, not {status}"
            history.add_violation("an acknowledged report is lost", example)
            wrong.append(job)
    return wrong


async def _check_starts(owner: asyncpg.Connection, history: History) -> list[Job]:
    """Check that nothing started after a client had got the response to a pause or a cancel."""
    wrong = []
    stops = history.paused | history.canceled | history.closed_windows
    for row in await owner.fetch(_LAST_STARTS):
        job = row["tenant_id"], row["job_id"]
        if job in stops and row["started_at"] > stops[job]:
            example = f"{job}: started at {row['started_at']}, stopped before {stops[job]}"
            history.add_violation("an execution started after an acknowledged stop", example)
            wrong.append(job)
    return wrong
