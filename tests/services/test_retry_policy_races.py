"""Automatic retries against what else changes a job or an execution, in both orders.

The first transaction of each test is not committed until the second waits for the job lock.
"""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, Operator
from tests.support.database import Database, uncommitted
from tests.support.failures import expect_error
from tests.support.postgres import connected
from tests.support.retry_policies import rule
from tests.support.world import World, uncommitted_report

pytestmark = pytest.mark.single_node("a call inside a transaction is not delegated on Citus")

E = pb.JobExecution
_TIME_OUT = "SELECT jobs.time_out_executions($1, 'j', '{d00001}', 1000)"
_RETRY = "SELECT * FROM jobs.retry_executions($1, 'j', '{FAILED,TIMED_OUT}', NULL, false, NULL)"
_CANCEL = "SELECT jobs.cancel_job($1, 'j', 'r', false)"
_LOCK = "SELECT FROM jobs.lock_job($1, 'j')"


@pytest.fixture(autouse=True)
async def job(world: World) -> None:
    await world.add_devices(22)
    policy = pb.RetryPolicy(rules=[rule(max_attempts=2)])
    await world.create(in_progress_timeout_minutes=1, retry_policy=policy)


@pytest.fixture
def device(world: World) -> Device:
    return world.device("d00001")


async def fetch_value(database: Database, sql: str, *args: object) -> Any:
    async with connected(database.owner_dsn) as session:
        return await session.fetchval(sql, *args)


async def attempts(operator: Operator) -> list[tuple[int, str]]:
    """The attempts of the first device, the current one first."""
    return [
        (attempt.execution_number, E.Status.Name(attempt.status))
        for attempt in await operator.attempts("j", "d00001")
    ]


async def test_failure_after_a_cancel_is_final(world: World, device: Device) -> None:
    await device.start("j")

    async with uncommitted(world.database, _CANCEL, world.tenant):
        report = await world.blocked(device.update("j", "FAILED"))
    assert (await report).status == E.FAILED

    assert await attempts(world.operator) == [(1, "FAILED")]
    assert (await world.operator.get("j")).retrying_count == 0


async def test_cancel_after_a_failure_ends_the_next_attempt(world: World, device: Device) -> None:
    async with uncommitted_report(world.database, device, "FAILED", 1):
        cancel = await world.blocked(world.operator.cancel("j"))
    await cancel

    assert await attempts(world.operator) == [(2, "REJECTED"), (1, "FAILED")]
    job = await world.operator.get("j")
    assert (job.retrying_count, job.execution_counts.rejected) == (0, 22)


async def test_retry_after_a_failure_takes_the_next_attempt(world: World, device: Device) -> None:
    async with uncommitted_report(world.database, device, "FAILED", 1):
        retry = await world.blocked(world.operator.retry("j", "FAILED"))
    assert (await retry).retried_count == 1

    assert await attempts(world.operator) == [(2, "QUEUED"), (1, "FAILED")]
    assert not (await world.operator.failures("j")).failures
    # The retry policy counts the attempts from 1 again.
    await device.update("j", "FAILED", execution_number=2)
    assert await attempts(world.operator) == [(3, "QUEUED"), (2, "FAILED"), (1, "FAILED")]


async def test_failure_after_a_retry_is_of_an_earlier_attempt(world: World, device: Device) -> None:
    await device.update("j", "FAILED")
    await device.update("j", "FAILED", execution_number=2)

    async with uncommitted(world.database, _RETRY, world.tenant):
        report = await world.blocked(
            device.update("j", "FAILED", execution_number=2, failure_code="E1")
        )
    await expect_error("EXECUTION_CHANGED", report)

    assert await attempts(world.operator) == [(3, "QUEUED"), (2, "FAILED"), (1, "FAILED")]


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED"])
async def test_report_after_timeout_is_rejected(world: World, device: Device, status: str) -> None:
    await device.start("j")
    await world.database.make_overdue(world.tenant, "j")

    async with uncommitted(world.database, _TIME_OUT, world.tenant):
        report = await world.blocked(device.update("j", status, execution_number=1))
    await expect_error("EXECUTION_CHANGED", report)

    assert await attempts(world.operator) == [(2, "QUEUED"), (1, "TIMED_OUT")]
    [failure] = (await world.operator.failures("j")).failures
    assert (failure.status, failure.execution_count) == (E.TIMED_OUT, 1)


async def test_timeout_after_a_failure_changes_nothing(world: World, device: Device) -> None:
    await device.start("j")
    await world.database.make_overdue(world.tenant, "j")

    async with uncommitted_report(world.database, device, "FAILED", 1):
        time_out = await world.blocked(fetch_value(world.database, _TIME_OUT, world.tenant))
    assert await time_out == 0

    assert await attempts(world.operator) == [(2, "QUEUED"), (1, "FAILED")]


async def test_report_repeated_before_commit_is_the_same(world: World, device: Device) -> None:
    async with uncommitted_report(world.database, device, "FAILED", 1):
        repeated = await world.blocked(device.update("j", "FAILED", execution_number=1))
    answer = await repeated

    assert (answer.status, answer.execution_number) == (E.FAILED, 1)
    assert await attempts(world.operator) == [(2, "QUEUED"), (1, "FAILED")]


async def test_failure_is_final_if_the_job_expires_meanwhile(world: World, device: Device) -> None:
    await device.start("j")

    async with uncommitted(world.database, _LOCK, world.tenant):
        report = await world.blocked(device.update("j", "FAILED"))
        await world.expire()
    assert (await report).status == E.FAILED

    assert await attempts(world.operator) == [(1, "FAILED")]


async def test_failure_beyond_the_retry_budget_is_final(world: World, device: Device) -> None:
    for number in range(3, 22):
        await world.device(f"d{number:05}").update("j", "FAILED")
    last = world.device("d00022")

    async with uncommitted_report(world.database, device, "FAILED", 1):
        report = await world.blocked(last.update("j", "FAILED"))
    await report

    job = await world.operator.get("j")
    assert (job.retrying_count, job.retry_budget_exhausted) == (20, True)
    assert (await device.get("j")).status == E.QUEUED
    assert (await last.get("j")).status == E.FAILED
