"""The recount of a job notices a wrong count in each table, and the repair sets them."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database, request_session, uncommitted
from tests.support.retry_policies import rule
from tests.support.server import Server
from tests.support.staged_jobs import StagedJob, create_staged_job


@pytest.mark.wrong_counts("plants mistakes")
@pytest.mark.parametrize(
    ("mistake", "table", "key", "column", "stored", "counted"),
    [
        ("job_progress SET queued = queued + 1", "job_progress", "{}", "queued", 7, 6),
        ("job_progress SET retrying = 0", "job_progress", "{}", "retrying", 0, 1),
        ("job_progress SET retried_devices = 2", "job_progress", "{}", "retried_devices", 2, 1),
        (
            "job_stages SET failures = 5 WHERE stage = 0",
            "job_stages",
            '{"stage": 0}',
            "failures",
            5,
            2,
        ),
        (
            "job_stages SET last_rank = 9 WHERE stage = 1",
            "job_stages",
            '{"stage": 1}',
            "executions",
            5,
            4,
        ),
        (
            "job_failures SET executions = 0 WHERE failure_code = 'E1'",
            "job_failures",
            '{"status": "FAILED", "failure_code": "E1"}',
            "executions",
            0,
            1,
        ),
        (
            "job_criterion_counts SET failures = 7",
            "job_criterion_counts",
            '{"stage": -1, "criterion": 0}',
            "failures",
            7,
            2,
        ),
        (
            "job_executions SET failure_code = 'E' WHERE status = 'SUCCEEDED'",
            "job_executions",
            "{}",
            "wrong",
            0,
            1,
        ),
    ],
)
async def test_recount_returns_what_differs(
    database: Database,
    server: Server,
    operator: Operator,
    mistake: str,
    table: str,
    key: str,
    column: str,
    stored: int,
    counted: int,
) -> None:
    await _create_counted_job(database, server, operator)

    await _plant(database, operator.tenant, mistake)

    wrong = await database.recount(operator.tenant)
    assert (operator.tenant, "j", table, key, column, stored, counted) in wrong


_REPAIRABLE = (
    "job_progress SET queued = 9, retrying = 0, retried_devices = 2, retries = 4",
    "job_stages SET failures = 5, succeeded = 0 WHERE stage = 0",
    "job_failures SET executions = 0 WHERE failure_code = 'E1'",
    "job_criterion_counts SET failures = 7",
)


async def test_repair_sets_what_differs(
    database: Database, server: Server, operator: Operator
) -> None:
    await _create_counted_job(database, server, operator)
    for mistake in _REPAIRABLE:
        await _plant(database, operator.tenant, mistake)
    await database.owner.execute(
        "DELETE FROM jobs.job_failures WHERE tenant_id = $1 AND failure_code = 'E2'",
        operator.tenant,
    )
    differing = await database.recount(operator.tenant)

    repaired = await _repair(database, operator.tenant)

    assert sorted(repaired) == sorted(row[2:] for row in differing)
    assert len(repaired) == 8
    assert await database.recount(operator.tenant) == []
    assert await _repair(database, operator.tenant) == []
    retries = "SELECT retries FROM jobs.job_progress WHERE tenant_id = $1"
    assert await database.owner.fetchval(retries, operator.tenant) == 4


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
    database: Database, server: Server, operator: Operator, mistake: str
) -> None:
    job = await _create_counted_job(database, server, operator)
    await database.owner.execute(f"{mistake} WHERE tenant_id = $1", operator.tenant)

    await job.device(0, 2).update("j", "SUCCEEDED", execution_number=2)

    await _repair(database, operator.tenant)
    assert await database.recount(operator.tenant) == []


@pytest.mark.wrong_counts("plants mistakes that are not counts")
async def test_repair_leaves_alone_what_is_not_a_count(
    database: Database, server: Server, operator: Operator
) -> None:
    await _create_counted_job(database, server, operator)
    for mistake in (
        "job_stages SET last_rank = 9 WHERE stage = 1",
        "job_executions SET failed_at = now(), failed_status = 'FAILED', failed_code = ''"
        " WHERE status = 'SUCCEEDED'",
    ):
        await _plant(database, operator.tenant, mistake)

    await _repair(database, operator.tenant)

    wrong = await database.recount(operator.tenant)
    assert {row[2] for row in wrong} == {"job_executions", "job_stages"}


async def test_repair_completes_a_job_without_pending_executions(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", target_all=True)
    await _plant(database, operator.tenant, "job_progress SET queued = 2")
    await server.device(operator.tenant, "d00001").update("j", "SUCCEEDED")
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS

    await _repair(database, operator.tenant)

    assert (await operator.get("j")).status == pb.Job.COMPLETED


async def test_repair_counts_the_change_that_it_has_waited_for(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 2)
    await operator.create(job_id="j", target_all=True)
    await _plant(database, operator.tenant, "job_progress SET queued = 5")
    cancel = "SELECT jobs.cancel_execution($1, 'j', 'd00001', 'r', false)"

    async with request_session(database) as (session, _):
        async with uncommitted(database, cancel, operator.tenant):
            repair = await database.blocked(session.fetch(_REPAIR, operator.tenant))
        assert [row["counted"] for row in await repair] == [1]

    assert await database.recount(operator.tenant) == []


_REPAIR = "SELECT * FROM jobs.repair_counts($1, 'j')"


async def _repair(database: Database, tenant: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await database.owner.fetch(_REPAIR, tenant)]


async def _plant(database: Database, tenant: str, mistake: str) -> None:
    where = "AND" if " WHERE " in mistake else "WHERE"
    await database.owner.execute(f"UPDATE jobs.{mistake} {where} tenant_id = $1", tenant)


async def _create_counted_job(database: Database, server: Server, operator: Operator) -> StagedJob:
    """Create the job "j" with a row in each table of counts."""
    await database.add_devices(operator.tenant, 8)
    job = await create_staged_job(
        database,
        server,
        operator,
        {"device_count": 4},
        {"remainder": True},
        retry_policy=pb.RetryPolicy(rules=[rule(codes=["E2"])]),
        failure_criteria=[pb.FailureCriterion(count=100, action=pb.FailureCriterion.PAUSE)],
    )
    await job.device(0, 0).update("j", "SUCCEEDED")
    await job.device(0, 1).update("j", "FAILED", failure_code="E1")
    await job.device(0, 2).update("j", "FAILED", failure_code="E2")
    assert await database.recount(operator.tenant) == []
    return job
