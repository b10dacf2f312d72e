"""GetJob and ListJobExecutions of one job."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.failures import expect_error, invalid_fields
from tests.support.staged_jobs import rollout
from tests.support.world import World


def struct(**fields: Any) -> Struct:
    result = Struct()
    result.update(fields)
    return result


async def test_job_has_the_fields_of_its_request_and_its_counts(world: World) -> None:
    await world.add_devices(["a"], group="north")
    created = await world.create(
        document_type="update",
        document_params={"version": 5},
        target_group_id="north",
        expires_in_hours=2,
    )
    created_at = Timestamp()
    created_at.FromMicroseconds(created.expires_at.ToMicroseconds() - 2 * 3600 * 1_000_000)

    assert await world.operator.get("j") == pb.Job(
        job_id="j",
        tenant_id=world.tenant,
        document_type="update",
        document_params=struct(version=5),
        target_group_id="north",
        status=pb.Job.IN_PROGRESS,
        expires_at=created.expires_at,
        created_by="olivia",
        created_at=created_at,
        updated_at=created_at,
        total_executions=1,
        execution_counts=pb.ExecutionCounts(queued=1),
        etag="1",
        priority=pb.Job.NORMAL,
        possible_actions=[pb.Job.PAUSE, pb.Job.CANCEL, pb.Job.UPDATE],
        executions=[
            pb.JobExecution(
                device_id="a",
                status=pb.JobExecution.QUEUED,
                queued_at=created_at,
                last_updated_at=created_at,
                execution_number=1,
                version=1,
            )
        ],
    )


async def test_finished_execution_has_its_stored_fields(world: World) -> None:
    await world.add_devices(1)
    await world.create()
    await world.database.set_status(world.tenant, "j", "d00001", "FAILED")
    await world.execute(
        "UPDATE jobs.job_executions SET execution_number = 3, version = 8,"
        " queued_at = '2026-01-01T00:00:00Z', started_at = '2026-01-01T00:00:00.000001Z',"
        " last_updated_at = '2026-01-01T01:00:00.5Z',"
        """ status_details = '{"code": 17, "log": ["no space"]}' WHERE tenant_id = $1"""
    )

    assert list((await world.operator.get("j")).executions) == [
        pb.JobExecution(
            device_id="d00001",
            status=pb.JobExecution.FAILED,
            status_details=struct(code=17, log=["no space"]),
            queued_at=Timestamp(seconds=1767225600),
            started_at=Timestamp(seconds=1767225600, nanos=1000),
            last_updated_at=Timestamp(seconds=1767229200, nanos=500_000_000),
            execution_number=3,
            version=8,
            end_cause=pb.JobExecution.DEVICE,
        )
    ]


async def test_limits_of_both_calls_default_to_a_thousand_executions(world: World) -> None:
    await world.add_devices(1001)
    await world.create()

    job = await world.operator.get("j")
    page = await world.operator.executions("j")

    assert job.executions == page.executions
    assert (len(job.executions), job.total_executions) == (1000, 1001)
    for token in (job.next_executions_page_token, page.next_page_token):
        rest = await all_executions(world.operator, "j", page_token=token)
        assert [e.device_id for e in rest] == ["d01001"]


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5000])
async def test_page_token_continues_after_the_executions_of_the_job(
    database: Database, operator: Operator, limit: int
) -> None:
    await database.add_devices(operator.tenant, 3)
    await operator.create(job_id="j", target_all=True)
    executions = (await operator.executions("j")).executions

    job = await operator.get("j", executions_limit=limit)

    assert list(job.executions) == list(executions[:limit])
    assert bool(job.next_executions_page_token) == (limit < 3)
    if token := job.next_executions_page_token:
        rest = await all_executions(operator, "j", page_token=token)
        assert rest == list(executions[limit:])


async def test_job_of_another_tenant_is_indistinguishable_from_a_missing_job(world: World) -> None:
    await world.add_devices(1)
    await world.create()
    other = world.server.operator(world.tenant + "-other")

    for call in (other.get("j"), other.executions("j"), other.get("k"), other.executions("k")):
        failure = await expect_error("JOB_NOT_FOUND", call)
        assert (failure.message, failure.tenant_id) == ("Job not found", other.tenant)
        assert failure.metadata in ({"jobId": "j"}, {"jobId": "k"})


@pytest.fixture
async def mixed(database: Database, operator: Operator) -> Operator:
    """An operator with the job "j": of d00001 to d00009, the odd ones are SUCCEEDED."""
    await database.add_devices(operator.tenant, 9)
    await operator.create(job_id="j", target_all=True)
    for number in range(1, 10, 2):
        await database.set_status(operator.tenant, "j", f"d{number:05}", "SUCCEEDED")
    return operator


async def numbers(operator: Operator, **fields: Any) -> list[int]:
    executions = await all_executions(operator, "j", **fields)
    return [int(execution.device_id[1:]) for execution in executions]


async def test_pages_contain_each_execution_once(mixed: Operator) -> None:
    for limit in (1, 2, 8, 9, 5000):
        assert await numbers(mixed, limit=limit) == list(range(1, 10))


async def test_pages_are_sorted_by_device_id_in_byte_order(world: World) -> None:
    names = ["a", "B", "é", "a-1", "Z", "a.1", "🚀", "10", "9", "a 1", "ﬀ", "x" * 256, "é" * 256]
    await world.add_devices(names)
    await world.create()

    executions = await all_executions(world.operator, "j", limit=1)

    assert [e.device_id for e in executions] == sorted(names, key=str.encode)
    assert list((await world.operator.get("j")).executions) == executions


async def test_status_filter_uses_the_derived_status(mixed: Operator) -> None:
    await mixed.cancel("j")

    for limit in (1, 3, 100):
        assert await numbers(mixed, status="SUCCEEDED", limit=limit) == [1, 3, 5, 7, 9]
        assert await numbers(mixed, status="REJECTED", limit=limit) == [2, 4, 6, 8]
        assert await numbers(mixed, status="QUEUED", limit=limit) == []


async def test_neighboring_executions_keep_their_own_values(world: World) -> None:
    """The service reuses one message for neighbors, so a value must not leak into the next one."""
    await world.add_devices(12)
    await world.create(in_progress_timeout_minutes=5)
    reports: list[dict[str, object]] = [
        {"status": "IN_PROGRESS", "status_details": {"step": 1}},
        {"status": "IN_PROGRESS", "status_details": {"step": 1}},
        {"status": "SUCCEEDED"},
        {"status": "IN_PROGRESS", "status_details": {}},
        {"status": "FAILED", "status_details": {"step": 2}},
    ]
    for number, report in zip((2, 3, 4, 6, 7), reports, strict=True):
        await world.device(f"d{number:05}").update("j", **report)
    await world.operator.cancel_execution("j", "d00009")
    await world.operator.cancel_execution("j", "d00010")
    await world.operator.retry("j", "REJECTED")

    page = await world.operator.executions("j")

    assert len(page.executions) == 12
    for execution in page.executions:
        (single,) = (await world.operator.executions("j", device_id=execution.device_id)).executions
        single.ClearField("job_id")
        assert execution == single
        assert execution.HasField("status_details") == single.HasField("status_details")
    assert page.executions[5].HasField("status_details")


async def test_limit_may_change_between_pages(mixed: Operator) -> None:
    page = await mixed.executions("j", limit=2)

    rest = await mixed.executions("j", limit=7, page_token=page.next_page_token)

    assert [e.device_id for e in rest.executions] == [f"d{n:05}" for n in range(3, 10)]
    assert not rest.next_page_token


async def test_page_token_of_another_request_is_rejected(mixed: Operator) -> None:
    await mixed.create(job_id="k", target_all=True)
    unfiltered = (await mixed.executions("j", limit=1)).next_page_token
    filtered = (await mixed.executions("j", limit=1, status="QUEUED")).next_page_token
    other_job = (await mixed.executions("k", limit=1)).next_page_token
    of_get_job = (await mixed.get("j", executions_limit=4)).next_executions_page_token
    jobs = (await mixed.list(limit=1)).next_page_token

    for call in (
        *(mixed.executions("j", page_token=t) for t in ("garbage", "é", filtered, other_job, jobs)),
        *(mixed.executions("j", page_token=t, status="QUEUED") for t in (unfiltered, of_get_job)),
        mixed.executions("j", page_token=unfiltered, device_id_prefix="d"),
        mixed.executions("j", page_token=unfiltered, stage=0),
    ):
        await expect_error("INVALID_PAGE_TOKEN", call)
    assert await numbers(mixed, page_token=of_get_job) == [5, 6, 7, 8, 9]


PUMPS = ["pump-", "pump-1", "pump-2", "pump-3", "pump-\U0010ffff"]
QUEUED_CASES: list[tuple[dict[str, Any], list[str]]] = [
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
]
FAILED_CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({"device_id_prefix": "pump-", "status": "FAILED"}, ["pump-", "pump-1"]),
    ({"device_id_prefix": "pump-", "failure_code": "E1"}, ["pump-", "pump-1"]),
    ({"device_id_prefix": "pump-1", "failure_code": "E1"}, ["pump-1"]),
    ({"stage": 0, "failure_code": "E1"}, ["pump-1", "valve-1"]),
    ({"stage": 0, "status": "FAILED"}, ["pump-1", "valve-1"]),
]


async def test_pages_contain_the_executions_that_match_stage_and_prefix(world: World) -> None:
    await world.add_devices(["pump-1", "pump-2", "valve-1"], group="north")
    others = ["pump", "pump-", "pump-\U0010ffff", "pump.1", "p%", "p_", "pump-3", "PUMP-1", "q"]
    await world.add_devices(others)
    stages = rollout({"group_id": "north"}, {"remainder": True})
    await world.create(rollout=stages)

    async def check(cases: list[tuple[dict[str, Any], list[str]]]) -> None:
        for filters, expected in cases:
            for limit in (1, 2, 5000):
                executions = await all_executions(world.operator, "j", limit=limit, **filters)
                assert [e.device_id for e in executions] == expected, filters

    await check(QUEUED_CASES)
    await world.operator.advance("j")
    for name in ("pump-1", "pump-", "valve-1", "q", "pump"):
        await world.device(name).update("j", "FAILED", failure_code="E1")
    await check(FAILED_CASES)


async def test_stage_and_prefix_are_rejected_when_they_are_invalid(operator: Operator) -> None:
    invalid: list[tuple[dict[str, Any], str]] = [
        ({"stage": -1}, "stage"),
        ({"stage": 100}, "stage"),
        ({"device_id_prefix": "a\n"}, "device_id_prefix"),
        ({"device_id_prefix": "x" * 257}, "device_id_prefix"),
        ({"device_id": "a", "stage": 0}, "stage"),
        ({"device_id": "a", "device_id_prefix": "a"}, "device_id_prefix"),
    ]
    for fields, field in invalid:
        assert await invalid_fields(operator.executions("j", **fields)) == [field]
