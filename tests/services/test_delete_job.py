"""DeleteJob: readers no longer see the job; the sweeper purges its rows later."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.world import World


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The only device of the tenant, with a QUEUED execution of job "j"."""
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    return server.device(operator.tenant, "pump")


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
async def test_operators_and_devices_do_not_find_a_deleted_job(
    database: Database, pump: Device, operator: Operator, history: str
) -> None:
    await operator.create(job_id="other", target_all=True)
    token = (await operator.get("j", executions_limit=0)).next_executions_page_token
    await finish(database, pump, operator, history)

    await operator.delete("j")

    assert [job.job_id for job in (await operator.list()).jobs] == ["other"]
    assert [execution.job_id for execution in (await pump.pending()).executions] == ["other"]
    for job_call in (
        operator.get("j"),
        operator.executions("j"),
        operator.executions("j", page_token=token),
        operator.cancel("j"),
        operator.cancel("j", force=True),
        operator.retry("j", "FAILED", never_expires=True),
        operator.delete("j"),
    ):
        failure = await expect_error("JOB_NOT_FOUND", job_call)
        assert failure.metadata == {"jobId": "j"}
    for execution_call in (
        operator.attempts("j", "pump"),
        operator.cancel_execution("j", "pump"),
        pump.get("j"),
        pump.start("j"),
        pump.update("j", "SUCCEEDED"),
        pump.update("j", "FAILED", execution_number=7),
    ):
        failure = await expect_error("EXECUTION_NOT_FOUND", execution_call)
        assert failure.metadata == {"jobId": "j", "deviceId": "pump"}


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
    of_filters = {
        (await operator.executions("k", limit=1, **filters)).next_page_token: filters
        for filters in ({}, rejected, broken)
    }
    of_attempts = (await operator.attempts_page("k", "pump", limit=1)).next_page_token
    await operator.delete("k")
    await database.owner.fetch("SELECT jobs.purge_job($1, 'k', '', 10, 1000)", operator.tenant)
    await operator.create(**request)

    for call in (
        operator.executions("k", page_token=of_job),
        *(operator.executions("k", page_token=t, **filters) for t, filters in of_filters.items()),
        operator.attempts_page("k", "pump", page_token=of_attempts),
    ):
        failure = await expect_error("INVALID_PAGE_TOKEN", call)
        assert failure.message == (
            "page_token belongs to an earlier job with this job_id, which was deleted; omit it to"
            " start from the first page"
        )


async def test_job_id_of_a_deleted_job_cannot_be_reused(pump: Device, operator: Operator) -> None:
    await pump.update("j", "SUCCEEDED")
    await operator.delete("j")

    for fields in ({}, {"document_type": "update"}):
        failure = await expect_error(
            "JOB_ALREADY_EXISTS", operator.create(job_id="j", target_all=True, **fields)
        )
        assert failure.message.startswith("Job j was deleted and is not purged yet;")


async def test_delete_is_rejected_when_job_is_in_progress(world: World, pump: Device) -> None:
    async def check() -> None:
        failure = await expect_error("JOB_NOT_DELETABLE", world.operator.delete("j"))
        assert failure.message == "Cannot delete job j in status IN_PROGRESS; cancel it first"
        assert failure.metadata == {"jobId": "j", "status": "IN_PROGRESS"}

    await check()
    await pump.start("j")
    await check()
    await world.expire()
    await check()
    assert (await world.operator.get("j")).execution_counts == pb.ExecutionCounts(in_progress=1)


async def test_canceled_job_can_be_deleted_after_its_last_report(
    pump: Device, operator: Operator
) -> None:
    await pump.start("j")
    await operator.cancel("j")

    failure = await expect_error("JOB_NOT_DELETABLE", operator.delete("j"))
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
    other = server.operator(operator.tenant + "-other")

    for call in (operator.delete("missing"), other.delete("j")):
        await expect_error("JOB_NOT_FOUND", call)
    assert (await operator.get("j")).status == pb.Job.COMPLETED


async def test_delete_writes_no_execution_rows(world: World, pump: Device) -> None:
    query = "SELECT xmin, * FROM jobs.job_executions WHERE tenant_id = $1"
    await pump.update("j", "SUCCEEDED")
    before = await world.database.owner.fetch(query, world.tenant)

    await world.operator.delete("j")

    assert await world.database.owner.fetch(query, world.tenant) == before


@pytest.mark.parametrize("first", ["start", "retry"])
async def test_delete_is_rejected_when_a_concurrent_start_or_retry_is_first(
    world: World, pump: Device, first: str
) -> None:
    if first == "retry":
        await pump.update("j", "FAILED")
    call = pump.start("j") if first == "start" else world.operator.retry("j", "FAILED")
    starting, deleting = await world.lock_in_order(call, world.operator.delete("j"))

    await starting
    await expect_error("JOB_NOT_DELETABLE", deleting)
    assert await world.operator.counts() == {"in_progress" if first == "start" else "queued": 1}


async def test_second_of_two_concurrent_deletes_is_rejected(world: World, pump: Device) -> None:
    await pump.update("j", "SUCCEEDED")
    calls = world.operator.delete("j"), world.operator.delete("j")
    first, second = await world.lock_in_order(*calls)

    await first
    await expect_error("JOB_NOT_FOUND", second)
