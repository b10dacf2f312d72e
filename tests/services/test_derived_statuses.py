"""Derived statuses: expiry, alone and together with cancel.

Tests of the exact moment of expiry call the SQL functions in one transaction, in which now() is
constant.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.postgres import connected
from tests.support.server import Server
from tests.support.world import World

MICROSECOND = timedelta(microseconds=1)

STATUSES = ("QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED")


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database.owner_dsn) as connection, connection.transaction():
        yield connection


async def expire_in(connection: asyncpg.Connection, tenant: str, delta: timedelta) -> None:
    await connection.execute(
        "UPDATE jobs.jobs SET expires_at = now() + $2 WHERE tenant_id = $1", tenant, delta
    )


async def read(connection: asyncpg.Connection, tenant: str) -> dict[str, Any]:
    row = await connection.fetchrow("SELECT * FROM jobs.get_job($1, 'j', 100)", tenant)
    assert row is not None
    return dict(row)


async def found_statuses(connection: asyncpg.Connection, tenant: str) -> set[str]:
    """The status filters with which list_jobs and list_job_executions find something."""
    statuses = set()
    for status in ("IN_PROGRESS", "COMPLETED", "CANCELED"):
        if await connection.fetch(
            "SELECT * FROM jobs.list_jobs($1, $2, NULL, NULL, 10, 0)", tenant, [status]
        ):
            statuses.add(f"job {status}")
    for status in STATUSES:
        if await connection.fetchval(
            "SELECT device_ids FROM jobs.list_job_executions($1, 'j', $2, '', 10)", tenant, status
        ):
            statuses.add(status)
    return statuses


async def stored_rows(database: Database, tenant: str) -> list[Any]:
    """The stored rows of the tenant's jobs, with the transactions that wrote them."""
    return [
        await database.owner.fetch(
            f"SELECT xmin, t.* FROM {table} t WHERE tenant_id = $1 ORDER BY 2, 3, 4", tenant
        )
        for table in ("jobs.jobs", "jobs.job_progress", "jobs.job_executions")
    ]


@pytest.mark.single_node("each node has its own now() in a transaction")
@pytest.mark.parametrize(
    ("history", "expires_in", "status", "statuses"),
    [
        ("", MICROSECOND, "IN_PROGRESS", ["QUEUED", "QUEUED"]),
        ("", timedelta(), "COMPLETED", ["TIMED_OUT", "TIMED_OUT"]),
        ("started", timedelta(), "IN_PROGRESS", ["IN_PROGRESS", "TIMED_OUT"]),
        ("canceled", timedelta(), "CANCELED", ["REJECTED", "REJECTED"]),
    ],
)
async def test_job_expires_at_the_microsecond_of_its_expiry(
    world: World, history: str, expires_in: timedelta, status: str, statuses: list[str]
) -> None:
    await world.add_devices(["a", "b"])
    await world.create()
    if history == "started":
        await world.device("a").start("j")
    elif history == "canceled":
        await world.operator.cancel("j")

    async with transaction(world.database) as session:
        before = await read(session, world.tenant)
        await expire_in(session, world.tenant, expires_in)
        job = await read(session, world.tenant)
        found = await found_statuses(session, world.tenant)

    assert (job["status"], job["statuses"]) == (status, statuses)
    assert {name: job[name.lower()] for name in STATUSES if job[name.lower()]} == Counter(statuses)
    assert found == {f"job {status}", *statuses}
    for n, name in enumerate(statuses):
        if name == "TIMED_OUT":
            assert job["status_details"][n] == '{"reason": "job expired"}'
            assert job["last_updated_ats"][n] == job["expires_at"]
    if status == "COMPLETED":
        assert job["updated_at"] == job["expires_at"]
    if status == "CANCELED":
        assert job | {"expires_at": None} == before | {"expires_at": None}


async def test_expired_job_reads_as_completed_without_a_write(world: World) -> None:
    await world.add_devices(2)
    await world.create()
    await world.expire()
    before = await stored_rows(world.database, world.tenant)

    job = await world.operator.get("j")

    assert job.status == pb.Job.COMPLETED
    assert job.updated_at == job.expires_at
    assert job.execution_counts == pb.ExecutionCounts(timed_out=2)
    assert job.failed_count == 2
    for execution in job.executions:
        assert execution.status == pb.JobExecution.TIMED_OUT
        assert execution.status_details == {"reason": "job expired"}
        assert execution.last_updated_at == job.expires_at
    assert (await world.operator.list()).jobs[0].status == pb.Job.COMPLETED
    assert (await world.operator.executions("j")).executions == job.executions
    assert await stored_rows(world.database, world.tenant) == before


async def test_timed_out_executions_are_unchanged_when_an_expired_job_is_canceled(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["queued", "running"])
    await operator.create(job_id="j", target_all=True)
    await server.device(operator.tenant, "running").start("j")
    await database.expire(operator.tenant, "j")

    await operator.cancel("j", reason="no")

    job = await operator.get("j")
    assert (job.status, job.cancel_reason) == (pb.Job.CANCELED, "no")
    assert job.execution_counts == pb.ExecutionCounts(timed_out=1, in_progress=1)
    assert job.executions[0].status_details == {"reason": "job expired"}
    assert job.executions[0].last_updated_at == job.expires_at
