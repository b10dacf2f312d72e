"""The counts of HELD executions, which are not stored, equal a recount of the executions."""

import json
import uuid
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.database import Database, request_session
from tests.support.scale import examples
from tests.support.world import World

# The statuses in which executions are stored, and those of executions that are not released.
STATUSES = ("QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED")
UNRELEASED_STATUSES = ("QUEUED", "REJECTED", "TIMED_OUT")
COUNTS = ("held", "queued", "in_progress", "succeeded", "failed", "timed_out", "rejected")

JOB_ENDS = {
    "pending": "true",
    "paused": "paused_at = now() - interval '10 seconds', pause_reason = 'r'",
    "expired": "expires_at = now() - interval '10 seconds'",
    "canceled": "status = 'CANCELED', canceled_at = now(), cancel_reason = 'r'",
    "canceled with force": "status = 'CANCELED', canceled_at = now(), cancel_reason = 'r',"
    " force_canceled = true",
}

_JOB = """
    INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_all,
        created_at, updated_at, open_stage, release_end, release_base, release_rate, release_since)
    VALUES ($1, 'j', 'x', '{}', true, now() - interval '1 hour', now(), $2, $3, $4, $5,
            now() - $6 * interval '1 second')
"""
_EXECUTIONS = """
    INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, status, rank, stage, queued_at,
        started_at, last_updated_at)
    SELECT $1, 'j', 'd' || n, status::jobs.execution_status, n, stage, now(),
           CASE WHEN started THEN now() END, now()
    FROM unnest($2::text[], $3::integer[], $4::boolean[]) WITH ORDINALITY
        AS e (status, stage, started, n)
"""
_STAGES = f"""
    INSERT INTO jobs.job_stages (tenant_id, job_id, stage, display_name, first_rank, last_rank,
        {", ".join(COUNTS[1:])})
    SELECT $1, 'j', n - 1, '', last_rank - size + 1, last_rank, c.*
    FROM unnest($2::integer[], $3::integer[]) WITH ORDINALITY AS s (size, last_rank, n),
    LATERAL (SELECT {", ".join(f"count(*) FILTER (WHERE e.status = '{c.upper()}')" for c in COUNTS[1:])}
             FROM jobs.job_executions e
             WHERE e.tenant_id = $1 AND e.job_id = 'j' AND e.stage = n - 1) c
"""  # noqa: E501 - names of this module
_PROGRESS = f"""
    INSERT INTO jobs.job_progress (tenant_id, job_id, {", ".join(COUNTS[1:])})
    SELECT $1, 'j', {", ".join(f"sum({count})" for count in COUNTS[1:])}
    FROM jobs.job_stages WHERE tenant_id = $1 AND job_id = 'j'
"""
# The counts, and the executions as readers see them, in one statement.
_READ = f"""
    SELECT {", ".join(f"d.{count}" for count in COUNTS)}, d.total_executions, d.rollout_details,
           (SELECT array_agg(e.stage || ' ' || lower(e.status)) FROM jobs.execution_states e
            WHERE e.tenant_id = $1 AND e.job_id = 'j') AS executions
    FROM jobs.job_details d WHERE d.tenant_id = $1 AND d.job_id = 'j'
"""


