"""CreateJob: targets, response, document, and rejected requests."""

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server

TABLES = ("jobs.jobs", "jobs.job_progress", "jobs.job_executions")


async def row_counts(database: Database, tenant: str) -> dict[str, int]:
    """The number of the tenant's rows in each of TABLES."""
    return {
        table: await database.owner.fetchval(
            f"SELECT count(*) FROM {table} WHERE tenant_id = $1", tenant
        )
        for table in TABLES
    }


async def test_job_for_a_device_has_one_execution(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, ["a", "b"])

    response = await operator.create(job_id="j", target_device_id="b")

    assert response.execution_count == 1
    job = await operator.get("j")
    assert job.WhichOneof("target") == "target_device_id"
    assert job.target_device_id == "b"
    assert [execution.device_id for execution in job.executions] == ["b"]


async def test_job_for_a_group_has_an_execution_for_each_member(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["a", "b"], group="north")
    await database.add_devices(operator.tenant, ["c"], group="south")

    response = await operator.create(job_id="j", target_group_id="north")

    assert response.execution_count == 2
    job = await operator.get("j")
    assert job.WhichOneof("target") == "target_group_id"
    assert job.target_group_id == "north"
    assert [execution.device_id for execution in job.executions] == ["a", "b"]


async def test_job_for_all_has_an_execution_for_each_device_of_the_tenant(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["a", "b", "c"])
    await database.add_devices(operator.tenant + "-other", ["d"])

    response = await operator.create(job_id="j", target_all=True)

    assert response.execution_count == 3
    job = await operator.get("j")
    assert job.WhichOneof("target") == "target_all"
    assert job.target_all
    assert [execution.device_id for execution in job.executions] == ["a", "b", "c"]


@pytest.mark.parametrize("target", [{"target_all": True}, {"target_group_id": "north"}])
async def test_targets_do_not_change_when_devices_are_added_or_removed(
    database: Database, operator: Operator, target: dict[str, Any]
) -> None:
    await database.add_devices(operator.tenant, ["a", "b"], group="north")
    await operator.create(job_id="j", **target)

    await database.add_devices(operator.tenant, ["c"], group="north")
    for table in ("device_state", "device_group_members"):
        await database.owner.execute(
            f"DELETE FROM {table} WHERE tenant_id = $1 AND device_id = 'a'", operator.tenant
        )

    job = await operator.get("j")
    assert job.total_executions == 2
    assert [execution.device_id for execution in job.executions] == ["a", "b"]


async def test_new_job_is_in_progress_and_its_executions_are_queued(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 2)

    response = await operator.create(job_id="j", target_all=True)

    assert response.job_id == "j"
    assert response.status == pb.Job.IN_PROGRESS
    job = await operator.get("j")
    assert job.status == pb.Job.IN_PROGRESS
    assert job.execution_counts == pb.ExecutionCounts(queued=2)
    for execution in job.executions:
        assert execution.status == pb.JobExecution.QUEUED
        assert execution.execution_number == 1
        assert execution.queued_at == job.created_at


@pytest.mark.parametrize(
    ("fields", "hours"), [({}, 24), ({"expires_in_hours": 1}, 1), ({"expires_in_hours": 720}, 720)]
)
async def test_job_expires_after_the_given_or_default_hours(
    database: Database, operator: Operator, fields: dict[str, Any], hours: int
) -> None:
    await database.add_devices(operator.tenant, 1)

    response = await operator.create(job_id="j", target_all=True, **fields)

    job = await operator.get("j")
    assert response.expires_at == job.expires_at
    lifetime = job.expires_at.ToDatetime() - job.created_at.ToDatetime()
    assert lifetime == timedelta(hours=hours)


async def test_job_has_no_expiry_when_it_never_expires(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)

    response = await operator.create(job_id="j", target_all=True, never_expires=True)

    assert not response.HasField("expires_at")
    assert not (await operator.get("j")).HasField("expires_at")


async def test_job_id_is_a_new_uuid_when_request_has_none(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)

    ids = {(await operator.create(target_all=True)).job_id for _ in range(2)}

    assert len(ids) == 2
    for job_id in ids:
        assert str(uuid.UUID(job_id)) == job_id
        assert (await operator.get(job_id)).job_id == job_id


