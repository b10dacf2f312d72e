"""CreateJob with a job_id that exists: the same request again, or a different one."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server

REQUEST: dict[str, Any] = {
    "job_id": "j",
    "document_type": "update",
    "document_params": {"version": 5, "url": "https://example.com"},
    "target_group_id": "north",
    "expires_in_hours": 24,
}
_STAGED = pb.Rollout(stages=[pb.Stage(device_count=1), pb.Stage(remainder=True)])
_CRITERION = pb.FailureCriterion(count=1)


@pytest.fixture
async def first(database: Database, operator: Operator) -> pb.CreateJobResponse:
    """The response to the first REQUEST; the group has three devices."""
    await database.add_devices(operator.tenant, ["a", "b", "north"], group="north")
    return await operator.create(**REQUEST)


async def test_repeated_create_returns_the_first_response(
    database: Database, operator: Operator, first: pb.CreateJobResponse
) -> None:
    assert await operator.create(**REQUEST) == first

    assert len((await operator.list()).jobs) == 1
    assert (await operator.get("j")).total_executions == 3


async def test_repeated_create_returns_the_first_response_when_it_states_the_defaults(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    first = await operator.create(job_id="j", target_all=True)

    repeated = await operator.create(
        job_id="j", target_all=True, expires_in_hours=24, document_params={}
    )

    assert repeated == first


async def test_repeated_create_returns_the_first_response_when_document_keys_are_reordered(
    operator: Operator, first: pb.CreateJobResponse
) -> None:
    document = dict(reversed(REQUEST["document_params"].items()))

    assert await operator.create(**REQUEST | {"document_params": document}) == first


async def test_repeated_create_by_another_user_keeps_created_by(
    server: Server, operator: Operator, first: pb.CreateJobResponse
) -> None:
    assert await server.operator(operator.tenant, user="oscar").create(**REQUEST) == first

    assert (await operator.get("j")).created_by == "olivia"


async def test_repeated_create_returns_the_first_response_after_the_group_changed(
    database: Database, operator: Operator, first: pb.CreateJobResponse
) -> None:
    await database.owner.execute(
        "DELETE FROM device_group_members WHERE tenant_id = $1", operator.tenant
    )

    assert await operator.create(**REQUEST) == first


async def test_repeated_create_returns_the_first_response_after_a_cancel(
    operator: Operator, first: pb.CreateJobResponse
) -> None:
    await operator.cancel("j")

    assert await operator.create(**REQUEST) == first
    assert (await operator.get("j")).status == pb.Job.CANCELED


async def test_repeated_create_returns_the_first_response_after_devices_reported(
    database: Database, operator: Operator, first: pb.CreateJobResponse
) -> None:
    await database.set_status(operator.tenant, "j", "a", "SUCCEEDED")
    await database.set_status(operator.tenant, "j", "b", "FAILED")

    assert await operator.create(**REQUEST) == first


async def test_repeated_create_returns_the_first_response_after_the_expiry_changed(
    operator: Operator, first: pb.CreateJobResponse
) -> None:
    await operator.update("j", "expires_at", "in_progress_timeout_minutes")
    assert await operator.create(**REQUEST) == first

    await operator.cancel_execution("j", "a")
    await operator.retry("j", pb.JobExecution.REJECTED, expires_in_hours=700)
    assert await operator.create(**REQUEST) == first


@pytest.mark.parametrize(
    "difference",
    [
        {"document_type": "reboot"},
        {"document_params": {}},
        {"document_params": {"version": 6, "url": "https://example.com"}},
        {"document_params": REQUEST["document_params"] | {"force": None}},
        {"target_group_id": "south"},
        {"target_group_id": None, "target_device_id": "north"},
        {"target_group_id": None, "target_all": True},
        {"expires_in_hours": 25},
        {"expires_in_hours": None, "never_expires": True},
    ],
    ids=str,
)
async def test_create_is_rejected_when_job_id_exists_with_a_different_request(
    database: Database,
    operator: Operator,
    first: pb.CreateJobResponse,
    difference: dict[str, Any],
) -> None:
    await database.add_devices(operator.tenant, ["c"], group="south")
    before = await operator.get("j")

    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS") as failure:
        await operator.create(**REQUEST | difference)

    assert failure.metadata == {"jobId": "j"}
    assert failure.message == "Job j was created by another request; choose another job_id"
    assert await operator.get("j") == before


async def test_repeated_create_by_an_unknown_user_returns_the_first_response_with_approvals(
    server: Server, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 3)
    gate = pb.Gate(require_approval=True)
    request = {
        "job_id": "j",
        "target_all": True,
        "rollout": pb.Rollout(stages=[pb.Stage(device_count=1, gate=gate), *_STAGED.stages[1:]]),
    }
    first = await operator.create(**request)
    unknown = server.operator(operator.tenant)

    assert await unknown.create(**request) == first
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await unknown.create(**request | {"document_type": "other"})
    with expect_failure(StatusCode.PERMISSION_DENIED, "SUBJECT_REQUIRED"):
        await unknown.create(**request | {"job_id": "new"})
    with expect_failure(StatusCode.PERMISSION_DENIED, "SUBJECT_REQUIRED"):
        await unknown.create(**request, validate_only=True)


async def test_repeated_create_returns_the_first_response_on_a_server_without_maintenance(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 3)
    gate = pb.Gate(bake_time=Duration(seconds=60))
    request = {
        "job_id": "j",
        "target_all": True,
        "rollout": pb.Rollout(stages=[pb.Stage(device_count=1, gate=gate), *_STAGED.stages[1:]]),
    }
    async with running_server(
        database.request_dsn, JOBS_OWNER_DATABASE_URL=database.owner_dsn
    ) as maintaining:
        first = await maintaining.operator(operator.tenant).create(**request)

    assert await operator.create(**request) == first
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await operator.create(**request | {"document_type": "other"})
    with expect_failure(StatusCode.FAILED_PRECONDITION, "TIME_GATES_UNAVAILABLE"):
        await operator.create(**request | {"job_id": "new"})


async def test_existing_job_id_is_reported_before_missing_targets(
    operator: Operator, first: pb.CreateJobResponse
) -> None:
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await operator.create(job_id="j", target_device_id="missing")


async def test_job_id_of_one_tenant_can_be_used_in_another_tenant(
    database: Database, server: Server, operator: Operator, first: pb.CreateJobResponse
) -> None:
    other = server.operator(operator.tenant + "-other")
    await database.add_devices(other.tenant, 1)

    response = await other.create(job_id="j", target_all=True)

    assert response.execution_count == 1
    assert (await operator.get("j")).total_executions == 3
