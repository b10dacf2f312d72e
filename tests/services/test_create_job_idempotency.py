"""CreateJob with a job_id that exists: the same request again, or a different one."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.server import Server, running_server
from tests.support.staged_jobs import rollout

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
    await database.add_devices(operator.tenant, ["a", "b", "north"], group="north")
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


@pytest.mark.parametrize(
    "difference",
    [
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
    ],
    ids=str,
)
async def test_create_is_rejected_when_job_id_exists_with_a_different_request(
    operator: Operator, first: pb.CreateJobResponse, difference: dict[str, Any]
) -> None:
    """Before its targets are checked."""
    before = await operator.get("j")

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
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 3)
    request = gated(bake_time=Duration(seconds=60))
    async with running_server(
        database.request_dsn, JOBS_OWNER_DATABASE_URL=database.owner_dsn
    ) as maintaining:
        first = await maintaining.operator(operator.tenant).create(**request)

    assert await operator.create(**request) == first
    await expect_error(
        "JOB_ALREADY_EXISTS", operator.create(**request | {"document_type": "other"})
    )
    await expect_error("TIME_GATES_UNAVAILABLE", operator.create(**request | {"job_id": "new"}))