async def test_created_by_is_the_calling_user(database: Database, server: Server) -> None:
    tenant = uuid.uuid4().hex
    await database.add_devices(tenant, 1)

    await server.operator(tenant, user="olivia").create(job_id="with-user", target_all=True)
    await server.operator(tenant).create(job_id="without-user", target_all=True)

    assert (await server.operator(tenant).get("with-user")).created_by == "olivia"
    assert not (await server.operator(tenant).get("without-user")).HasField("created_by")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"none": None, "yes": True, "no": False},
        {"whole": 5, "negative": -7, "zero": 0, "largest": 2**53, "half": 0.5, "small": 5e-324},
        {"text": "", "unicode": "Zürich ☃ 🚀", "ключ": '"quoted" \\ \n'},
        {"nested": {"empty": {}, "list": [1, [], {}, [None, {"deep": [True]}]]}},
    ],
)
async def test_document_is_returned_as_it_was_sent(
    database: Database, operator: Operator, document: dict[str, Any]
) -> None:
    await database.add_devices(operator.tenant, 1)

    await operator.create(job_id="j", target_all=True, document_params=document)

    assert MessageToDict((await operator.get("j")).document_params) == document


async def test_integers_are_stored_as_integers(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 1)

    await operator.create(
        job_id="j", target_all=True, document_params={"list": [5, -3.0, 0.25, 2**53]}
    )

    document = await database.owner.fetchval(
        "SELECT document_params::text FROM jobs.jobs WHERE tenant_id = $1", operator.tenant
    )
    assert document == '{"list": [5, -3, 0.25, 9007199254740992]}'


async def test_document_is_empty_when_request_has_none(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)

    await operator.create(job_id="j", target_all=True)

    document = await database.owner.fetchval(
        "SELECT document_params::text FROM jobs.jobs WHERE tenant_id = $1", operator.tenant
    )
    assert json.loads(document) == {}
    job = await operator.get("j")
    assert job.HasField("document_params")
    assert job.document_params == {}


async def test_create_is_rejected_when_device_does_not_exist_in_the_tenant(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await database.add_devices(operator.tenant + "-other", ["foreign"])

    for device in ("missing", "foreign"):
        with expect_failure(StatusCode.NOT_FOUND, "DEVICE_NOT_FOUND") as failure:
            await operator.create(target_device_id=device)
        assert failure.message == "Device not found"
        assert failure.metadata == {"deviceId": device}


async def test_create_is_rejected_when_group_has_no_members(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1, group="former")
    await database.add_devices(operator.tenant + "-other", 1, group="foreign")
    await database.owner.execute(
        "DELETE FROM device_group_members WHERE tenant_id = $1", operator.tenant
    )

    for group in ("missing", "former", "foreign"):
        with expect_failure(StatusCode.FAILED_PRECONDITION, "GROUP_EMPTY") as failure:
            await operator.create(target_group_id=group)
        assert failure.message == "Group has no members"
        assert failure.metadata == {"groupId": group}
        assert failure.tenant_id == operator.tenant


async def test_create_is_rejected_when_tenant_has_no_devices(operator: Operator) -> None:
    with expect_failure(StatusCode.FAILED_PRECONDITION, "TENANT_EMPTY") as failure:
        await operator.create(target_all=True)
    assert failure.message == "No devices in tenant"
    assert failure.tenant_id == operator.tenant


@pytest.mark.parametrize(
    ("target", "code", "reason"),
    [
        ({"target_device_id": "d"}, StatusCode.NOT_FOUND, "DEVICE_NOT_FOUND"),
        ({"target_group_id": "g"}, StatusCode.FAILED_PRECONDITION, "GROUP_EMPTY"),
        ({"target_all": True}, StatusCode.FAILED_PRECONDITION, "TENANT_EMPTY"),
    ],
)
async def test_rejected_create_stores_nothing(
    database: Database, operator: Operator, target: dict[str, Any], code: StatusCode, reason: str
) -> None:
    with expect_failure(code, reason):
        await operator.create(job_id="j", **target)

    assert await row_counts(database, operator.tenant) == dict.fromkeys(TABLES, 0)
    await database.add_devices(operator.tenant, 2)
    response = await operator.create(job_id="j", document_type="update", target_all=True)
    assert response.execution_count == 2
