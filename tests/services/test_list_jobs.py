"""ListJobs: order, content, limit and offset, page tokens and page sizes."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator, job_ids
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.page_tokens import forged_token
from tests.support.world import World

MAX_MESSAGE_BYTES = 4 * 1024 * 1024

# The largest time in a page token, in microseconds since 2000.
MAX_TIME = 2**56

NOT_TOKENS = ("garbage", "e30", "W10", "!", "é", "=", "A" * 10_000, "bnVsbA")
INVALID_POSITIONS: tuple[tuple[Any, ...], ...] = (
    *((), ("0",), ("0", "j", "j"), (0, "j"), (None, "j"), ("", "j"), ("yesterday", "j")),
    *(("2026-01-01T00:00:00+00:00", "j"), ("1.5", "j"), ("1e3", "j"), ("nan", "j")),
    *((f"{MAX_TIME + 1}", "j"), (f"{-MAX_TIME - 1}", "j")),
    *((f"{2**63}", "j"), (f"{-(2**63) - 1}", "j"), ("9" * 1000, "j"), ("9" * 10_000, "j")),
    *(("0", 0), ("0", "\0"), ("0", "\ud800")),
)


INSERT_PROGRESS = """
    INSERT INTO jobs.job_progress (tenant_id, job_id, queued)
    SELECT tenant_id, job_id, 1 FROM jobs.jobs WHERE tenant_id = $1
    ON CONFLICT DO NOTHING
"""


@pytest.fixture
async def five_jobs(operator: Operator) -> Operator:
    await create(operator, *"edcba")
    return operator


async def test_pages_contain_each_job_once_while_jobs_are_created(five_jobs: Operator) -> None:
    seen: list[str] = []
    page = pb.ListJobsResponse()
    while not seen or page.next_page_token:
        page = await five_jobs.list(limit=2, page_token=page.next_page_token)
        seen += [job.job_id for job in page.jobs]
        await five_jobs.create(target_all=True)

    assert seen == ["a", "b", "c", "d", "e"]


async def test_later_pages_are_complete_when_jobs_stop_matching(five_jobs: Operator) -> None:
    page = await five_jobs.list(limit=2, status=pb.Job.IN_PROGRESS)
    for job_id in "bc":
        await five_jobs.cancel(job_id)

    token = page.next_page_token
    assert await job_ids(five_jobs, status=pb.Job.IN_PROGRESS, page_token=token) == ["d", "e"]


async def test_page_token_continues_after_a_page_with_an_offset(five_jobs: Operator) -> None:
    page = await five_jobs.list(limit=2, offset=1)

    assert await job_ids(five_jobs, page_token=page.next_page_token) == ["d", "e"]


async def test_page_token_of_another_request_is_rejected(five_jobs: Operator) -> None:
    token = (await five_jobs.list(limit=1, status=pb.Job.IN_PROGRESS)).next_page_token
    unfiltered = (await five_jobs.list(limit=1)).next_page_token
    executions = (await five_jobs.get("a", executions_limit=0)).next_executions_page_token
    requests: list[dict[str, Any]] = [
        {"page_token": token},
        {"page_token": token, "status": pb.Job.CANCELED},
        {"page_token": unfiltered, "offset": 1},
        {"page_token": executions},
        *({"page_token": text} for text in NOT_TOKENS),
    ]

    for request in requests:
        await expect_error("INVALID_PAGE_TOKEN", five_jobs.list(**request))


async def test_page_token_is_rejected_when_its_position_is_invalid(five_jobs: Operator) -> None:
    token = (await five_jobs.list(limit=1)).next_page_token

    for position in INVALID_POSITIONS:
        await expect_error(
            "INVALID_PAGE_TOKEN", five_jobs.list(page_token=forged_token(token, *position))
        )


async def test_page_token_is_accepted_when_its_time_is_in_range(five_jobs: Operator) -> None:
    """The largest times that pass the check are also times that PostgreSQL accepts."""
    token = (await five_jobs.list(limit=1)).next_page_token

    for time, jobs in ((0, ""), (MAX_TIME, "abcde"), (-MAX_TIME, "")):
        page = await five_jobs.list(page_token=forged_token(token, f"{time}", "z"))
        assert [job.job_id for job in page.jobs] == list(jobs)


@pytest.mark.slow
@pytest.mark.wrong_counts("jobs have no executions")
async def test_page_ends_before_the_response_exceeds_4_mib(world: World) -> None:
    await world.add_devices(1)
    await world.create("j0", document_params={"text": "t" * 32_000})
    await world.execute(
        "INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_all,"
        " created_at, updated_at)"
        " SELECT tenant_id, 'j' || n, document_type, document_params, true, created_at, updated_at"
        " FROM jobs.jobs, generate_series(1, 199) n WHERE tenant_id = $1"
    )
    await world.execute(INSERT_PROGRESS)

    seen: list[str] = []
    token = ""
    while True:
        page = await world.operator.list(limit=200, page_token=token)
        assert 3 * 1024 * 1024 < page.ByteSize() <= MAX_MESSAGE_BYTES or not page.next_page_token
        seen += [job.job_id for job in page.jobs]
        if not (token := page.next_page_token):
            break

    assert seen == sorted((f"j{n}" for n in range(200)), reverse=True)


@pytest.fixture(autouse=True)
async def devices(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, ["a", "b"], group="north")


async def create(operator: Operator, *job_ids: str) -> None:
    for job_id in job_ids:
        await operator.create(job_id=job_id, target_all=True)


async def test_list_is_empty_when_tenant_has_no_jobs(operator: Operator) -> None:
    assert await operator.list() == pb.ListJobsResponse()


async def test_jobs_with_the_same_time_are_sorted_by_job_id_descending(world: World) -> None:
    await create(world.operator, "b", "a-1", "B", "a", "c")
    await world.execute("UPDATE jobs.jobs SET created_at = '2026-01-01Z' WHERE tenant_id = $1")

    assert await job_ids(world.operator, limit=2) == ["c", "b", "a-1", "a", "B"]


async def test_listed_job_equals_the_job_without_its_executions(world: World) -> None:
    await world.create(
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
