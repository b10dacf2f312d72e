"""DeleteJob: readers no longer see the job; the sweeper purges its rows later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import Failure, expect_failure
from tests.support.server import Server


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The only device of the tenant, with a QUEUED execution of job "j"."""
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    return server.device(operator.tenant, "pump")


@pytest.fixture
async def session(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A session of the request role, in which tests hold a transaction open."""
    connection = await asyncpg.connect(database.request_dsn)
    yield connection
    await connection.close()


async def finish(database: Database, pump: Device, operator: Operator, history: str) -> None:
    """Finish job "j" in one of the possible ways."""
    match history:
        case "completed":
            await pump.update("j", "SUCCEEDED")
        case "expired":
            await database.expire(operator.tenant, "j")
        case "canceled":
            await operator.cancel("j")
        case _:
            await pump.start("j")
            await operator.cancel("j", force=True)


@pytest.mark.parametrize("history", ["completed", "expired", "canceled", "canceled with force"])
async def test_operators_do_not_find_a_deleted_job(
    database: Database, pump: Device, operator: Operator, history: str
) -> None:
    await operator.create(job_id="other", target_all=True)
    await finish(database, pump, operator, history)

    await operator.delete("j")

    assert [job.job_id for job in (await operator.list()).jobs] == ["other"]
    for call in (
        operator.get("j"),
        operator.executions("j"),
        operator.cancel("j"),
        operator.cancel("j", force=True),
        operator.retry("j", "FAILED", never_expires=True),
        operator.delete("j"),
    ):
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as failure:
            await call
        assert failure.metadata == {"jobId": "j"}
    for execution_call in (
        operator.attempts("j", "pump"),
        operator.cancel_execution("j", "pump"),
    ):
        with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
            await execution_call


@pytest.mark.parametrize("history", ["completed", "expired", "canceled", "canceled with force"])
async def test_devices_do_not_find_a_deleted_job(
    database: Database, pump: Device, operator: Operator, history: str
) -> None:
    await finish(database, pump, operator, history)

    await operator.delete("j")

    assert not (await pump.pending()).executions
    assert await pump.start_next() is None
    for call in (
        pump.get("j"),
        pump.start("j"),
        pump.update("j", "SUCCEEDED"),
        pump.update("j", "FAILED", execution_number=7),
    ):
        with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND") as failure:
            await call
        assert failure.metadata == {"jobId": "j", "deviceId": "pump"}


async def test_page_token_does_not_find_a_deleted_job(pump: Device, operator: Operator) -> None:
    token = (await operator.get("j", executions_limit=0)).next_executions_page_token
    await pump.update("j", "SUCCEEDED")

    await operator.delete("j")

    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await operator.executions("j", page_token=token)


async def test_page_token_of_a_deleted_job_is_rejected_when_another_job_has_its_job_id(
    database: Database, server: Server, pump: Device, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["valve"])
    request: dict[str, Any] = {"job_id": "k", "target_all": True}
    await operator.create(**request)
    rejected: dict[str, Any] = {"status": pb.JobExecution.REJECTED}
    broken = {"failure_code": "BROKEN"}
    for device in ("pump", "valve"):
        await operator.cancel_execution("k", device)
    await operator.retry("k", pb.JobExecution.REJECTED)
    for device in ("pump", "valve"):
        await server.device(operator.tenant, device).update("k", "REJECTED", **broken)

    of_job = (await operator.get("k", executions_limit=0)).next_executions_page_token
    of_all = (await operator.executions("k", limit=1)).next_page_token
    of_status = (await operator.executions("k", limit=1, **rejected)).next_page_token
    of_code = (await operator.executions("k", limit=1, **broken)).next_page_token
    of_attempts = (await operator.attempts_page("k", "pump", limit=1)).next_page_token
    await operator.delete("k")
    await database.owner.fetch("SELECT jobs.purge_job($1, 'k', '', 10, 1000)", operator.tenant)
    await operator.create(**request)

    def expect_rejection() -> AbstractContextManager[Failure]:
        return expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")

    with expect_rejection() as failure:
        await operator.executions("k", page_token=of_job)
    assert failure.message == (
        "page_token belongs to an earlier job with this job_id, which was deleted; omit it to"
        " start from the first page"
    )
    with expect_rejection():
        await operator.executions("k", page_token=of_all)
    with expect_rejection():
        await operator.executions("k", page_token=of_status, **rejected)
    with expect_rejection():
        await operator.executions("k", page_token=of_code, **broken)
    with expect_rejection():
        await operator.attempts_page("k", "pump", page_token=of_attempts)


async def test_job_id_of_a_deleted_job_cannot_be_reused(pump: Device, operator: Operator) -> None:
    await pump.update("j", "SUCCEEDED")
    await operator.delete("j")

    for fields in ({}, {"document_type": "update"}):
        with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS") as failure:
            await operator.create(job_id="j", target_all=True, **fields)
        assert failure.message.startswith("Job j was deleted and is not purged yet;")


async def test_delete_is_rejected_when_job_is_in_progress(pump: Device, operator: Operator) -> None:
    for _ in range(2):  # QUEUED first, then IN_PROGRESS
        with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_DELETABLE") as failure:
            await operator.delete("j")
        assert failure.message == "Cannot delete job j in status IN_PROGRESS; cancel it first"
        assert failure.metadata == {"jobId": "j", "status": "IN_PROGRESS"}
        await pump.start("j")

    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(in_progress=1)


async def test_delete_is_rejected_when_an_expired_job_has_an_execution_in_progress(
    database: Database, pump: Device, operator: Operator
) -> None:
    await pump.start("j")
    await database.expire(operator.tenant, "j")

    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_DELETABLE") as failure:
        await operator.delete("j")

    assert failure.metadata["status"] == "IN_PROGRESS"


async def test_canceled_job_can_be_deleted_after_its_last_report(
    pump: Device, operator: Operator
) -> None:
    await pump.start("j")
    await operator.cancel("j")

    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_DELETABLE") as failure:
        await operator.delete("j")
    assert (
        failure.message == "Cannot delete job j in status CANCELED while executions are IN_PROGRESS"
    )
    assert failure.metadata == {"jobId": "j", "status": "CANCELED"}

    await pump.update("j", "SUCCEEDED")
    await operator.delete("j")


async def test_delete_is_rejected_when_job_does_not_exist_in_the_tenant(
    server: Server, pump: Device, operator: Operator
) -> None:
    await pump.update("j", "SUCCEEDED")

    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await operator.delete("missing")
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await server.operator(operator.tenant + "-other").delete("j")
    assert (await operator.get("j")).status == pb.Job.COMPLETED


async def test_delete_writes_no_execution_rows(
    database: Database, pump: Device, operator: Operator
) -> None:
    query = "SELECT xmin, * FROM jobs.job_executions WHERE tenant_id = $1"
    await pump.update("j", "SUCCEEDED")
    before = await database.owner.fetch(query, operator.tenant)

    await operator.delete("j")

    assert await database.owner.fetch(query, operator.tenant) == before


async def test_delete_is_rejected_when_a_concurrent_start_is_first(
    database: Database, pump: Device, operator: Operator
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        starting = asyncio.create_task(pump.start("j"))
        await database.wait_for_blocked_sessions(1)
        deleting = asyncio.create_task(operator.delete("j"))
        await database.wait_for_blocked_sessions(2)

    assert (await starting).status == pb.JobExecution.IN_PROGRESS
    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_DELETABLE"):
        await deleting


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_is_rejected_when_a_concurrent_delete_is_first(
    database: Database, pump: Device, operator: Operator, session: asyncpg.Connection
) -> None:
    async with session.transaction():
        await session.execute("SELECT jobs.cancel_job($1, 'j', 'no')", operator.tenant)
        await session.execute("SELECT jobs.delete_job($1, 'j')", operator.tenant)
        starting = asyncio.create_task(pump.start("j"))
        await database.wait_for_blocked_sessions(1)

    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await starting


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_start_next_starts_another_job_when_a_concurrent_delete_is_first(
    database: Database, pump: Device, operator: Operator, session: asyncpg.Connection
) -> None:
    """The job was still IN_PROGRESS when the start chose it."""
    await operator.create(job_id="next", target_all=True)
    async with session.transaction():
        await session.execute("SELECT jobs.cancel_job($1, 'j', 'no')", operator.tenant)
        await session.execute("SELECT jobs.delete_job($1, 'j')", operator.tenant)
        starting = asyncio.create_task(pump.start_next())
        await database.wait_for_blocked_sessions(1)

    started = await starting
    assert started is not None
    assert started.job_id == "next"


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_report_is_rejected_when_a_concurrent_delete_is_first(
    database: Database, pump: Device, operator: Operator, session: asyncpg.Connection
) -> None:
    async with session.transaction():
        await session.execute("SELECT jobs.cancel_job($1, 'j', 'no')", operator.tenant)
        await session.execute("SELECT jobs.delete_job($1, 'j')", operator.tenant)
        reporting = asyncio.create_task(pump.update("j", "SUCCEEDED"))
        await database.wait_for_blocked_sessions(1)

    with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
        await reporting


async def test_delete_is_rejected_when_a_concurrent_retry_is_first(
    database: Database, pump: Device, operator: Operator
) -> None:
    await pump.update("j", "FAILED")
    async with job_lock_held(database, operator.tenant, "j"):
        retrying = asyncio.create_task(operator.retry("j", "FAILED"))
        await database.wait_for_blocked_sessions(1)
        deleting = asyncio.create_task(operator.delete("j"))
        await database.wait_for_blocked_sessions(2)

    assert (await retrying).retried_count == 1
    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_DELETABLE"):
        await deleting
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS


async def test_second_of_two_concurrent_deletes_is_rejected(
    database: Database, pump: Device, operator: Operator
) -> None:
    await pump.update("j", "SUCCEEDED")
    async with job_lock_held(database, operator.tenant, "j"):
        first = asyncio.create_task(operator.delete("j"))
        await database.wait_for_blocked_sessions(1)
        second = asyncio.create_task(operator.delete("j"))
        await database.wait_for_blocked_sessions(2)

    await first
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await second
