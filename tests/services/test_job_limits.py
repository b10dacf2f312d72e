"""Limits of jobs: how many devices one may have, and how many a tenant's may be in progress."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import Failure, expect_failure
from tests.support.server import Server, running_server

EXHAUSTED = StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
async def strict(database: Database) -> AsyncIterator[Server]:
    """A server that takes jobs of three devices, and two of a tenant."""
    limits = {"JOBS_MAX_TARGETS": "3", "JOBS_MAX_ACTIVE_JOBS": "2"}
    async with running_server(database.request_dsn, **limits) as server:
        yield server


@pytest.fixture
async def limited(database: Database, strict: Server, tenant: str) -> Operator:
    """A tenant of that server, with three devices, all in the group "g"."""
    await database.add_devices(tenant, 3, group="g")
    return strict.operator(tenant)


def is_limit(failure: Failure, limit: str, value: str, retry_after: int | None) -> bool:
    """Whether a failure is of that limit."""
    assert failure.retry_after == retry_after
    return failure.metadata == {"setting": limit, "value": value} and limit in failure.message


async def test_a_job_has_so_many_devices(database: Database, limited: Operator) -> None:
    assert (await limited.create(job_id="all", target_all=True)).execution_count == 3
    await database.add_devices(limited.tenant, ["one-more"], group="g")

    for target in ({"target_all": True}, {"target_group_id": "g"}):
        with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED") as failure:
            await limited.create(job_id="too-many", **target)
        assert is_limit(failure, "JOBS_MAX_TARGETS", "3", None)

    # The same request again is still answered, and nothing is left of the others.
    assert (await limited.create(job_id="all", target_all=True)).execution_count == 3
    assert [job.job_id for job in (await limited.list()).jobs] == ["all"]
    assert (await limited.create(target_device_id="one-more")).execution_count == 1


async def test_devices_that_join_just_then_count(database: Database, limited: Operator) -> None:
    """The claim of the job_id is held up, and with it what comes after the first look."""
    joining = await asyncpg.connect(database.owner_dsn)
    await joining.execute("BEGIN")
    await joining.execute("LOCK jobs.job_executions IN ACCESS EXCLUSIVE MODE")
    creating = asyncio.create_task(limited.create(job_id="j", target_all=True))
    await database.wait_for_blocked_sessions(1)

    await database.add_devices(limited.tenant, ["one-more"])
    await joining.execute("COMMIT")
    await joining.close()

    with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED") as failure:
        await creating
    assert is_limit(failure, "JOBS_MAX_TARGETS", "3", None)


async def test_a_tenant_has_so_many_jobs_in_progress(strict: Server, limited: Operator) -> None:
    await limited.create(job_id="a", target_all=True)
    await limited.create(job_id="b", target_all=True)

    with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED") as failure:
        await limited.create(job_id="c", target_all=True)

    assert is_limit(failure, "JOBS_MAX_ACTIVE_JOBS", "2", 60)
    assert (await limited.create(job_id="b", target_all=True)).execution_count == 3
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await limited.create(job_id="b", target_group_id="g")
    # Another tenant's are its own.
    with expect_failure(StatusCode.FAILED_PRECONDITION, "TENANT_EMPTY"):
        await strict.operator("nobody").create(target_all=True)

    await limited.cancel("a")
    await limited.create(job_id="c", target_all=True)


async def test_a_job_past_its_expiry_is_in_progress_only_while_a_device_is(
    database: Database, strict: Server, limited: Operator
) -> None:
    device = strict.device(limited.tenant, "d00001")
    for job_id in ("running", "expired"):
        await limited.create(job_id=job_id, target_all=True)
    await device.start("running")
    for job_id in ("running", "expired"):
        await database.expire(limited.tenant, job_id)

    await limited.create(job_id="a", never_expires=True, target_all=True)
    with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED"):
        await limited.create(job_id="b", target_all=True)

    await device.update("running", "SUCCEEDED")
    await limited.create(job_id="b", target_all=True)


async def test_a_retry_makes_a_job_one_more(strict: Server, limited: Operator) -> None:
    device = strict.device(limited.tenant, "d00001")
    await limited.create(job_id="failed", target_device_id="d00001")
    await device.update("failed", "FAILED")
    for job_id in ("a", "b"):
        await limited.create(job_id=job_id, target_all=True)

    with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED") as failure:
        await limited.retry("failed", "FAILED")
    assert is_limit(failure, "JOBS_MAX_ACTIVE_JOBS", "2", 60)
    assert (await limited.retry("failed", "REJECTED")).retried_count == 0

    await limited.cancel("a")
    assert (await limited.retry("failed", "FAILED")).retried_count == 1
    # It counts already.
    await device.update("b", "FAILED")
    assert (await limited.retry("b", "FAILED")).retried_count == 1


async def test_jobs_that_come_at_once_do_not_pass_together(
    database: Database, limited: Operator
) -> None:
    """Both have counted, or would, before either is there; the second waits for the first."""
    await limited.create(job_id="a", target_all=True)
    holder = await asyncpg.connect(database.owner_dsn)
    await holder.execute("BEGIN")
    await holder.execute("LOCK jobs.job_executions IN ACCESS EXCLUSIVE MODE")
    first = asyncio.create_task(limited.create(job_id="b", target_all=True))
    await database.wait_for_blocked_sessions(1)
    second = asyncio.create_task(limited.create(job_id="c", target_all=True))
    await database.wait_for_blocked_sessions(2)

    await holder.execute("COMMIT")
    await holder.close()

    assert (await first).execution_count == 3
    with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED"):
        await second


async def test_far_from_the_limit_jobs_do_not_wait_for_one_another(
    database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    async with running_server(database.request_dsn, JOBS_MAX_ACTIVE_JOBS="100000") as server:
        holder = await asyncpg.connect(database.owner_dsn)
        async with holder.transaction():
            # As another job that is being created would.
            await holder.execute(
                "SELECT pg_advisory_xact_lock_shared(hashtextextended('jobs of ' || $1, 0))", tenant
            )
            await server.operator(tenant).create(target_all=True)
        await holder.close()
