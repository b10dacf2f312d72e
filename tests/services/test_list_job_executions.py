"""ListJobExecutions."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server


@pytest.fixture
async def mixed(database: Database, operator: Operator) -> Operator:
    """An operator with the job "j": of d00001 to d00009, the odd ones have succeeded."""
    await database.add_devices(operator.tenant, 9)
    await operator.create(job_id="j", target_all=True)
    for number in range(1, 10, 2):
        await database.set_status(operator.tenant, "j", f"d{number:05}", "SUCCEEDED")
    return operator


def numbers(executions: list[pb.JobExecution]) -> list[int]:
    """The devices' numbers."""
    return [int(execution.device_id[1:]) for execution in executions]


async def test_it_tells_the_executions_that_the_job_tells(mixed: Operator) -> None:
    page = await mixed.executions("j")

    assert page.executions == (await mixed.get("j")).executions
    assert not page.next_page_token


async def test_the_pages_together_hold_each_execution_once(mixed: Operator) -> None:
    for limit in (1, 2, 8, 9, 5000):
        executions = await all_executions(mixed, "j", limit=limit)
        assert numbers(executions) == list(range(1, 10))


async def test_pages_are_in_byte_order_and_lose_no_name(
    database: Database, operator: Operator
) -> None:
    names = ["a", "B", "é", "a-1", "Z", "a.1", "🚀", "10", "9", "a 1", "ﬀ", "x" * 256, "é" * 256]
    await database.add_devices(operator.tenant, names)
    await operator.create(job_id="j", target_all=True)

    executions = await all_executions(operator, "j", limit=1)

    assert [e.device_id for e in executions] == sorted(names, key=str.encode)


async def test_a_thousand_are_listed_by_default(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 1001)
    await operator.create(job_id="j", target_all=True)

    page = await operator.executions("j")

    assert numbers(list(page.executions)) == list(range(1, 1001))
    assert page.next_page_token


async def test_a_filter_finds_the_executions_that_read_so(mixed: Operator) -> None:
    await mixed.cancel("j")

    for limit in (1, 3, 100):
        succeeded = await all_executions(mixed, "j", status="SUCCEEDED", limit=limit)
        assert numbers(succeeded) == [1, 3, 5, 7, 9]
        rejected = await all_executions(mixed, "j", status="REJECTED", limit=limit)
        assert numbers(rejected) == [2, 4, 6, 8]
        assert await all_executions(mixed, "j", status="QUEUED", limit=limit) == []


async def test_executions_side_by_side_keep_what_is_their_own(
    database: Database, operator: Operator, server: Server
) -> None:
    await database.add_devices(operator.tenant, 12)
    await operator.create(job_id="j", target_all=True, in_progress_timeout_minutes=5)
    reports: list[dict[str, object]] = [
        {"status": "IN_PROGRESS", "status_details": {"step": 1}},
        {"status": "IN_PROGRESS", "status_details": {"step": 1}},
        {"status": "SUCCEEDED"},
        {"status": "IN_PROGRESS", "status_details": {}},
        {"status": "FAILED", "status_details": {"step": 2}},
    ]
    for number, report in zip((2, 3, 4, 6, 7), reports, strict=True):
        await server.device(operator.tenant, f"d{number:05}").update("j", **report)
    await operator.cancel_execution("j", "d00009")
    await operator.cancel_execution("j", "d00010")
    await operator.retry("j", "REJECTED")

    page = await operator.executions("j")

    assert len(page.executions) == 12
    for execution in page.executions:
        (alone,) = (await operator.executions("j", device_id=execution.device_id)).executions
        alone.ClearField("job_id")
        assert execution == alone
        assert execution.HasField("status_details") == alone.HasField("status_details")
    assert page.executions[5].HasField("status_details")


async def test_the_limit_may_change_between_pages(mixed: Operator) -> None:
    page = await mixed.executions("j", limit=2)

    rest = await mixed.executions("j", limit=7, page_token=page.next_page_token)

    assert numbers(list(rest.executions)) == list(range(3, 10))
    assert not rest.next_page_token


async def test_a_token_that_was_not_made_for_the_request_is_refused(mixed: Operator) -> None:
    await mixed.create(job_id="k", target_all=True)
    of_all = (await mixed.executions("j", limit=1)).next_page_token
    of_queued = (await mixed.executions("j", limit=1, status="QUEUED")).next_page_token
    of_k = (await mixed.executions("k", limit=1)).next_page_token
    of_jobs = (await mixed.list(limit=1)).next_page_token

    for token in ("garbage", "é", of_queued, of_k, of_jobs):
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await mixed.executions("j", page_token=token)
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await mixed.executions("j", status="QUEUED", page_token=of_all)


async def test_the_jobs_token_goes_on_without_a_filter_only(mixed: Operator) -> None:
    token = (await mixed.get("j", executions_limit=4)).next_executions_page_token

    assert numbers(await all_executions(mixed, "j", page_token=token)) == [5, 6, 7, 8, 9]
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await mixed.executions("j", status="QUEUED", page_token=token)


async def test_another_tenants_job_reads_as_one_that_is_not_there(
    server: Server, mixed: Operator
) -> None:
    other = server.operator(mixed.tenant + "-other")

    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as foreign:
        await other.executions("j")
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as unknown:
        await mixed.executions("missing")

    assert foreign.message == unknown.message == "Job not found"
    assert foreign.metadata == {"jobId": "j"}
