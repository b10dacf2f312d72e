"""JOBS_MAX_TARGETS and JOBS_MAX_ACTIVE_JOBS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.limits import active_jobs
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import Failure, check_limit_error, expect_error
from tests.support.postgres import connected
from tests.support.server import Server, running_server
from tests.support.world import World

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


async def create(operator: Operator, *job_ids: str) -> None:
    """Create jobs for all devices."""
    for job_id in job_ids:
        await operator.create(job_id=job_id, target_all=True)


async def check_full(operator: Operator, job_id: str = "beyond") -> Failure:
    return await expect_error("LIMIT_EXCEEDED", operator.create(job_id=job_id, target_all=True))


async def test_create_is_rejected_when_job_has_too_many_targets(
    database: Database, limited: Operator
) -> None:
    assert (await limited.create(job_id="all", target_all=True)).execution_count == 3
    await database.add_devices(limited.tenant, ["fourth"], group="g")

    for target in ({"target_all": True}, {"target_group_id": "g"}):
        failure = await expect_error("LIMIT_EXCEEDED", limited.create(job_id="too-many", **target))
        check_limit_error(failure, "JOBS_MAX_TARGETS", "3", None)

    # A repeated request still succeeds, and the rejected requests stored nothing.
    assert (await limited.create(job_id="all", target_all=True)).execution_count == 3
    assert [job.job_id for job in (await limited.list()).jobs] == ["all"]
    assert (await limited.create(target_device_id="fourth")).execution_count == 1


async def test_create_is_rejected_when_devices_added_while_it_runs_exceed_the_limit(
    database: Database, limited: Operator
) -> None:
    """A table lock stops the create between its first check and its insert."""
    async with database.owner.transaction():
        await database.owner.execute("LOCK jobs.job_executions IN ACCESS EXCLUSIVE MODE")
        creating = await database.blocked_in(
            "create_job", limited.create(job_id="j", target_all=True)
        )
        await database.add_devices(limited.tenant, ["fourth"])

    failure = await expect_error("LIMIT_EXCEEDED", creating)
    check_limit_error(failure, "JOBS_MAX_TARGETS", "3", None)


async def test_create_is_rejected_when_tenant_has_too_many_active_jobs(
    limited_server: Server, limited: Operator
) -> None:
    await create(limited, "a", "b")
    await limited.pause("b")  # stays active

    failure = await check_full(limited, "c")

    check_limit_error(failure, "JOBS_MAX_ACTIVE_JOBS", "2", 60)
    await create(limited, "b")
    await expect_error("JOB_ALREADY_EXISTS", limited.create(job_id="b", target_group_id="g"))
    # Jobs of one tenant do not count for another: this tenant fails for another reason.
    await expect_error(
        "TENANT_EMPTY", limited_server.operator("without-devices").create(target_all=True)
    )

    await limited.cancel("a")
    await limited.create(job_id="c", target_all=True)


async def test_expired_job_counts_as_active_only_while_an_execution_is_in_progress(
    database: Database, limited_server: Server, limited: Operator
) -> None:
    device = limited_server.device(limited.tenant, "d00001")
    await create(limited, "running", "expired")
    await device.start("running")
    for job_id in ("running", "expired"):
        await database.expire(limited.tenant, job_id)

    await create(limited, "a")
    await check_full(limited)

    await device.update("running", "SUCCEEDED")
    await create(limited, "b")


async def test_retry_is_rejected_when_tenant_has_too_many_active_jobs(
    limited_server: Server, limited: Operator
) -> None:
    device = limited_server.device(limited.tenant, "d00001")
    await limited.create(job_id="failed", target_device_id="d00001")
    await device.update("failed", "FAILED")
    await create(limited, "a", "b")

    failure = await expect_error("LIMIT_EXCEEDED", limited.retry("failed", "FAILED"))
    check_limit_error(failure, "JOBS_MAX_ACTIVE_JOBS", "2", 60)
    assert (await limited.retry("failed", "REJECTED")).retried_count == 0

    await limited.cancel("a")
    assert (await limited.retry("failed", "FAILED")).retried_count == 1
    # Job "b" is IN_PROGRESS already, so it counts already.
    await device.update("b", "FAILED")
    assert (await limited.retry("b", "FAILED")).retried_count == 1


@asynccontextmanager
async def row_is_locked(database: Database, tenant: str, job_id: str) -> AsyncIterator[None]:
    """A create of the job waits for this row, after it has checked the limit."""
    async with connected(database.owner_dsn) as session:
        await session.execute("BEGIN")
        await session.execute(
            "INSERT INTO jobs.job_executions"
            " (tenant_id, job_id, device_id, queued_at, last_updated_at)"
            " VALUES ($1, $2, 'd00001', now(), now())",
            *(tenant, job_id),
        )
        yield
        await session.execute("ROLLBACK")


@asynccontextmanager
async def jobs_locked(database: Database, tenant: str, mode: str = "") -> AsyncIterator[None]:
    """A call that counts the active jobs waits for this lock; "_shared": that of a create."""
    async with connected(database.owner_dsn) as session, session.transaction():
        await session.execute(
            f"SELECT pg_advisory_xact_lock{mode}(hashtextextended('jobs of ' || $1, 0))", tenant
        )
        yield


@asynccontextmanager
async def operator_with_limit(
    database: Database, tenant: str, limit: int, **variables: str
) -> AsyncIterator[Operator]:
    """An operator of a server that allows this many active jobs, with one device."""
    await database.add_devices(tenant, 1)
    variables["JOBS_MAX_ACTIVE_JOBS"] = str(limit)
    async with running_server(database.request_dsn, **variables) as server:
        yield server.operator(tenant)


@pytest.fixture
def rarely_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process counts the jobs again only if it may have reached the limit."""
    monkeypatch.setattr(active_jobs, "MAX_AGE_SECONDS", 3600.0)


