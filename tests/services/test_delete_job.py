"""DeleteJob: readers no longer see the job; the sweeper purges its rows later."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.failures import expect_error
from tests.support.world import World


@pytest.fixture(autouse=True)
async def job(world: World) -> None:
    """The only device "pump" has a QUEUED execution of job "j"."""
    await world.add_devices(["pump"])
    await world.create()


async def finish(world: World, history: str) -> None:
    match history:
        case "completed":
            await world.pump.update("j", "SUCCEEDED")
        case "expired":
            await world.expire()
        case "canceled":
            await world.operator.cancel("j")
        case _:
            await world.pump.start("j")
            await world.operator.cancel("j", force=True)


@pytest.mark.parametrize("history", ["completed", "expired", "canceled", "canceled with force"])
async def test_operators_and_devices_do_not_find_a_deleted_job(world: World, history: str) -> None:
    await world.create("other")
    token = (await world.operator.get("j", executions_limit=0)).next_executions_page_token
    await finish(world, history)

    await world.operator.delete("j")

    assert [job.job_id for job in (await world.operator.list()).jobs] == ["other"]
    assert [execution.job_id for execution in (await world.pump.pending()).executions] == ["other"]
    for job_call in (
        world.operator.get("j"),
        world.operator.executions("j"),
        world.operator.executions("j", page_token=token),
        world.operator.cancel("j"),
        world.operator.cancel("j", force=True),
        world.operator.retry("j", "FAILED", never_expires=True),
        world.operator.delete("j"),
    ):
        failure = await expect_error("JOB_NOT_FOUND", job_call)
        assert failure.metadata == {"jobId": "j"}
    for execution_call in (
        world.operator.attempts("j", "pump"),
        world.operator.cancel_execution("j", "pump"),
        world.pump.get("j"),
        world.pump.start("j"),
        world.pump.update("j", "SUCCEEDED"),
        world.pump.update("j", "FAILED", execution_number=7),
    ):
        failure = await expect_error("EXECUTION_NOT_FOUND", execution_call)
        assert failure.metadata == {"jobId": "j", "deviceId": "pump"}


async def test_page_token_is_rejected_when_another_job_has_the_job_id(world: World) -> None:
    await world.add_devices(["valve"])
    request: dict[str, Any] = {"job_id": "k", "target_all": True}
    await world.operator.create(**request)
    rejected: dict[str, Any] = {"status": pb.JobExecution.REJECTED}
    broken = {"failure_code": "BROKEN"}
    for device in ("pump", "valve"):
        await world.operator.cancel_execution("k", device)
    await world.operator.retry("k", pb.JobExecution.REJECTED)
    for device in ("pump", "valve"):
        await world.device(device).update("k", "REJECTED", **broken)

    of_job = (await world.operator.get("k", executions_limit=0)).next_executions_page_token
    of_filters = {
        (await world.operator.executions("k", limit=1, **filters)).next_page_token: filters
        for filters in ({}, rejected, broken)
    }
    of_attempts = (await world.operator.attempts_page("k", "pump", limit=1)).next_page_token
    await world.operator.delete("k")
    await world.rows("SELECT jobs.purge_job($1, 'k', '', 10, 1000)")
    await world.operator.create(**request)

    for call in (
        world.operator.executions("k", page_token=of_job),
        *(
            world.operator.executions("k", page_token=t, **filters)
            for t, filters in of_filters.items()
        ),
        world.operator.attempts_page("k", "pump", page_token=of_attempts),
    ):
        failure = await expect_error("INVALID_PAGE_TOKEN", call)
        assert failure.message == (
            "page_token belongs to an earlier job with this job_id, which was deleted; omit it to"
            " start from the first page"
        )


async def test_job_id_of_a_deleted_job_cannot_be_reused(world: World) -> None:
    await world.pump.update("j", "SUCCEEDED")
    await world.operator.delete("j")

    for fields in ({}, {"document_type": "update"}):
        failure = await expect_error("JOB_ALREADY_EXISTS", world.create(**fields))
        assert failure.message.startswith("Job j was deleted and is not purged yet;")


async def test_delete_is_rejected_when_job_is_in_progress(world: World) -> None:
    async def check() -> None:
        failure = await expect_error("JOB_NOT_DELETABLE", world.operator.delete("j"))
        assert failure.message == "Cannot delete job j in status IN_PROGRESS; cancel it first"
        assert failure.metadata == {"jobId": "j", "status": "IN_PROGRESS"}

    await check()
    await world.pump.start("j")
    await check()
    await world.expire()
    await check()
    assert await world.operator.counts() == {"in_progress": 1}


async def test_canceled_job_can_be_deleted_after_its_last_report(world: World) -> None:
    await world.pump.start("j")
    await world.operator.cancel("j")

    failure = await expect_error("JOB_NOT_DELETABLE", world.operator.delete("j"))
    assert (
        failure.message == "Cannot delete job j in status CANCELED while executions are IN_PROGRESS"
    )
    assert failure.metadata == {"jobId": "j", "status": "CANCELED"}

    await world.pump.update("j", "SUCCEEDED")
    await world.operator.delete("j")


async def test_delete_is_rejected_when_job_does_not_exist_in_the_tenant(world: World) -> None:
    await world.pump.update("j", "SUCCEEDED")
    other = world.server.operator(world.tenant + "-other")

    for call in (world.operator.delete("missing"), other.delete("j")):
        await expect_error("JOB_NOT_FOUND", call)
    assert (await world.operator.get("j")).status == pb.Job.COMPLETED


async def test_delete_writes_no_execution_rows(world: World) -> None:
    query = "SELECT xmin, * FROM jobs.job_executions WHERE tenant_id = $1"
    await world.pump.update("j", "SUCCEEDED")
    before = await world.rows(query)

    await world.operator.delete("j")

    assert await world.rows(query) == before


@pytest.mark.parametrize("first", ["start", "retry"])
async def test_delete_is_rejected_when_a_concurrent_start_or_retry_is_first(
    world: World, first: str
) -> None:
    if first == "retry":
        await world.pump.update("j", "FAILED")
    call = world.pump.start("j") if first == "start" else world.operator.retry("j", "FAILED")
    await world.second_fails("JOB_NOT_DELETABLE", call, world.operator.delete("j"))

    assert await world.operator.counts() == {"in_progress" if first == "start" else "queued": 1}


async def test_second_of_two_concurrent_deletes_is_rejected(world: World) -> None:
    await world.pump.update("j", "SUCCEEDED")
    calls = world.operator.delete("j"), world.operator.delete("j")
    await world.second_fails("JOB_NOT_FOUND", *calls)
