"""GetJob: the job and the first page of its executions."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.world import World


def struct(**fields: Any) -> Struct:
    """A Struct with these fields."""
    result = Struct()
    result.update(fields)
    return result


async def test_job_has_the_fields_of_its_request_and_its_counts(world: World) -> None:
    await world.add_devices(["a"], group="north")
    created = await world.operator.create(
        job_id="j",
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
    await world.operator.create(job_id="j", target_all=True)
    await world.database.set_status(world.tenant, "j", "d00001", "FAILED")
    await world.database.owner.execute(
        "UPDATE jobs.job_executions SET execution_number = 3, version = 8,"
        " queued_at = '2026-01-01T00:00:00Z', started_at = '2026-01-01T00:00:00.000001Z',"
        " last_updated_at = '2026-01-01T01:00:00.5Z',"
        """ status_details = '{"code": 17, "log": ["no space"]}' WHERE tenant_id = $1""",
        world.tenant,
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
    await world.operator.create(job_id="j", target_all=True)

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
    await world.operator.create(job_id="j", target_all=True)
    other = world.server.operator(world.tenant + "-other")

    for call in (other.get("j"), other.executions("j"), other.get("k"), other.executions("k")):
        failure = await expect_error("JOB_NOT_FOUND", call)
        assert (failure.message, failure.tenant_id) == ("Job not found", other.tenant)
        assert failure.metadata in ({"jobId": "j"}, {"jobId": "k"})
