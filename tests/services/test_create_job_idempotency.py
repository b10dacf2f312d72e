"""CreateJob with a job_id that is in use: the same request again, or another one."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server

REQUEST: dict[str, Any] = {
    "job_id": "j",
    "document_type": "update",
    "document_params": {"version": 5, "url": "https://example.com"},
    "target_group_id": "north",
    "expires_in_hours": 24,
}


@pytest.fixture
async def first(database: Database, operator: Operator) -> pb.CreateJobResponse:
    """The answer to REQUEST, sent for the first time, with three devices in the group."""
    await database.add_devices(operator.tenant, ["a", "b", "north"], group="north")
    return await operator.create(**REQUEST)


async def test_the_same_request_is_answered_as_the_first_was(
    database: Database, operator: Operator, first: pb.CreateJobResponse
) -> None:
    assert await operator.create(**REQUEST) == first

    assert len((await operator.list()).jobs) == 1
    assert (await operator.get("j")).total_executions == 3


async def test_defaults_that_are_spelled_out_make_no_other_request(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    first = await operator.create(job_id="j", target_all=True)

    again = await operator.create(
        job_id="j", target_all=True, expires_in_hours=24, document_params={}
    )

    assert again == first


async def test_the_order_of_the_documents_keys_makes_no_other_request(
    operator: Operator, first: pb.CreateJobResponse
) -> None:
    document = dict(reversed(REQUEST["document_params"].items()))

    assert await operator.create(**REQUEST | {"document_params": document}) == first


async def test_another_user_may_repeat_it_and_did_not_create_it(
    server: Server, operator: Operator, first: pb.CreateJobResponse
) -> None:
    assert await server.operator(operator.tenant, user="oscar").create(**REQUEST) == first

    assert (await operator.get("j")).created_by == "olivia"


async def test_a_repetition_is_answered_the_same_after_the_targets_changed(
    database: Database, operator: Operator, first: pb.CreateJobResponse
) -> None:
    await database.owner.execute(
        "DELETE FROM device_group_members WHERE tenant_id = $1", operator.tenant
    )

    assert await operator.create(**REQUEST) == first


async def test_a_repetition_is_answered_the_same_after_a_cancel(
    operator: Operator, first: pb.CreateJobResponse
) -> None:
    await operator.cancel("j")

    assert await operator.create(**REQUEST) == first
    assert (await operator.get("j")).status == pb.Job.CANCELED


async def test_a_repetition_is_answered_the_same_after_devices_reported(
    database: Database, operator: Operator, first: pb.CreateJobResponse
) -> None:
    await database.set_status(operator.tenant, "j", "a", "SUCCEEDED")
    await database.set_status(operator.tenant, "j", "b", "FAILED")

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
async def test_any_other_request_finds_the_job_id_taken(
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
    assert await operator.get("j") == before


async def test_a_taken_job_id_is_told_before_missing_targets(
    operator: Operator, first: pb.CreateJobResponse
) -> None:
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await operator.create(job_id="j", target_device_id="nowhere")


async def test_the_job_id_is_free_in_another_tenant(
    database: Database, server: Server, operator: Operator, first: pb.CreateJobResponse
) -> None:
    other = server.operator(operator.tenant + "-other")
    await database.add_devices(other.tenant, 1)

    response = await other.create(job_id="j", target_all=True)

    assert response.execution_count == 1
    assert (await operator.get("j")).total_executions == 3
