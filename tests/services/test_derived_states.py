"""States that nobody writes down: expiry, alone and together with cancel.

Where the moment of expiry itself matters, a test asks the SQL functions in a transaction
of its own, in which now() stands still.
"""

import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.scale import examples
from tests.support.server import Server

MICROSECOND = timedelta(microseconds=1)

STATES = ("QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED")

# What becomes of a queued execution.
FATES = {
    "live": "QUEUED",
    "expired": "TIMED_OUT",
    "canceled": "REJECTED",
    "canceled with force": "REJECTED",
    "canceled, then expired": "REJECTED",
    "expired, then canceled": "TIMED_OUT",
}


@asynccontextmanager
async def frozen(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """An owner's session, in a transaction that begins now."""
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


async def expire_in(connection: asyncpg.Connection, tenant: str, delta: timedelta) -> None:
    """Let the tenant's jobs expire at now() and a bit."""
    await connection.execute(
        "UPDATE jobs.jobs SET expires_at = now() + $2 WHERE tenant_id = $1", tenant, delta
    )


async def read(connection: asyncpg.Connection, tenant: str) -> dict[str, Any]:
    """The tenant's job "j" and its executions, as get_job tells them."""
    row = await connection.fetchrow("SELECT * FROM jobs.get_job($1, 'j', 100)", tenant)
    assert row is not None
    return dict(row)


async def found(connection: asyncpg.Connection, tenant: str) -> set[str]:
    """The statuses under which list_jobs and list_job_executions find something."""
    statuses = set()
    for status in ("IN_PROGRESS", "COMPLETED", "CANCELED"):
        if await connection.fetch(
            "SELECT * FROM jobs.list_jobs($1, $2, NULL, NULL, 10, 0)", tenant, [status]
        ):
            statuses.add(f"job {status}")
    for status in STATES:
        if await connection.fetchval(
            "SELECT device_ids FROM jobs.list_job_executions($1, 'j', $2, '', 10)", tenant, status
        ):
            statuses.add(status)
    return statuses


async def rows(database: Database, tenant: str) -> list[Any]:
    """All that is stored of the tenant's jobs, with the transactions that wrote it."""
    return [
        await database.owner.fetch(
            f"SELECT xmin, t.* FROM {table} t WHERE tenant_id = $1 ORDER BY 2, 3, 4", tenant
        )
        for table in ("jobs.jobs", "jobs.job_progress", "jobs.job_executions")
    ]


async def test_until_the_last_microsecond_before_it_expires_the_job_is_live(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 2)
    await operator.create(job_id="j", target_all=True)

    async with frozen(database) as session:
        await expire_in(session, operator.tenant, MICROSECOND)
        job = await read(session, operator.tenant)
        statuses = await found(session, operator.tenant)

    assert job["status"] == "IN_PROGRESS"
    assert job["statuses"] == ["QUEUED", "QUEUED"]
    assert (job["queued"], job["timed_out"]) == (2, 0)
    assert job["updated_at"] == job["created_at"]
    assert statuses == {"job IN_PROGRESS", "QUEUED"}


async def test_at_the_moment_it_expires_the_job_is_completed(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 2)
    await operator.create(job_id="j", target_all=True)

    async with frozen(database) as session:
        await expire_in(session, operator.tenant, timedelta())
        job = await read(session, operator.tenant)
        statuses = await found(session, operator.tenant)

    assert job["status"] == "COMPLETED"
    assert job["statuses"] == ["TIMED_OUT", "TIMED_OUT"]
    assert job["status_details"] == ['{"reason": "job expired"}'] * 2
    assert (job["queued"], job["timed_out"]) == (0, 2)
    assert job["updated_at"] == job["expires_at"]
    assert job["last_updated_ats"] == [job["expires_at"]] * 2
    assert statuses == {"job COMPLETED", "TIMED_OUT"}


async def test_at_the_moment_it_expires_a_job_with_a_device_at_work_is_in_progress(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["a", "b"])
    await operator.create(job_id="j", target_all=True)
    await database.set_status(operator.tenant, "j", "a", "IN_PROGRESS")

    async with frozen(database) as session:
        await expire_in(session, operator.tenant, timedelta())
        job = await read(session, operator.tenant)
        statuses = await found(session, operator.tenant)

    assert job["status"] == "IN_PROGRESS"
    assert job["statuses"] == ["IN_PROGRESS", "TIMED_OUT"]
    assert statuses == {
        "job IN_PROGRESS",
        "IN_PROGRESS",
        "TIMED_OUT",
    }


async def test_a_canceled_job_stays_as_it_is_when_its_expiry_passes(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 2)
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j", reason="no")

    async with frozen(database) as session:
        before = await read(session, operator.tenant)
        await expire_in(session, operator.tenant, timedelta())
        job = await read(session, operator.tenant)
        statuses = await found(session, operator.tenant)

    assert job | {"expires_at": None} == before | {"expires_at": None}
    assert job["statuses"] == ["REJECTED", "REJECTED"]
    assert statuses == {"job CANCELED", "REJECTED"}


async def test_an_expired_job_reads_so_with_nothing_written(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 2)
    await operator.create(job_id="j", target_all=True)
    await database.expire(operator.tenant, "j")
    before = await rows(database, operator.tenant)

    job = await operator.get("j")

    assert job.status == pb.Job.COMPLETED
    assert job.updated_at == job.expires_at
    assert job.execution_counts == pb.ExecutionCounts(timed_out=2)
    assert job.failed_count == 2
    for execution in job.executions:
        assert execution.status == pb.JobExecution.TIMED_OUT
        assert execution.status_details == {"reason": "job expired"}
        assert execution.last_updated_at == job.expires_at
    assert (await operator.list()).jobs[0].status == pb.Job.COMPLETED
    assert (await operator.executions("j")).executions == job.executions
    assert await rows(database, operator.tenant) == before


async def test_a_job_that_never_expires_stays_live(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", target_all=True, never_expires=True)
    await database.owner.execute(
        "UPDATE jobs.jobs SET created_at = '2000-01-01Z' WHERE tenant_id = $1", operator.tenant
    )

    job = await operator.get("j")

    assert job.status == pb.Job.IN_PROGRESS
    assert job.execution_counts == pb.ExecutionCounts(queued=1)


async def test_an_expired_job_at_work_can_be_canceled_and_its_timeouts_stay(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["queued", "running"])
    await operator.create(job_id="j", target_all=True)
    await database.set_status(operator.tenant, "j", "running", "IN_PROGRESS")
    await database.expire(operator.tenant, "j")

    await operator.cancel("j", reason="no")

    job = await operator.get("j")
    assert job.status == pb.Job.CANCELED
    assert job.cancel_reason == "no"
    assert job.execution_counts == pb.ExecutionCounts(timed_out=1, in_progress=1)
    assert job.executions[0].status_details == {"reason": "job expired"}
    assert job.executions[0].last_updated_at == job.expires_at


async def end(database: Database, operator: Operator, history: str, running: bool) -> None:
    """Let the job "j" have that history; an expired job can be canceled only if `running`."""
    if history in ("expired", "expired, then canceled"):
        await database.expire(operator.tenant, "j")
    if history == "expired, then canceled" and not running:
        with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_CANCELABLE"):
            await operator.cancel("j")
    elif "canceled" in history:
        await operator.cancel("j", force="force" in history)
    if history == "canceled, then expired":
        await database.owner.execute(
            "UPDATE jobs.jobs SET expires_at = clock_timestamp() WHERE tenant_id = $1",
            operator.tenant,
        )


@examples(25)
@given(
    states=st.lists(st.sampled_from(STATES), min_size=1, max_size=12),
    history=st.sampled_from(sorted(FATES)),
    limit=st.integers(1, 5),
)
async def test_the_counts_are_those_of_the_executions_that_are_listed(
    database: Database, server: Server, states: list[str], history: str, limit: int
) -> None:
    operator = server.operator(uuid.uuid4().hex)
    await database.add_devices(operator.tenant, len(states))
    await operator.create(job_id="j", target_all=True)
    for number, state in enumerate(states, 1):
        if state != "QUEUED":
            await database.set_status(operator.tenant, "j", f"d{number:05}", state)

    await end(database, operator, history, running="IN_PROGRESS" in states)

    fates = {"QUEUED": FATES[history]}
    if history == "canceled with force":
        fates["IN_PROGRESS"] = "REJECTED"
    expected = Counter(fates.get(state, state) for state in states)
    job = await operator.get("j")
    listed = await all_executions(operator, "j", limit=limit)
    assert Counter(pb.JobExecution.Status.Name(e.status) for e in listed) == expected
    for state in STATES:
        assert getattr(job.execution_counts, state.lower()) == expected[state]
        filtered = await all_executions(operator, "j", limit=limit, status=state)
        assert filtered == [e for e in listed if e.status == pb.JobExecution.Status.Value(state)]
    assert job.total_executions == len(states)
    assert job.succeeded_count == expected["SUCCEEDED"]
    assert job.failed_count == sum(expected[s] for s in ("FAILED", "TIMED_OUT", "REJECTED"))
    (found_job,) = (await operator.list(status=job.status)).jobs
    assert found_job.execution_counts == job.execution_counts
