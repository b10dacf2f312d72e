"""JOBS_MAX_TARGETS and JOBS_MAX_ACTIVE_JOBS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from grpc import StatusCode

from jobs_grpc.limits import active_jobs
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import check_limit_error, expect_failure
from tests.support.server import Server, running_server

EXHAUSTED = StatusCode.RESOURCE_EXHAUSTED
ONE_CONNECTION = {"JOBS_POOL_MIN_SIZE": "1", "JOBS_POOL_MAX_SIZE": "1"}


@pytest.fixture(scope="module")
async def limited_server(database: Database) -> AsyncIterator[Server]:
    """A server that allows three targets per job and two active jobs per tenant."""
    limits = {"JOBS_MAX_TARGETS": "3", "JOBS_MAX_ACTIVE_JOBS": "2"}
    async with running_server(database.request_dsn, **limits) as server:
        yield server


@pytest.fixture
async def limited(database: Database, limited_server: Server, tenant: str) -> Operator:
    """An operator of that server, with three devices that are members of the group "g"."""
    await database.add_devices(tenant, 3, group="g")
    return limited_server.operator(tenant)


async def test_create_is_rejected_when_job_has_too_many_targets(
    database: Database, limited: Operator
) -> None:
    assert (await limited.create(job_id="all", target_all=True)).execution_count == 3
    await database.add_devices(limited.tenant, ["fourth"], group="g")

    for target in ({"target_all": True}, {"target_group_id": "g"}):
        with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED") as failure:
            await limited.create(job_id="too-many", **target)
        check_limit_error(failure, "JOBS_MAX_TARGETS", "3", None)

    # A repeated request still succeeds, and the rejected requests stored nothing.
    assert (await limited.create(job_id="all", target_all=True)).execution_count == 3
    assert [job.job_id for job in (await limited.list()).jobs] == ["all"]
    assert (await limited.create(target_device_id="fourth")).execution_count == 1


async def test_create_is_rejected_when_devices_added_while_it_runs_exceed_the_limit(
    database: Database, limited: Operator
) -> None:
    """A table lock stops the create between its first check and its insert."""
    session = await asyncpg.connect(database.owner_dsn)
    await session.execute("BEGIN")
    await session.execute("LOCK jobs.job_executions IN ACCESS EXCLUSIVE MODE")
    creating = asyncio.create_task(limited.create(job_id="j", target_all=True))
    await database.wait_for_blocked_sessions(1)

    await database.add_devices(limited.tenant, ["fourth"])
    await session.execute("COMMIT")
    await session.close()

    with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED") as failure:
        await creating
    check_limit_error(failure, "JOBS_MAX_TARGETS", "3", None)


async def test_create_is_rejected_when_tenant_has_too_many_active_jobs(
    limited_server: Server, limited: Operator
) -> None:
    await limited.create(job_id="a", target_all=True)
    await limited.create(job_id="b", target_all=True)

    with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED") as failure:
        await limited.create(job_id="c", target_all=True)

    check_limit_error(failure, "JOBS_MAX_ACTIVE_JOBS", "2", 60)
    assert (await limited.create(job_id="b", target_all=True)).execution_count == 3
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await limited.create(job_id="b", target_group_id="g")
    # Jobs of one tenant do not count for another: this tenant fails for another reason.
    with expect_failure(StatusCode.FAILED_PRECONDITION, "TENANT_EMPTY"):
        await limited_server.operator("without-devices").create(target_all=True)

    await limited.cancel("a")
    await limited.create(job_id="c", target_all=True)


async def test_paused_job_counts_as_active(limited: Operator) -> None:
    for job_id in ("a", "b"):
        await limited.create(job_id=job_id, target_all=True)
        await limited.pause(job_id)

    with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED"):
        await limited.create(job_id="c", target_all=True)


async def test_expired_job_counts_as_active_only_while_an_execution_is_in_progress(
    database: Database, limited_server: Server, limited: Operator
) -> None:
    device = limited_server.device(limited.tenant, "d00001")
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


async def test_retry_is_rejected_when_tenant_has_too_many_active_jobs(
    limited_server: Server, limited: Operator
) -> None:
    device = limited_server.device(limited.tenant, "d00001")
    await limited.create(job_id="failed", target_device_id="d00001")
    await device.update("failed", "FAILED")
    for job_id in ("a", "b"):
        await limited.create(job_id=job_id, target_all=True)

    with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED") as failure:
        await limited.retry("failed", "FAILED")
    check_limit_error(failure, "JOBS_MAX_ACTIVE_JOBS", "2", 60)
    assert (await limited.retry("failed", "REJECTED")).retried_count == 0

    await limited.cancel("a")
    assert (await limited.retry("failed", "FAILED")).retried_count == 1
    # Job "b" is IN_PROGRESS already, so it counts already.
    await device.update("b", "FAILED")
    assert (await limited.retry("b", "FAILED")).retried_count == 1


@asynccontextmanager
async def _row_is_locked(database: Database, tenant: str, job_id: str) -> AsyncIterator[None]:
    """A create of the job waits for this row, after it has checked the limit."""
    session = await asyncpg.connect(database.owner_dsn)
    try:
        await session.execute("BEGIN")
        await session.execute(
            "INSERT INTO jobs.job_executions"
            " (tenant_id, job_id, device_id, queued_at, last_updated_at)"
            " VALUES ($1, $2, 'd00001', now(), now())",
            tenant,
            job_id,
        )
        yield
        await session.execute("ROLLBACK")
    finally:
        await session.close()


@asynccontextmanager
async def _count_blocks(database: Database, tenant: str) -> AsyncIterator[None]:
    """A call that counts the active jobs waits for this lock."""
    session = await asyncpg.connect(database.owner_dsn)
    try:
        async with session.transaction():
            await session.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('jobs of ' || $1, 0))", tenant
            )
            yield
    finally:
        await session.close()


async def test_second_of_two_concurrent_creates_is_rejected_at_the_limit(
    database: Database, tenant: str
) -> None:
    """The second create waits for the first before it counts the active jobs."""
    await database.add_devices(tenant, 1)
    async with running_server(database.request_dsn, JOBS_MAX_ACTIVE_JOBS="1") as server:
        operator = server.operator(tenant)
        async with _row_is_locked(database, tenant, "b"):
            first = asyncio.create_task(operator.create(job_id="b", target_all=True))
            await database.wait_for_blocked_sessions(1)
            second = asyncio.create_task(operator.create(job_id="c", target_all=True))
            await database.wait_for_blocked_sessions(2)

        assert (await first).execution_count == 1
        with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED"):
            await second


async def test_creates_count_jobs_again_within_a_tenth_of_the_limit(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_jobs, "MAX_AGE_SECONDS", 3600.0)
    await database.add_devices(tenant, 1)
    async with running_server(database.request_dsn, JOBS_MAX_ACTIVE_JOBS="10") as server:
        operator = server.operator(tenant)
        await operator.create(job_id="j0", target_all=True)
        async with _count_blocks(database, tenant):
            for number in range(1, 9):
                await operator.create(job_id=f"j{number}", target_all=True)
            tenth = asyncio.create_task(operator.create(job_id="j9", target_all=True))
            await database.wait_for_blocked_sessions(1)

        await tenth
        with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED"):
            await operator.create(job_id="j10", target_all=True)


async def test_job_that_is_created_without_a_count_counts_once(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last call gets the only connection after the others, which do not count, have ended."""
    monkeypatch.setattr(active_jobs, "MAX_AGE_SECONDS", 3600.0)
    await database.add_devices(tenant, 1)
    limits = {"JOBS_MAX_ACTIVE_JOBS": "10", **ONE_CONNECTION}
    async with running_server(database.request_dsn, **limits) as server:
        operator = server.operator(tenant)
        await operator.create(job_id="j0", target_all=True)
        async with _row_is_locked(database, tenant, "j1"):
            creating = [asyncio.create_task(operator.create(job_id="j1", target_all=True))]
            await database.wait_for_blocked_sessions(1)
            creating += [
                asyncio.create_task(operator.create(job_id=f"j{number}", target_all=True))
                for number in range(2, 10)
            ]
        await asyncio.gather(*creating)

        with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED"):
            await operator.create(job_id="j10", target_all=True)