async def test_second_of_two_concurrent_creates_is_rejected_at_the_limit(world: World) -> None:
    """The second create waits for the first before it counts the active jobs."""
    async with operator_with_limit(world.database, world.tenant, 1) as operator:
        async with row_is_locked(world.database, world.tenant, "b"):
            first = await world.blocked(operator.create(job_id="b", target_all=True))
            second = await world.blocked(operator.create(job_id="c", target_all=True), 2)

        assert (await first).execution_count == 1
        await expect_error("LIMIT_EXCEEDED", second)


async def test_replaced_job_does_not_count(database: Database, limited: Operator) -> None:
    await create(limited, "a", "b")
    replacing = {"job_id": "c", "target_all": True, "replaces_job_id": "a"}
    await limited.create(**replacing, validate_only=True)
    async with job_lock_held(database, limited.tenant, "a"):
        first = await database.blocked(limited.create(**replacing))
        second = await database.blocked(limited.create(**replacing | {"job_id": "d"}), 2)

    await first
    # The first one has canceled "a", so the second one would be one more.
    check_limit_error(await expect_error("LIMIT_EXCEEDED", second), "JOBS_MAX_ACTIVE_JOBS", "2", 60)
    assert (await limited.get("a")).replaced_by_job_id == "c"

    # Without a lock, and so before executions are inserted.
    async with jobs_locked(database, limited.tenant):
        third = limited.create(**replacing | {"job_id": "d"})
        await expect_error("LIMIT_EXCEEDED", third)


@pytest.mark.parametrize("is_retried_first", [True, False])
async def test_replacement_and_retry_lock_the_job_before_the_limit(
    database: Database, limited: Operator, is_retried_first: bool
) -> None:
    """A create that locks the limit first, as others do, would deadlock with the retry."""
    await create(limited, "old", "other")
    for device in ("d00001", "d00002", "d00003"):
        await limited.cancel_execution("old", device)
    calls = [
        limited.retry("old", "REJECTED"),
        limited.create(job_id="new", target_all=True, replaces_job_id="old"),
    ]
    async with jobs_locked(database, limited.tenant):
        first, second = calls if is_retried_first else reversed(calls)
        tasks = await database.blocked(first), await database.blocked(second, 2)

    await tasks[0]
    if is_retried_first:
        await tasks[1]
    else:
        await expect_error("LIMIT_EXCEEDED", tasks[1])
    status = pb.Job.CANCELED if is_retried_first else pb.Job.COMPLETED
    assert (await limited.get("old")).status == status


@pytest.mark.usefixtures("rarely_counted")
async def test_creates_count_jobs_again_within_a_tenth_of_the_limit(world: World) -> None:
    async with operator_with_limit(world.database, world.tenant, 10) as operator:
        await create(operator, "j0")
        async with jobs_locked(world.database, world.tenant):
            await create(operator, *(f"j{number}" for number in range(1, 9)))
            tenth = await world.blocked(operator.create(job_id="j9", target_all=True))

        await tenth
        await check_full(operator)


@pytest.mark.usefixtures("rarely_counted")
async def test_job_that_is_created_without_a_count_counts_once(world: World) -> None:
    """The last call gets the only connection after the others, which do not count, have ended."""
    async with operator_with_limit(world.database, world.tenant, 10, **ONE_CONNECTION) as operator:
        await create(operator, "j0")
        async with row_is_locked(world.database, world.tenant, "j1"):
            creating = [asyncio.create_task(create(operator, "j1"))]
            await world.database.wait_for_blocked_sessions(1)
            creating += [
                asyncio.create_task(create(operator, f"j{number}")) for number in range(2, 10)
            ]
        await asyncio.gather(*creating)

        await check_full(operator)


@pytest.mark.usefixtures("rarely_counted")
async def test_another_process_exceeds_the_limit_by_what_it_creates_before_it_counts_again(
    database: Database, tenant: str
) -> None:
    async with (
        operator_with_limit(database, tenant, 10) as first,
        operator_with_limit(database, tenant, 10) as second,
    ):
        await create(second, "second")
        await create(first, *(f"first-{number}" for number in range(9)))
        # The second process knows of one job.
        await create(second, *(f"second-{number}" for number in range(8)))

        await check_full(first)
        await check_full(second)


async def test_concurrent_creates_do_not_wait_for_each_other_far_from_the_limit(
    database: Database, tenant: str
) -> None:
    async with (
        operator_with_limit(database, tenant, 100_000) as operator,
        jobs_locked(database, tenant, "_shared"),
    ):
        await create(operator, "j")
