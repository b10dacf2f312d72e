"""ListJobs: order, content, filters, limit and offset."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database


async def ids(operator: Operator, **fields: Any) -> list[str]:
    """The job_ids of one page."""
    return [job.job_id for job in (await operator.list(**fields)).jobs]


async def create(operator: Operator, *job_ids: str) -> None:
    """Create jobs for all devices, in this order."""
    for job_id in job_ids:
        await operator.create(job_id=job_id, target_all=True)


async def test_list_is_empty_when_tenant_has_no_jobs(operator: Operator) -> None:
    assert await operator.list() == pb.ListJobsResponse()


async def test_newest_job_is_listed_first(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 1)
    await create(operator, "b", "c", "a")

    assert await ids(operator) == ["a", "c", "b"]


async def test_jobs_with_the_same_time_are_sorted_by_job_id_descending(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await create(operator, "b", "a-1", "B", "a", "c")
    await database.owner.execute(
        "UPDATE jobs.jobs SET created_at = '2026-01-01Z' WHERE tenant_id = $1", operator.tenant
    )

    assert await ids(operator) == ["c", "b", "a-1", "a", "B"]
    page = await operator.list(limit=2)
    assert await ids(operator, page_token=page.next_page_token) == ["a-1", "a", "B"]


async def test_listed_job_equals_the_job_without_its_executions(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 3, group="north")
    await operator.create(
        job_id="j",
        document_type="update",
        document_params={"version": 5},
        target_group_id="north",
        expires_in_hours=3,
    )
    await database.set_status(operator.tenant, "j", "d00001", "IN_PROGRESS")
    await operator.cancel("j", reason="no")

    (listed,) = (await operator.list()).jobs

    job = await operator.get("j", executions_limit=1)
    assert len(job.executions) == 1
    job.ClearField("executions")
    job.ClearField("next_executions_page_token")
    assert listed == job


async def test_listed_job_has_execution_counts(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 10)
    await create(operator, "j")
    statuses = ["IN_PROGRESS", *["SUCCEEDED"] * 2, *["FAILED"] * 3, "TIMED_OUT", "REJECTED"]
    for number, status in enumerate(statuses, 1):
        await database.set_status(operator.tenant, "j", f"d{number:05}", status)

    (job,) = (await operator.list()).jobs

    assert job.execution_counts == pb.ExecutionCounts(
        queued=2, in_progress=1, succeeded=2, failed=3, timed_out=1, rejected=1
    )
    assert job.total_executions == 10
    assert job.succeeded_count == 2
    assert job.failed_count == 5


async def test_limit_defaults_to_fifty(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 1)
    await create(operator, *(f"j{number:02}" for number in range(51)))

    page = await operator.list()

    assert [job.job_id for job in page.jobs] == [f"j{number:02}" for number in range(50, 0, -1)]
    assert await ids(operator, page_token=page.next_page_token) == ["j00"]


async def test_limit_and_offset_select_a_window(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 1)
    await create(operator, *"edcba")

    assert await ids(operator, limit=2) == ["a", "b"]
    assert await ids(operator, limit=2, offset=2) == ["c", "d"]
    assert await ids(operator, limit=2, offset=4) == ["e"]
    assert await ids(operator, limit=200, offset=0) == ["a", "b", "c", "d", "e"]
    assert await operator.list(offset=5) == pb.ListJobsResponse()
    assert await operator.list(offset=2**31 - 1) == pb.ListJobsResponse()


async def test_offset_skips_only_jobs_that_match_the_filter(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await create(operator, *"edcba")
    for job_id in "ac":
        await operator.cancel(job_id)

    assert await ids(operator, status=pb.Job.IN_PROGRESS, offset=1, limit=1) == ["d"]


async def test_last_page_has_no_token(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 1)
    await create(operator, *"abc")

    assert (await operator.list(limit=2)).next_page_token
    assert not (await operator.list(limit=3)).next_page_token


@pytest.fixture
async def jobs_in_all_statuses(database: Database, operator: Operator) -> Operator:
    """An operator with a job in each status, stored and derived."""
    await database.add_devices(operator.tenant, ["a", "b"])
    await create(operator, "active", "completed", "canceled", "expired", "expired-active")
    await database.owner.execute(
        "UPDATE jobs.jobs SET status = 'COMPLETED', completed_at = now()"
        " WHERE tenant_id = $1 AND job_id = 'completed'",
        operator.tenant,
    )
    await operator.cancel("canceled")
    await database.set_status(operator.tenant, "expired-active", "a", "IN_PROGRESS")
    await database.expire(operator.tenant, "expired")
    await database.expire(operator.tenant, "expired-active")
    return operator


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (pb.Job.IN_PROGRESS, {"active", "expired-active"}),
        (pb.Job.COMPLETED, {"completed", "expired"}),
        (pb.Job.CANCELED, {"canceled"}),
    ],
)
async def test_status_filter_uses_the_derived_status(
    jobs_in_all_statuses: Operator, status: pb.Job.Status.ValueType, expected: set[str]
) -> None:
    jobs = (await jobs_in_all_statuses.list(status=status)).jobs

    assert {job.job_id for job in jobs} == expected
    assert {job.status for job in jobs} == {status}


async def test_all_jobs_are_listed_without_a_filter(jobs_in_all_statuses: Operator) -> None:
    assert len(await ids(jobs_in_all_statuses)) == 5
