"""CreateJob: targets, response, expiry, rejected and repeated requests."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.staged_jobs import rollout
from tests.support.world import World

TABLES = ("jobs.jobs", "jobs.job_progress", "jobs.job_executions")


@pytest.fixture(autouse=True)
async def devices(database: Database, tenant: str) -> None:
    """Three devices, of which two are in a group; another tenant has a device."""
    await database.add_devices(tenant, ["a", "b"], group="north")
    await database.add_devices(tenant, ["c"], group="south")
    await database.add_devices(tenant + "-other", ["d"])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"target_device_id": "b"}, ["b"]),
        ({"target_group_id": "north"}, ["a", "b"]),
        ({"target_all": True}, ["a", "b", "c"]),
    ],
)
async def test_job_has_an_execution_for_each_device_of_its_target_at_its_creation(
    database: Database, operator: Operator, target: dict[str, Any], expected: list[str]
) -> None:
    """Devices that are added or removed later make no difference."""
    response = await operator.create(job_id="j", **target)
    await database.add_devices(operator.tenant, ["new"], group="north")
    await database.remove_devices(operator.tenant, ["a"])

    job = await operator.get("j")
    assert {
        field.name: value for field, value in job.ListFields() if field.name in target
    } == target
    assert response.execution_count == job.total_executions == len(expected)
    assert [execution.device_id for execution in job.executions] == expected


@pytest.mark.parametrize(
    ("fields", "hours"),
    [
        ({}, 24),
        ({"expires_in_hours": 1}, 1),
        ({"expires_in_hours": 720}, 720),
        ({"never_expires": True}, None),
    ],
)
async def test_job_expires_after_the_given_or_default_hours(
    operator: Operator, fields: dict[str, Any], hours: int | None
) -> None:
    response = await operator.create(job_id="j", target_all=True, **fields)

    job = await operator.get("j")
    assert response.HasField("expires_at") == job.HasField("expires_at") == (hours is not None)
    if hours is not None:
        assert response.expires_at == job.expires_at
        lifetime = job.expires_at.ToDatetime() - job.created_at.ToDatetime()
        assert lifetime == timedelta(hours=hours)


async def test_job_id_is_a_new_uuid_when_request_has_none(operator: Operator) -> None:
    ids = {(await operator.create(target_all=True)).job_id for _ in range(2)}

    assert len(ids) == 2
    for job_id in ids:
        assert str(uuid.UUID(job_id)) == job_id
        assert (await operator.get(job_id)).job_id == job_id


async def test_created_by_is_the_calling_user(server: Server, operator: Operator) -> None:
    await operator.create(job_id="with-user", target_all=True)
    await server.operator(operator.tenant).create(job_id="without-user", target_all=True)

    assert (await operator.get("with-user")).created_by == "olivia"
    assert not (await operator.get("without-user")).HasField("created_by")


async def test_create_without_devices_is_rejected_and_stores_nothing(world: World) -> None:
    await world.database.remove_devices(world.tenant, "abc")

    for reason, message, metadata, target in (
        ("DEVICE_NOT_FOUND", "Device not found", {"deviceId": "x"}, {"target_device_id": "x"}),
        ("GROUP_EMPTY", "Group has no members", {"groupId": "x"}, {"target_group_id": "x"}),
        ("TENANT_EMPTY", "No devices in tenant", {}, {"target_all": True}),
    ):
        failure = await expect_error(reason, world.create(**target))
        assert (failure.message, failure.metadata) == (message, metadata)
        assert failure.tenant_id == world.tenant
    for table in TABLES:
        assert await world.rows(f"SELECT FROM {table} WHERE tenant_id = $1") == []


REQUEST: dict[str, Any] = {
    "job_id": "j",
    "document_type": "update",
    "document_params": {"version": 5, "url": "https://example.com"},
    "target_group_id": "north",
    "expires_in_hours": 24,
}


@pytest.fixture
async def first(database: Database, operator: Operator) -> pb.CreateJobResponse:
    """The response to the first REQUEST; the group has three devices."""
    await database.add_devices(operator.tenant, ["north"], group="north")
    return await operator.create(**REQUEST)


def gated(**gate: Any) -> dict[str, Any]:
    """A request for a job whose first stage has this gate."""
    stages = rollout({"device_count": 1, "gate": pb.Gate(**gate)}, {"remainder": True})
    return {"job_id": "j", "target_all": True, "rollout": stages}


async def test_repeated_create_returns_the_first_response_whatever_has_changed(
    database: Database, server: Server, operator: Operator, first: pb.CreateJobResponse
) -> None:
    assert await operator.create(**REQUEST) == first

    for change in (
        server.device(operator.tenant, "a").update("j", "SUCCEEDED"),
        database.remove_devices(operator.tenant, ["a", "b", "north"]),
        operator.update("j", "expires_at", "in_progress_timeout_minutes"),
        operator.cancel_execution("j", "b"),
        operator.retry("j", pb.JobExecution.REJECTED, expires_in_hours=700),
        operator.cancel("j"),
    ):
        await change
        assert await operator.create(**REQUEST) == first

    assert await server.operator(operator.tenant, user="oscar").create(**REQUEST) == first
    (job,) = (await operator.list()).jobs
    assert (job.status, job.created_by, job.total_executions) == (pb.Job.CANCELED, "olivia", 3)


async def test_repeated_create_locks_the_job_so_that_it_waits_for_a_synchronous_standby(
    database: Database, operator: Operator, first: pb.CreateJobResponse
) -> None:
    lock = "SELECT xmax::text FROM jobs.jobs WHERE (tenant_id, job_id) = ($1, $2)"
    before = await database.owner.fetchval(lock, operator.tenant, first.job_id)

    await operator.create(**REQUEST)

    assert await database.owner.fetchval(lock, operator.tenant, first.job_id) != before


async def test_repeated_create_returns_the_first_response_when_it_states_the_defaults(
    operator: Operator, first: pb.CreateJobResponse
) -> None:
    request: dict[str, Any] = {"job_id": "k", "target_all": True}
    second = await operator.create(**request)

    assert await operator.create(**request, expires_in_hours=24, document_params={}) == second


async def test_repeated_create_returns_the_first_response_when_document_keys_are_reordered(
    operator: Operator, first: pb.CreateJobResponse
) -> None:
    document = dict(reversed(REQUEST["document_params"].items()))

    assert await operator.create(**REQUEST | {"document_params": document}) == first


async def test_create_is_rejected_when_job_id_exists_with_a_different_request(
    operator: Operator, first: pb.CreateJobResponse
) -> None:
    """Before its targets are checked."""
    before = await operator.get("j")
    differences: list[dict[str, Any]] = [
        {"document_type": "reboot"},
        {"document_params": {}},
        {"document_params": {"version": 6, "url": "https://example.com"}},
        {"document_params": REQUEST["document_params"] | {"force": None}},
        {"target_group_id": "south"},
        {"target_group_id": None, "target_device_id": "north"},
        {"target_group_id": None, "target_device_id": "missing"},
        {"target_group_id": None, "target_all": True},
        {"expires_in_hours": 25},
        {"expires_in_hours": None, "never_expires": True},
    ]
    for difference in differences:
        failure = await expect_error("JOB_ALREADY_EXISTS", operator.create(**REQUEST | difference))
        assert failure.metadata == {"jobId": "j"}
        assert failure.message == "Job j was created by another request; choose another job_id"
    assert await operator.get("j") == before


async def test_repeated_create_by_an_unknown_user_returns_the_first_response_with_approvals(
    server: Server, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 3)
    request = gated(require_approval=True)
    first = await operator.create(**request)
    unknown = server.operator(operator.tenant)

    assert await unknown.create(**request) == first
    await expect_error("JOB_ALREADY_EXISTS", unknown.create(**request | {"document_type": "other"}))
    for fields in ({"job_id": "new"}, {"validate_only": True}):
        await expect_error("SUBJECT_REQUIRED", unknown.create(**request | fields))


async def test_repeated_create_returns_the_first_response_on_a_server_without_maintenance(
    world: World,
) -> None:
    await world.add_devices(3)
    request = gated(bake_time=Duration(seconds=60))
    async with world.with_background_work() as maintaining:
        first = await maintaining.operator.create(**request)

    create = world.operator.create
    assert await create(**request) == first
    await expect_error("JOB_ALREADY_EXISTS", create(**request | {"document_type": "other"}))
    await expect_error("TIME_GATES_UNAVAILABLE", create(**request | {"job_id": "new"}))
