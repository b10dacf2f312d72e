"""ListPendingExecutions, page by page."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, Operator, all_pending
from tests.support.database import Database
from tests.support.failures import expect_error, invalid_fields
from tests.support.page_tokens import forged_token
from tests.support.server import Server
from tests.support.world import World

QUEUED = [f"q{number}" for number in range(1, 6)]
STARTED = ["s1", "s2", "s3"]

INVALID_POSITIONS: tuple[tuple[Any, ...], ...] = (
    *((), ("QUEUED", "0"), ("QUEUED", "0", "j"), ("QUEUED", "0", "0", "j", "j")),
    *(("SUCCEEDED", "0", "0", "j"), ("", "0", "0", "j")),
    *(("QUEUED", "2", "0", "j"), ("QUEUED", "", "0", "j")),
    *(("QUEUED", "0", time, "j") for time in ("", 0, "1.5", "2026-01-01T00:00:00+00:00")),
    *(("QUEUED", "0", time, "j") for time in (f"{2**56 + 1}", f"{-(2**63)}")),
    *(("QUEUED", "0", "0", "\0"), ("QUEUED", "0", "0", "\ud800")),
)


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """A device whose executions of the jobs in STARTED are IN_PROGRESS.

    It started them in a different order than they were queued in. Those of the jobs in QUEUED
    were queued later and are still QUEUED.
    """
    await database.add_devices(operator.tenant, ["pump", "valve"])
    for job_id in STARTED + QUEUED:
        await operator.create(job_id=job_id, target_all=True)
    device = server.device(operator.tenant, "pump")
    for job_id in ("s2", "s3", "s1"):
        await device.start(job_id)
    return device


async def test_pages_contain_each_execution_once(pump: Device) -> None:
    for limit in (1, 2, 3, 4, 7, 8, 100):
        assert await all_pending(pump, limit=limit) == STARTED + QUEUED


async def test_last_page_has_no_token_when_it_is_full(pump: Device) -> None:
    first = await pump.pending(limit=3)
    second = await pump.pending(limit=5, page_token=first.next_page_token)

    assert [execution.job_id for execution in second.executions] == QUEUED
    assert not second.next_page_token


@pytest.mark.parametrize(
    "queued_at", ["'2026-01-01Z'", "now() + interval '1 h' * (job_id > 'r')::int"]
)
async def test_executions_in_progress_come_first_and_then_job_ids_when_times_are_equal(
    database: Database, pump: Device, queued_at: str
) -> None:
    await database.owner.execute(
        f"UPDATE jobs.job_executions SET queued_at = {queued_at} WHERE tenant_id = $1", pump.tenant
    )

    for limit in (1, 2, 3, 5):
        assert await all_pending(pump, limit=limit) == STARTED + QUEUED


async def test_later_pages_contain_what_stays_pending_when_executions_finish(
    pump: Device, operator: Operator
) -> None:
    page = await pump.pending(limit=2)
    await pump.update("s2", pb.JobExecution.SUCCEEDED)  # the last one on the page
    await pump.update("s3", pb.JobExecution.FAILED)
    await operator.cancel("q1")
    await operator.cancel_execution("q3", "pump")
    await operator.create(job_id="new", target_all=True)

    rest = await all_pending(pump, limit=2, page_token=page.next_page_token)

    assert rest == ["q2", "q4", "q5", "new"]


async def test_page_ends_before_its_documents_have_20_000_elements(
    pump: Device, operator: Operator
) -> None:
    params = {"numbers": [float(number % 10) for number in range(16_000)]}
    for number in range(3):
        await operator.create(job_id=f"z{number}", target_all=True, document_params=params)

    page = await pump.pending(limit=100)
    rest = await all_pending(pump, limit=100, page_token=page.next_page_token)

    assert [execution.job_id for execution in page.executions] == [*STARTED, *QUEUED, "z0"]
    assert rest == ["z1", "z2"]


async def test_page_token_is_rejected_when_its_position_is_invalid_or_of_another_request(
    world: World, pump: Device
) -> None:
    token = (await pump.pending(limit=1)).next_page_token
    jobs_token = (await world.operator.list(limit=1)).next_page_token

    for device, rejected in (
        *((pump, forged_token(token, "pump", *invalid)) for invalid in INVALID_POSITIONS),
        *((world.device("valve"), token), (pump, jobs_token), (pump, "garbage")),
    ):
        await expect_error("INVALID_PAGE_TOKEN", device.pending(page_token=rejected))


async def test_page_token_is_accepted_when_its_position_is_extreme(pump: Device) -> None:
    token = (await pump.pending(limit=1)).next_page_token

    for status, time, expected in (
        ("IN_PROGRESS", -(2**56), STARTED + QUEUED),
        ("IN_PROGRESS", 2**56, QUEUED),
        ("QUEUED", -(2**56), QUEUED),
        ("QUEUED", 2**56, []),
    ):
        forged = forged_token(token, "pump", status, "0", f"{time}", "z")
        assert await all_pending(pump, page_token=forged) == expected


async def test_limit_is_rejected_when_it_is_out_of_range(server: Server, tenant: str) -> None:
    for limit in (0, -1, 101):
        assert await invalid_fields(server.device(tenant, "pump").pending(limit=limit)) == ["limit"]
