"""The recount of a job notices a wrong count in each table, and the repair sets them."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.database import request_session, uncommitted
from tests.support.retry_policies import rule
from tests.support.staged_jobs import StagedJob
from tests.support.world import World


@pytest.mark.wrong_counts("plants mistakes")
@pytest.mark.parametrize(
    ("mistake", "key", "column", "stored", "counted"),
    [
        ("job_progress SET queued = queued + 1", "{}", "queued", 7, 6),
        ("job_progress SET retrying = 0", "{}", "retrying", 0, 1),
        ("job_progress SET retried_devices = 2", "{}", "retried_devices", 2, 1),
        ("job_stages SET failures = 5 WHERE stage = 0", '{"stage": 0}', "failures", 5, 2),
        ("job_stages SET last_rank = 9 WHERE stage = 1", '{"stage": 1}', "executions", 5, 4),
        (
            "job_failures SET executions = 0 WHERE failure_code = 'E1'",
            *('{"status": "FAILED", "failure_code": "E1"}', "executions", 0, 1),
        ),
        (
            "job_criterion_counts SET failures = 7",
            *('{"stage": -1, "criterion": 0}', "failures", 7, 2),
        ),
        (
            "job_executions SET failure_code = 'E' WHERE status = 'SUCCEEDED'",
            *("{}", "wrong", 0, 1),
        ),
    ],
)
async def test_recount_returns_what_differs(
    world: World, mistake: str, key: str, column: str, stored: int, counted: int
) -> None:
    await _create_counted_job(world)

    await _plant(world, mistake)

    wrong = await world.database.recount(world.tenant)
    table = mistake.partition(" ")[0]
    assert (world.tenant, "j", table, key, column, stored, counted) in wrong


_REPAIRABLE = (
    "job_progress SET queued = 9, retrying = 0, retried_devices = 2, retries = 4",
    "job_stages SET failures = 5, succeeded = 0 WHERE stage = 0",
    "job_failures SET executions = 0 WHERE failure_code = 'E1'",
    "job_criterion_counts SET failures = 7",
)


async def test_repair_sets_what_differs(world: World) -> None:
    await _create_counted_job(world)
    for mistake in _REPAIRABLE:
        await _plant(world, mistake)
    await world.execute(
        "DELETE FROM jobs.job_failures WHERE tenant_id = $1 AND failure_code = 'E2'"
    )
    differing = await world.database.recount(world.tenant)

    repaired = await _repair(world)

    assert sorted(repaired) == sorted(row[2:] for row in differing)
    assert len(repaired) == 8
    assert await world.database.recount(world.tenant) == []
    assert await _repair(world) == []
    retries = "SELECT retries FROM jobs.job_progress WHERE tenant_id = $1"
    assert await world.owner_value(retries) == 4


@pytest.mark.parametrize(
    "mistake",
    [
        "DELETE FROM jobs.job_failures",
        "UPDATE jobs.job_failures SET executions = 0",
        "UPDATE jobs.job_stages SET failures = 0",
        "DELETE FROM jobs.job_criterion_counts",
        "UPDATE jobs.job_criterion_counts SET failures = 0",
    ],
)
async def test_report_that_removes_a_failure_is_accepted_when_the_failure_is_not_counted(
    world: World, mistake: str
) -> None:
    job = await _create_counted_job(world)
    await world.execute(f"{mistake} WHERE tenant_id = $1")

    await job.device(0, 2).update("j", "SUCCEEDED", execution_number=2)

    await _repair(world)
    await job.check_counts()


@pytest.mark.wrong_counts("plants mistakes that are not counts")
async def test_repair_leaves_alone_what_is_not_a_count(world: World) -> None:
    await _create_counted_job(world)
    for mistake in (
        "job_stages SET last_rank = 9 WHERE stage = 1",
        "job_executions SET failed_at = now(), failed_status = 'FAILED', failed_code = ''"
        " WHERE status = 'SUCCEEDED'",
    ):
        await _plant(world, mistake)

    await _repair(world)

    wrong = await world.database.recount(world.tenant)
    assert {row[2] for row in wrong} == {"job_executions", "job_stages"}


async def test_repair_completes_a_job_without_pending_executions(world: World) -> None:
    await world.add_devices(1)
    await world.create()
    await _plant(world, "job_progress SET queued = 2")
    await world.device("d00001").update("j", "SUCCEEDED")
    assert (await world.operator.get("j")).status == pb.Job.IN_PROGRESS

    await _repair(world)

    assert (await world.operator.get("j")).status == pb.Job.COMPLETED


async def test_repair_counts_the_change_that_it_has_waited_for(world: World) -> None:
    await world.add_devices(2)
    await world.create()
    await _plant(world, "job_progress SET queued = 5")
    cancel = "SELECT jobs.cancel_execution($1, 'j', 'd00001', 'r', false)"

    async with request_session(world.database) as (session, _):
        async with uncommitted(world.database, cancel, world.tenant):
            repair = await world.blocked(session.fetch(_REPAIR, world.tenant))
        assert [row["counted"] for row in await repair] == [1]

    assert await world.database.recount(world.tenant) == []


_REPAIR = "SELECT * FROM jobs.repair_counts($1, 'j')"


async def _repair(world: World) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await world.rows(_REPAIR)]


async def _plant(world: World, mistake: str) -> None:
    where = "AND" if " WHERE " in mistake else "WHERE"
    await world.execute(f"UPDATE jobs.{mistake} {where} tenant_id = $1")


async def _create_counted_job(world: World) -> StagedJob:
    """Create the job "j" with a row in each table of counts."""
    await world.add_devices(8)
    job = await world.create_staged(
        {"device_count": 4},
        {"remainder": True},
        retry_policy=pb.RetryPolicy(rules=[rule(codes=["E2"])]),
        failure_criteria=[pb.FailureCriterion(count=100, action=pb.FailureCriterion.PAUSE)],
    )
    await job.device(0, 0).update("j", "SUCCEEDED")
    await job.device(0, 1).update("j", "FAILED", failure_code="E1")
    await job.device(0, 2).update("j", "FAILED", failure_code="E2")
    await job.check_counts()
    return job
