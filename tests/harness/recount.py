"""Compares what is stored with what was acknowledged, in SQL that the service does not use."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress

import asyncpg

from tests.harness.event_checks import ATTEMPTS
from tests.harness.ledger import UNCHANGED, Job, Ledger
from tests.harness.requests import MATCHES
from tests.harness.system import TENANTS, System
from tests.support.waiting import wait_until

_RECOUNT = """
    SELECT j.tenant_id, j.job_id, r.*
    FROM jobs.jobs j
    CROSS JOIN LATERAL jobs.recount(j.tenant_id, j.job_id) r
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
_TOO_MANY_IN_PROGRESS = """
    SELECT j.tenant_id, j.job_id, count(*) AS in_progress, j.max_in_progress
    FROM jobs.jobs j
    JOIN jobs.job_executions e USING (tenant_id, job_id)
    WHERE e.status = 'IN_PROGRESS' AND j.max_in_progress IS NOT NULL
    GROUP BY j.tenant_id, j.job_id, j.max_in_progress
    HAVING count(*) > j.max_in_progress
"""
_LIMITS = {
    "counts differ from a recount": f"{_RECOUNT} WHERE j.status = 'IN_PROGRESS'",
    "too many executions in progress": _TOO_MANY_IN_PROGRESS,
    "an execution started after a pause or a cancel": _STARTED_AFTER_STOP,
    "an execution started before its job or its backoff ended": _STARTED_TOO_EARLY,
}
_DEVICES = """
    SELECT tenant_id, device_id, d.labels, f.facts, ARRAY(
        SELECT m.group_id FROM public.device_group_members m
        WHERE (m.tenant_id, m.device_id) = (s.tenant_id, s.device_id)
    ) AS groups
    FROM public.device_state s
    LEFT JOIN jobs.devices d USING (tenant_id, device_id)
    LEFT JOIN jobs.device_facts f USING (tenant_id, device_id)
"""
_UNFINISHED = {
    "a cancel is not finished": """
        SELECT tenant_id, job_id FROM jobs.jobs WHERE canceled_at IS NOT NULL AND NOT finalized
    """,
    "a job without pending executions is IN_PROGRESS": """
        SELECT j.tenant_id, j.job_id FROM jobs.jobs j
        WHERE j.status = 'IN_PROGRESS' AND NOT j.is_continuous AND NOT EXISTS (
            SELECT FROM jobs.job_executions e
            WHERE e.tenant_id = j.tenant_id AND e.job_id = j.job_id
              AND e.status IN ('QUEUED', 'IN_PROGRESS')
        )
    """,
    "a device has not joined a job": f"""
        SELECT j.tenant_id, j.job_id, d.device_id
        FROM jobs.jobs j
        JOIN jobs.continuous_jobs c USING (tenant_id, job_id)
        JOIN ({_DEVICES}) d USING (tenant_id)
        WHERE j.status = 'IN_PROGRESS' AND j.deleted_at IS NULL AND NOT c.is_stopped
          AND NOT EXISTS (
              SELECT FROM jobs.job_executions e
              WHERE (e.tenant_id, e.job_id, e.device_id) = (j.tenant_id, j.job_id, d.device_id)
          )
          AND CASE j.request ->> 'target_selector'
              {" ".join(f"WHEN '{text}' THEN {condition}" for text, condition in MATCHES.items())}
              ELSE true END
    """,
}
# Statements that let deadlines pass, and that count those that are not stored yet.
_DEADLINES = {
    "timeouts": (
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
    ),
    "expired jobs": (
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
    ),
}
_JOBS = """
    SELECT j.tenant_id, j.job_id, j.canceled_at, j.paused_at, j.status::text,
           (SELECT count(*) FROM jobs.job_executions e
            WHERE e.tenant_id = j.tenant_id AND e.job_id = j.job_id)
               - coalesce(j.joined_count, 0) AS executions
    FROM jobs.jobs j WHERE j.deleted_at IS NULL
"""
_RINGS = """
    SELECT s.tenant_id, s.device_id, d.labels ->> 'ring' AS ring
    FROM public.device_state s LEFT JOIN jobs.devices d USING (tenant_id, device_id)
"""


async def check_limits(system: System, ledger: Ledger) -> list[Job]:
    """Check what must hold at any time: counts and limits, and that nothing starts while paused.

    Returns the wrong jobs.
    """
    async with system.owner() as owner:
        return [
            job
            for kind, sql in _LIMITS.items()
            for job in _add_problems(ledger, kind, await owner.fetch(sql))
        ]


async def check_stored(system: System, ledger: Ledger, late_after: float) -> list[Job]:
    """Check everything that is stored, after the traffic has ended. Return the wrong jobs."""
    async with system.owner() as owner:
        await _check_deadlines(owner, ledger, late_after, "timeouts")
        wrong = []
        for kind, sql in _UNFINISHED.items():
            wrong += _add_problems(ledger, kind, await _rows_after_a_while(owner, sql))
        wrong += await _check_jobs(owner, ledger)
        wrong += await _check_attempts(owner, ledger)
        wrong += await check_limits(system, ledger)
        await _check_directory(owner, ledger)
        await _check_deadlines(owner, ledger, late_after, "expired jobs")
        wrong += await check_counts(owner, ledger, TENANTS)
    return wrong