async def test_another_process_exceeds_the_limit_by_what_it_creates_before_it_counts_again(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_jobs, "MAX_AGE_SECONDS", 3600.0)
    await database.add_devices(tenant, 1)
    limits = {"JOBS_MAX_ACTIVE_JOBS": "10"}
    async with (
        running_server(database.request_dsn, **limits) as first,
        running_server(database.request_dsn, **limits) as second,
    ):
        await second.operator(tenant).create(job_id="second", target_all=True)
        for number in range(9):
            await first.operator(tenant).create(job_id=f"first-{number}", target_all=True)
        # The second process knows of one job.
        for number in range(8):
            await second.operator(tenant).create(job_id=f"second-{number}", target_all=True)

        for server in (first, second):
            with expect_failure(EXHAUSTED, "LIMIT_EXCEEDED"):
                await server.operator(tenant).create(job_id="beyond", target_all=True)


async def test_concurrent_creates_do_not_wait_for_each_other_far_from_the_limit(
    database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    async with running_server(database.request_dsn, JOBS_MAX_ACTIVE_JOBS="100000") as server:
        session = await asyncpg.connect(database.owner_dsn)
        async with session.transaction():
            # The lock that a concurrent create holds.
            await session.execute(
                "SELECT pg_advisory_xact_lock_shared(hashtextextended('jobs of ' || $1, 0))", tenant
            )
            await server.operator(tenant).create(target_all=True)
        await session.close()
