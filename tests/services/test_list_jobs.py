"""ListJobs: order, content, limit and offset, and the derived status."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator, job_ids
from tests.support.database import Database
from tests.support.world import World


@pytest.fixture(autouse=True)
async def devices(database: Database, tenant: str) -> None:
    """Two devices."""
    await database.add_devices(tenant, ["a", "b"], group="north")


async def create(operator: Operator, *job_ids: str) -> None:
    """Create jobs for all devices, in this order."""
    for job_id in job_ids:
        await operator.create(job_id=job_id, target_all=True)


async def test_list_is_empty_when_tenant_has_no_jobs(operator: Operator) -> None:
    assert await operator.list() == pb.ListJobsResponse()


async def test_jobs_with_the_same_time_are_sorted_by_job_id_descending(world: World) -> None:
    await create(world.operator, "b", "a-1", "B", "a", "c")
    await world.database.owner.execute(
        "UPDATE jobs.jobs SET created_at = '2026-01-01Z' WHERE tenant_id = $1", world.tenant
    )

    assert await job_ids(world.operator, limit=2) == ["c", "b", "a-1", "a", "B"]


async def test_listed_job_equals_the_job_without_its_executions(world: World) -> None:
    await world.operator.create(
        job_id="j",
        document_type="update",
        document_params={"version": 5},
        target_group_id="north",
        expires_in_hours=3,
    )
    await world.device("a").start("j")
    await world.operator.cancel("j", reason="no")

    (listed,) = (await world.operator.list()).jobs

    job = await world.operator.get("j", executions_limit=1)
    assert len(job.executions) == 1
    job.ClearField("executions")
    job.ClearField("next_executions_page_token")
    assert listed == job


async def test_limit_defaults_to_fifty_of_the_newest_jobs(operator: Operator) -> None:
    await create(operator, *(f"j{number:02}" for number in range(51)))

    page = await operator.list()

    assert [job.job_id for job in page.jobs] == [f"j{number:02}" for number in range(50, 0, -1)]
    assert await job_ids(operator, page_token=page.next_page_token) == ["j00"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"limit": 2}, "ab"),
        ({"limit": 2, "offset": 2}, "cd"),
        ({"limit": 2, "offset": 4}, "e"),
        ({"limit": 200, "offset": 0}, "abcde"),
        ({"offset": 5}, ""),
        ({"offset": 2**31 - 1}, ""),
        ({"status": pb.Job.IN_PROGRESS, "offset": 1, "limit": 1}, "d"),
    ],
    ids=str,
)
async def test_limit_and_offset_select_a_window_of_the_jobs_that_match(
    operator: Operator, fields: dict[str, int], expected: str
) -> None:
    await create(operator, *"edcba")
    for job_id in "ac":
        await operator.cancel(job_id)

    assert [job.job_id for job in (await operator.list(**fields)).jobs] == list(expected)


async def test_status_filter_uses_the_derived_status(world: World) -> None:
    await create(world.operator, "active", "completed", "canceled", "expired", "expired-active")
    device = world.device("a")
    for name in "ab":
        await world.device(name).update("completed", "SUCCEEDED")
    await world.operator.cancel("canceled")
    await device.start("expired-active")
    await world.expire("expired")
    await world.expire("expired-active")

    for status, expected in (
        ("IN_PROGRESS", {"active", "expired-active"}),
        ("COMPLETED", {"completed", "expired"}),
        ("CANCELED", {"canceled"}),
    ):
        jobs = (await world.operator.list(status=status)).jobs
        assert {job.job_id for job in jobs} == expected
        assert {pb.Job.Status.Name(job.status) for job in jobs} == {status}
    assert len(await job_ids(world.operator)) == 5