async def check_counts(
    owner: asyncpg.Connection, ledger: Ledger, tenants: Iterable[str]
) -> list[Job]:
    """Check that the stored counts are those of the executions. Return the wrong jobs."""
    where = "WHERE j.deleted_at IS NULL AND j.tenant_id = ANY ($1::text[])"
    rows = await owner.fetch(f"{_RECOUNT} {where}", [*tenants])
    return _add_problems(ledger, "counts differ from a recount", rows)


def _add_problems(ledger: Ledger, kind: str, rows: Sequence[asyncpg.Record]) -> list[Job]:
    for row in rows:
        ledger.problem(kind, dict(row))
    return [(row["tenant_id"], row["job_id"]) for row in rows]


async def _check_deadlines(
    owner: asyncpg.Connection, ledger: Ledger, late_after: float, name: str
) -> None:
    """Let deadlines pass. For each 100 that pass at once, a second more is not late."""
    pass_now, count_left = _DEADLINES[name]
    keys = await owner.fetch(pass_now)
    columns = [[key[n] for key in keys] for n in range(len(keys[0]))] if keys else []
    loop = asyncio.get_running_loop()
    start = loop.time()
    while keys and (left := await owner.fetchval(count_left, *columns)):
        if loop.time() - start > 30:
            ledger.problem(f"{name} not stored after 30 s", f"{left} of {len(keys)}")
            return
        await asyncio.sleep(0.05)
    if (took := loop.time() - start) > late_after + len(keys) / 100:
        ledger.problem(f"{name} stored late", f"{len(keys)} after {took:.1f} s")


async def _rows_after_a_while(owner: asyncpg.Connection, sql: str) -> Sequence[asyncpg.Record]:
    """Return the rows that maintenance has left after 30 s."""
    rows: Sequence[asyncpg.Record] = ()

    async def is_done() -> bool:
        nonlocal rows
        rows = await owner.fetch(sql)
        return not rows

    with suppress(AssertionError):
        await wait_until(is_done)
    return rows


async def _check_jobs(owner: asyncpg.Connection, ledger: Ledger) -> list[Job]:
    """Check that acknowledged creates, cancels, pauses and deletes are stored."""
    stored = {(row["tenant_id"], row["job_id"]): row for row in await owner.fetch(_JOBS)}
    maybe_deleted = ledger.maybe_deleted()
    wrong = []

    def check(job: Job, holds: object, message: str) -> None:
        if not holds:
            ledger.problem(message, job)
            wrong.append(job)

    for job, executions in ledger.sizes.items():
        if job not in stored:
            check(job, job in maybe_deleted, "an acknowledged job is lost")
        else:
            is_equal = stored[job]["executions"] == executions
            check(job, is_equal, "an acknowledged job has another number of executions")
    for job in ledger.acknowledged("DeleteJob"):
        check(job, job not in stored, "an acknowledged delete is lost")
    for job in ledger.acknowledged("CancelJob").keys() & stored.keys():
        check(job, stored[job]["canceled_at"], "an acknowledged cancel is lost")
    for job in ledger.acknowledged("PauseJob", UNCHANGED[0]).keys() & stored.keys():
        # A paused job completes when its executions in progress end.
        is_kept = stored[job]["paused_at"] or stored[job]["status"] != "IN_PROGRESS"
        check(job, is_kept, "an acknowledged pause is lost")
    return wrong


async def _check_attempts(owner: asyncpg.Connection, ledger: Ledger) -> list[Job]:
    """Check that acknowledged reports are stored, and that nothing started after a stop."""
    found, wrong = {}, []
    stops, maybe_deleted = ledger.stops(), ledger.maybe_deleted()
    for row in await owner.fetch(ATTEMPTS):
        attempt = row["tenant_id"], row["job_id"], row["device_id"], row["execution_number"]
        job, started = attempt[:2], row["started_at"]
        found[attempt] = row["status"]
        if started and job in stops and started > stops[job]:
            example = f"{attempt}: started at {started}, stopped before {stops[job]}"
            ledger.problem("an execution started after an acknowledged stop", example)
            wrong.append(job)
    for attempt, status in ledger.reported.items():
        job = attempt[:2]
        if job not in maybe_deleted and found.get(attempt) != status:
            example = f"{attempt} has {found.get(attempt)}, not {status}"
            ledger.problem("an acknowledged report is lost", example)
            wrong.append(job)
    return wrong


async def _check_directory(owner: asyncpg.Connection, ledger: Ledger) -> None:
    """Check that devices have the labels of the last acknowledged change, or of one that failed."""
    stored = {
        (row["tenant_id"], row["device_id"]): row["ring"] for row in await owner.fetch(_RINGS)
    }
    for device, ring in ledger.rings.items():
        found = stored.get(device)
        if found != ring and found not in ledger.possible_rings[device]:
            ledger.problem(
                "an acknowledged change of a device is lost", f"{device} has {found}, not {ring}"
            )


async def event_positions(owner: asyncpg.Connection, ledger: Ledger) -> dict[str, list[int]]:
    if queued := await _rows_after_a_while(owner, "SELECT FROM jobs.event_queue"):
        ledger.problem("events without a position", f"{len(queued)} after 30 s")
    positions: dict[str, list[int]] = defaultdict(list)
    for row in await owner.fetch("SELECT tenant_id, position FROM jobs.events ORDER BY position"):
        positions[row["tenant_id"]].append(row["position"])
    return positions
