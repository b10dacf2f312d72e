"""ListExecutionAttempts: the current attempt of an execution and those before it."""

from collections.abc import Iterable
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.page_tokens import forged_token, position
from tests.support.server import Server
from tests.support.world import World

INVALID_POSITIONS: tuple[tuple[Any, ...], ...] = (
    *((), ("1",), ("1", "1", "1"), ("", "1"), (f"{2**56 + 1}", "1")),
    *(("1", number) for number in (1, "", "x", "1.5", f"{2**31}", "9" * 5000)),
)


@pytest.fixture(autouse=True)
async def job(world: World) -> None:
    await world.add_devices(["pump", "valve"])
    await world.create()


async def test_attempts_are_listed_newest_first_as_they_ended(world: World) -> None:
    finished = []
    for number in range(1, 4):
        await world.pump.start("j")
        await world.pump.update("j", "FAILED", status_details={"attempt": number})
        finished.append((await world.operator.get("j")).executions[0])
        await world.operator.retry("j", "FAILED")

    attempts = await world.operator.attempts("j", "pump")

    assert attempts == [(await world.operator.get("j")).executions[0], *reversed(finished)]
    assert numbers(attempts) == [4, 3, 2, 1]
    assert [attempt.version for attempt in attempts] == [10, 9, 6, 3]
    assert (await world.pump.get("j")).version == 10
    assert len(await world.operator.attempts("j", "valve")) == 1


async def test_first_attempt_equals_the_execution_also_when_job_has_expired(world: World) -> None:
    for status in (pb.JobExecution.QUEUED, pb.JobExecution.TIMED_OUT):
        execution = (await world.operator.get("j")).executions[0]
        assert await world.operator.attempts("j", "pump") == [execution]
        assert execution.status == status
        await world.expire()


async def add_attempts(database: Database, tenant: str, count: int) -> None:
    """Renumber the current attempt of "pump" from 2 to `count`, and insert those between."""
    await database.owner.execute(
        "UPDATE jobs.job_executions SET execution_number = $2"
        " WHERE tenant_id = $1 AND device_id = 'pump'",
        tenant,
        count,
    )
    await database.owner.execute(
        "INSERT INTO jobs.execution_attempts SELECT tenant_id, job_id, device_id, n, version,"
        " status, queued_at, started_at, last_updated_at, status_details"
        " FROM jobs.execution_attempts, generate_series(2, $2 - 1) n WHERE tenant_id = $1",
        tenant,
        count,
    )


@pytest.fixture
async def retried(world: World) -> Operator:
    await world.operator.cancel_execution("j", "pump")
    await world.operator.retry("j", "REJECTED")
    await add_attempts(world.database, world.tenant, 121)
    return world.operator


def numbers(attempts: Iterable[pb.JobExecution]) -> list[int]:
    return [attempt.execution_number for attempt in attempts]


async def all_attempts(operator: Operator, **fields: Any) -> list[pb.JobExecution]:
    """The attempts of "pump" on all pages, starting at the first page or at `page_token`."""
    attempts: list[pb.JobExecution] = []
    while True:
        page = await operator.attempts_page("j", "pump", **fields)
        attempts += page.attempts
        if not page.next_page_token:
            return attempts
        fields["page_token"] = page.next_page_token


async def test_newest_hundred_attempts_are_listed_by_default(retried: Operator) -> None:
    assert numbers(await retried.attempts("j", "pump")) == list(range(121, 21, -1))


@pytest.mark.slow
async def test_pages_contain_each_attempt_once(retried: Operator) -> None:
    for limit in (1, 40, 60, 100):
        assert numbers(await all_attempts(retried, limit=limit)) == list(range(121, 0, -1))
    token = (await retried.attempts_page("j", "pump", limit=60)).next_page_token
    full = await retried.attempts_page("j", "pump", limit=61, page_token=token)
    assert (numbers(full.attempts), full.next_page_token) == (list(range(61, 0, -1)), "")


async def test_pages_contain_each_attempt_once_during_a_retry(retried: Operator) -> None:
    page = await retried.attempts_page("j", "pump", limit=2)
    await retried.cancel_execution("j", "pump")
    await retried.retry("j", "REJECTED")

    rest = await all_attempts(retried, page_token=page.next_page_token)

    assert numbers(page.attempts) == [121, 120]
    assert numbers(rest) == list(range(119, 0, -1))


async def test_page_token_needs_a_valid_position_of_the_same_request(retried: Operator) -> None:
    await retried.create(job_id="other", target_all=True)
    token = (await retried.attempts_page("j", "pump", limit=1)).next_page_token
    jobs_token = (await retried.list(limit=1)).next_page_token
    assert token
    assert jobs_token

    for job_id, device, rejected in (
        *(("j", "valve", token), ("other", "pump", token), ("j", "pump", jobs_token)),
        *(("j", "pump", forged_token(token, *invalid)) for invalid in INVALID_POSITIONS),
        ("j", "pump", "garbage"),
    ):
        call = retried.attempts_page(job_id, device, page_token=rejected)
        await expect_error("INVALID_PAGE_TOKEN", call)
    job_created_at, _ = position(token)
    for number in (1, 0, -5):  # No attempt is older.
        forged = forged_token(token, job_created_at, f"{number}")
        page = await retried.attempts_page("j", "pump", page_token=forged)
        assert (numbers(page.attempts), page.next_page_token) == ([], "")


async def test_limit_is_rejected_when_it_is_out_of_range(operator: Operator) -> None:
    for limit in (0, -1, 101):
        failure = await expect_error(
            "INVALID_FIELD", operator.attempts_page("j", "pump", limit=limit)
        )
        assert failure.violations == {"limit": "limit must be from 1 to 100"}


@pytest.mark.slow
async def test_page_ends_before_the_response_exceeds_4_mib(world: World) -> None:
    """32 KiB of JSON can be many times larger as protobuf."""
    details = {"n": [1] * 16_000}
    await world.pump.update("j", "FAILED", status_details=details)
    await world.operator.retry("j", "FAILED")
    await add_attempts(world.database, world.tenant, 28)

    page = await world.operator.attempts_page("j", "pump")
    rest = await all_attempts(world.operator, page_token=page.next_page_token)

    assert 1 < len(page.attempts) < 28
    assert numbers([*page.attempts, *rest]) == list(range(28, 0, -1))


async def test_attempts_are_not_found_when_execution_does_not_exist_in_the_tenant(
    server: Server, retried: Operator
) -> None:
    token = (await retried.attempts_page("j", "pump", limit=1)).next_page_token
    await retried.create(job_id="k", target_all=True)
    await retried.cancel("j")
    await retried.delete("j")
    other = server.operator(retried.tenant + "-other")

    for call, job_id, device in (
        (retried.attempts_page("j", "pump", page_token=token), "j", "pump"),
        (retried.attempts("k", "missing"), "k", "missing"),
        (retried.attempts("missing", "pump"), "missing", "pump"),
        (other.attempts("k", "pump"), "k", "pump"),
    ):
        failure = await expect_error("EXECUTION_NOT_FOUND", call)
        assert failure.metadata == {"jobId": job_id, "deviceId": device}