@st.composite
def stored_jobs(draw: st.DrawFn) -> dict[str, Any]:
    """A job: the sizes of its stages, how far it is released, and the status of each rank."""
    sizes = draw(st.lists(st.integers(0, 8), min_size=1, max_size=4).filter(sum))
    open_stage = draw(st.integers(0, len(sizes) - 1))
    release_end = sum(sizes[: open_stage + 1])
    base = draw(st.integers(0, release_end))
    rate = draw(st.sampled_from([1, 7, 60, 1_000_000, None]))
    seconds = draw(st.sampled_from([-5, 0, 1, 10, 11, 61]))
    end = draw(st.just("pending") | st.sampled_from(sorted(JOB_ENDS)))
    elapsed = seconds - 10 if end == "paused" else seconds
    if rate is None:
        released = base if elapsed < 0 else release_end  # the job has not started
    else:
        released = min(release_end, base + max(elapsed, 0) * rate // 60)
    ranks = range(1, sum(sizes) + 1)
    statuses = [
        draw(st.sampled_from(STATUSES if rank <= released else UNRELEASED_STATUSES))
        for rank in ranks
    ]
    # A released execution can finish without having started, too.
    started = [
        status == "IN_PROGRESS" or (rank <= released and status != "QUEUED" and draw(st.booleans()))
        for rank, status in zip(ranks, statuses, strict=True)
    ]
    return {
        "sizes": sizes,
        "open_stage": open_stage,
        "release": (release_end, base, rate, seconds),
        "released": released,
        "end": end,
        "statuses": statuses,
        "started": started,
    }


@pytest.mark.slow
@pytest.mark.single_node("Citus refuses to read the views outside a delegated function")
@examples(40, factor=4)
@given(job=stored_jobs())
async def test_counts_of_the_job_and_of_each_stage_equal_a_recount(
    database: Database, job: dict[str, Any]
) -> None:
    tenant, sizes = f"t-{uuid.uuid4().hex}", job["sizes"]
    stages = [number for number, size in enumerate(sizes) for _ in range(size)]
    last_ranks = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    transaction = database.owner.transaction()
    await transaction.start()
    try:
        await database.owner.execute(_JOB, tenant, job["open_stage"], *job["release"])
        await database.owner.execute(_EXECUTIONS, tenant, job["statuses"], stages, job["started"])
        await database.owner.execute(_STAGES, tenant, sizes, last_ranks)
        await database.owner.execute(_PROGRESS, tenant)
        if job["end"] != "pending":
            await database.owner.execute(
                f"UPDATE jobs.jobs SET {JOB_ENDS[job['end']]} WHERE tenant_id = $1", tenant
            )
        row = await database.owner.fetchrow(_READ, tenant)
    finally:
        await transaction.rollback()

    assert row is not None
    recount = Counter(execution.split()[1] for execution in row["executions"])
    assert {count: row[count] for count in COUNTS} == {count: recount[count] for count in COUNTS}
    assert row["total_executions"] == len(stages)
    recount_by_stage = Counter(row["executions"])
    for number, stage in enumerate(json.loads(row["rollout_details"])["stages"]):
        assert {count: stage[count] for count in COUNTS} == {
            count: recount_by_stage[f"{number} {count}"] for count in COUNTS
        }
        assert stage["released"] == stages[: job["released"]].count(number)
    if job["end"] in ("pending", "paused"):
        held = sum(
            rank > job["released"] and status == "QUEUED"
            for rank, status in enumerate(job["statuses"], start=1)
        )
        assert row["held"] == held


READS = {
    "get_job": "SELECT * FROM jobs.get_job($1, 'j', 10)",
    "get_jobs": "SELECT * FROM jobs.get_jobs($1, '{j}')",
    "list_jobs": "SELECT * FROM jobs.list_jobs($1, NULL, NULL, NULL, 10, 0)",
    "pause_job": "SELECT * FROM jobs.pause_job($1, 'j', 'r', NULL, '')",
    "resume_job": "SELECT * FROM jobs.resume_job($1, 'j', '')",
    "advance_job": "SELECT * FROM jobs.advance_job($1, 'j', 0, '')",
}


@pytest.mark.parametrize("function", READS)
@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_started_execution_is_not_held_when_the_transaction_is_older_than_its_release(
    world: World, function: str
) -> None:
    """A transaction starts before the snapshot of its query: by the wait for a lock, at least."""
    tenant = world.tenant
    await world.database.add_devices(tenant, 3)
    stage = {"remainder": True, "releases_per_minute": 60}
    job = await world.create_staged(stage)
    released = "UPDATE jobs.jobs SET release_since = now() - interval '%s' WHERE tenant_id = $1"
    await world.database.owner.execute(released % "-1 hour", tenant)
    async with request_session(world.database) as (session, _), session.transaction():
        await session.execute("SELECT now()")  # the start of the transaction
        await world.database.owner.execute(released % "1 second", tenant)
        assert await job.device(0).start_next()

        row = await session.fetchrow(READS[function], tenant)

    assert row is not None
    assert (row["held"], row["queued"], row["in_progress"]) == (2, 0, 1)
    if function == "get_job":
        assert Counter(row["statuses"]) == {"IN_PROGRESS": 1, "HELD": 2}
