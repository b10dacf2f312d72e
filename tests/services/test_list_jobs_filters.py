"""Filters of ListJobs, and ListJobExecutions of one device."""

from datetime import UTC, datetime
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.callers import Operator, all_executions, job_ids
from tests.support.failures import expect_error, invalid_fields
from tests.support.world import World


@pytest.fixture
async def jobs(world: World) -> Operator:
    """An operator with three jobs, created a second apart, with different values in all fields."""
    await world.add_devices(["a", "b"], group="north")
    other = world.server.operator(world.tenant, user="oscar")
    await world.create("one", document_type="reboot", target_device_id="a")
    await other.create(job_id="group", document_type="update", target_group_id="north")
    await world.create("every", document_type="reboot")
    await world.operator.cancel("group")
    for number, job_id in enumerate(("one", "group", "every")):
        await world.execute(
            "UPDATE jobs.jobs SET created_at = $3 WHERE tenant_id = $1 AND job_id = $2",
            job_id,
            datetime(2026, 1, 1, 0, 0, number, tzinfo=UTC),
        )
    return world.operator


def second(number: int) -> Timestamp:
    """The time `number` seconds after the fixture created its first job."""
    return Timestamp(seconds=1767225600 + number)


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["every", "group", "one"]),
    ({"document_type": "reboot"}, ["every", "one"]),
    ({"created_by": "oscar"}, ["group"]),
    ({"target_device_id": "a"}, ["one"]),
    ({"target_group_id": "north"}, ["group"]),
    ({"target_all": True}, ["every"]),
    ({"target_all": False}, ["every", "group", "one"]),
    ({"created_from": second(1)}, ["every", "group"]),
    ({"created_until": second(1)}, ["one"]),
    ({"created_from": second(1), "created_until": second(2)}, ["group"]),
    ({"statuses": ["CANCELED", "COMPLETED"]}, ["group"]),
    ({"statuses": ["CANCELED"], "status": "IN_PROGRESS"}, ["every", "group", "one"]),
    ({"document_type": "reboot", "created_by": "olivia", "target_all": True}, ["every"]),
    ({"document_type": "unknown"}, []),
]


async def test_list_contains_the_jobs_that_match_all_filters(jobs: Operator) -> None:
    for filters, expected in FILTERS:
        assert await job_ids(jobs, limit=1, **filters) == expected, filters


async def test_invalid_filter_is_rejected_with_the_field_name(world: World) -> None:
    for field, value in (
        *(("statuses", [0]), ("statuses", [9]), ("status", 9), ("document_type", "x" * 101)),
        *(("created_by", "\n"), ("target_device_id", "\0"), ("target_group_id", "x" * 257)),
        *(("created_from", Timestamp(seconds=2**62)), ("created_until", Timestamp(nanos=-1))),
    ):
        failure = await expect_error("INVALID_FIELD", world.operator.list(**{field: value}))
        assert {*failure.violations} == {field}
        if value == [9]:
            assert failure.violations["statuses"] == (
                "status 9 is unknown; it must be one of"
                " IN_PROGRESS, COMPLETED, CANCELED, PAUSED, SCHEDULED"
            )
    # A list of executions needs one of its two IDs.
    assert await invalid_fields(world.operator.executions("")) == ["job_id"]


async def test_executions_of_a_device_are_listed_newest_first(world: World, jobs: Operator) -> None:
    for number, job_id in enumerate(("every", "one", "group")):
        await world.database.owner.execute(
            "UPDATE jobs.job_executions SET queued_at = $3 WHERE tenant_id = $1 AND job_id = $2",
            jobs.tenant,
            job_id,
            datetime(2026, 1, 1, 0, 0, number // 2, tzinfo=UTC),
        )
    await world.database.add_devices(jobs.tenant, ["new"])

    async def listed(device_id: str, job_id: str = "", **fields: Any) -> list[str]:
        executions = await all_executions(jobs, job_id, device_id=device_id, limit=1, **fields)
        assert {execution.device_id for execution in executions} <= {device_id}
        return [execution.job_id for execution in executions]

    assert await listed("a") == ["group", "one", "every"]
    assert await listed("b") == ["group", "every"]
    assert await listed("new") == []
    assert await listed("a", status="REJECTED") == ["group"]
    assert await listed("a", status="FAILED") == []
    assert await listed("a", "one") == ["one"]


@pytest.mark.parametrize("status", ["STATUS_UNSPECIFIED", "FAILED"])
async def test_executions_of_an_unknown_device_are_not_found(
    world: World, jobs: Operator, status: str
) -> None:
    for operator, device_id in ((jobs, "unknown"), (world.server.operator("other-tenant"), "a")):
        failure = await expect_error(
            "DEVICE_NOT_FOUND", operator.executions("", device_id=device_id, status=status)
        )
        assert failure.metadata == {"deviceId": device_id}


async def test_device_that_was_removed_from_the_fleet_keeps_its_executions(
    world: World, jobs: Operator
) -> None:
    await world.database.remove_devices(jobs.tenant, ["a"])

    assert len((await jobs.executions("", device_id="a")).executions) == 3


async def test_page_token_of_other_filters_is_rejected(jobs: Operator) -> None:
    token = (await jobs.list(limit=1)).next_page_token
    of_device = (await jobs.executions("", device_id="a", limit=1)).next_page_token

    for call in (
        jobs.list(page_token=token, document_type="update"),
        jobs.list(page_token=token, created_by="oscar"),
        jobs.list(page_token=token, target_all=True),
        jobs.list(page_token=token, statuses=[pb.Job.IN_PROGRESS]),
        jobs.executions("", page_token=of_device, device_id="b"),
    ):
        await expect_error("INVALID_PAGE_TOKEN", call)
