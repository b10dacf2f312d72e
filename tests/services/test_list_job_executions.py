"""ListJobExecutions of one job."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server


@pytest.fixture
async def mixed(database: Database, operator: Operator) -> Operator:
    """An operator with the job "j": of d00001 to d00009, the odd ones are SUCCEEDED."""
    await database.add_devices(operator.tenant, 9)
    await operator.create(job_id="j", target_all=True)
    for number in range(1, 10, 2):
        await database.set_status(operator.tenant, "j", f"d{number:05}", "SUCCEEDED")
    return operator


def numbers(executions: list[pb.JobExecution]) -> list[int]:
    """The numbers in the device_ids."""
    return [int(execution.device_id[1:]) for execution in executions]


async def test_executions_equal_those_of_get_job(mixed: Operator) -> None:
    page = await mixed.executions("j")

    assert page.executions == (await mixed.get("j")).executions
    assert not page.next_page_token


async def test_pages_contain_each_execution_once(mixed: Operator) -> None:
    for limit in (1, 2, 8, 9, 5000):
        executions = await all_executions(mixed, "j", limit=limit)
        assert numbers(executions) == list(range(1, 10))


async def test_pages_are_sorted_by_device_id_in_byte_order(
    database: Database, operator: Operator
) -> None:
    names = ["a", "B", "é", "a-1", "Z", "a.1", "🚀", "10", "9", "a 1", "ﬀ", "x" * 256, "é" * 256]
    await database.add_devices(operator.tenant, names)
    await operator.create(job_id="j", target_all=True)

    executions = await all_executions(operator, "j", limit=1)

    assert [e.device_id for e in executions] == sorted(names, key=str.encode)


async def test_limit_defaults_to_a_thousand(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 1001)
    await operator.create(job_id="j", target_all=True)

    page = await operator.executions("j")

    assert numbers(list(page.executions)) == list(range(1, 1001))
    assert page.next_page_token


async def test_status_filter_uses_the_derived_status(mixed: Operator) -> None:
    await mixed.cancel("j")

    for limit in (1, 3, 100):
        succeeded = await all_executions(mixed, "j", status="SUCCEEDED", limit=limit)
        assert numbers(succeeded) == [1, 3, 5, 7, 9]
        rejected = await all_executions(mixed, "j", status="REJECTED", limit=limit)
        assert numbers(rejected) == [2, 4, 6, 8]
        assert await all_executions(mixed, "j", status="QUEUED", limit=limit) == []


async def test_neighboring_executions_keep_their_own_values(
    database: Database, operator: Operator, server: Server
) -> None:
    """The service reuses one message for neighbors, so a value must not leak into the next one."""
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
        (single,) = (await operator.executions("j", device_id=execution.device_id)).executions
        single.ClearField("job_id")
        assert execution == single
        assert execution.HasField("status_details") == single.HasField("status_details")
    assert page.executions[5].HasField("status_details")


async def test_limit_may_change_between_pages(mixed: Operator) -> None:
    page = await mixed.executions("j", limit=2)

    rest = await mixed.executions("j", limit=7, page_token=page.next_page_token)

    assert numbers(list(rest.executions)) == list(range(3, 10))
    assert not rest.next_page_token


async def test_page_token_is_rejected_when_it_belongs_to_another_request(mixed: Operator) -> None:
    await mixed.create(job_id="k", target_all=True)
    unfiltered = (await mixed.executions("j", limit=1)).next_page_token
    filtered = (await mixed.executions("j", limit=1, status="QUEUED")).next_page_token
    other_job = (await mixed.executions("k", limit=1)).next_page_token
    jobs = (await mixed.list(limit=1)).next_page_token

    for token in ("garbage", "é", filtered, other_job, jobs):
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await mixed.executions("j", page_token=token)
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await mixed.executions("j", status="QUEUED", page_token=unfiltered)


async def test_page_token_of_get_job_is_accepted_only_without_a_filter(mixed: Operator) -> None:
    token = (await mixed.get("j", executions_limit=4)).next_executions_page_token

    assert numbers(await all_executions(mixed, "j", page_token=token)) == [5, 6, 7, 8, 9]
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await mixed.executions("j", status="QUEUED", page_token=token)


async def test_job_of_another_tenant_is_indistinguishable_from_a_missing_job(
    server: Server, mixed: Operator
) -> None:
    other = server.operator(mixed.tenant + "-other")

    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as foreign:
        await other.executions("j")
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as unknown:
        await mixed.executions("missing")

    assert foreign.message == unknown.message == "Job not found"
    assert foreign.metadata == {"jobId": "j"}


@pytest.fixture
async def named(database: Database, operator: Operator) -> Operator:
    """An operator with the job "j", whose stages are the group "north" and the rest."""
    await database.add_devices(operator.tenant, ["pump-1", "pump-2", "valve-1"], group="north")
    others = ["pump", "pump-", "pump-\U0010ffff", "pump.1", "p%", "p_", "pump-3", "PUMP-1", "q"]
    await database.add_devices(operator.tenant, others)
    stages = [pb.Stage(group_id="north"), pb.Stage(remainder=True)]
    await operator.create(job_id="j", target_all=True, rollout=pb.Rollout(stages=stages))
    return operator


PUMPS = ["pump-", "pump-1", "pump-2", "pump-3", "pump-\U0010ffff"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"device_id_prefix": "pump-"}, PUMPS),
        ({"device_id_prefix": "pump-\U0010ffff"}, PUMPS[4:]),
        ({"device_id_prefix": "p%"}, ["p%"]),
        ({"device_id_prefix": "p_"}, ["p_"]),
        ({"device_id_prefix": "pump-1" + "x" * 250}, []),
        ({"stage": 0}, ["pump-1", "pump-2", "valve-1"]),
        ({"stage": 2}, []),
        ({"stage": 1, "device_id_prefix": "pump-"}, ["pump-", "pump-3", "pump-\U0010ffff"]),
        ({"stage": 0, "status": "QUEUED"}, ["pump-1", "pump-2", "valve-1"]),
        ({"stage": 0, "status": "HELD"}, []),
        ({"device_id_prefix": "pump-", "status": "QUEUED"}, ["pump-1", "pump-2"]),
        ({"device_id_prefix": "pump-", "status": "FAILED"}, ["pump-", "pump-1"]),
        ({"device_id_prefix": "pump-", "failure_code": "E1"}, ["pump-", "pump-1"]),
        ({"device_id_prefix": "pump-1", "failure_code": "E1"}, ["pump-1"]),
        ({"stage": 0, "failure_code": "E1"}, ["pump-1", "valve-1"]),
        ({"stage": 0, "status": "FAILED"}, ["pump-1", "valve-1"]),
    ],
    ids=str,
)
async def test_pages_contain_the_executions_that_match_stage_and_prefix(
    server: Server, named: Operator, filters: dict[str, Any], expected: list[str]
) -> None:
    status = filters.get("status")
    if status == "FAILED" or "failure_code" in filters:
        await named.advance("j")
        for name in ("pump-1", "pump-", "valve-1", "q", "pump"):
            device = server.device(named.tenant, name)
            await device.update("j", "FAILED", failure_code="E1")

    for limit in (1, 2, 5000):
        executions = await all_executions(named, "j", limit=limit, **filters)
        assert [e.device_id for e in executions] == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"stage": -1}, "stage"),
        ({"stage": 100}, "stage"),
        ({"device_id_prefix": "a\n"}, "device_id_prefix"),
        ({"device_id_prefix": "x" * 257}, "device_id_prefix"),
        ({"device_id": "a", "stage": 0}, "stage"),
        ({"device_id": "a", "device_id_prefix": "a"}, "device_id_prefix"),
    ],
)
async def test_stage_and_prefix_are_rejected_when_they_are_invalid(
    operator: Operator, fields: dict[str, Any], field: str
) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.executions("j", **fields)

    assert list(failure.violations) == [field]


async def test_page_token_is_rejected_when_stage_or_prefix_differ(named: Operator) -> None:
    token = (await named.executions("j", device_id_prefix="pump", limit=1)).next_page_token

    for filters in ({}, {"device_id_prefix": "p"}, {"device_id_prefix": "pump", "stage": 0}):
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await named.executions("j", page_token=token, **filters)
