"""The recount of a job: it notices a wrong count in each table."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.retry_policies import rule
from tests.support.server import Server
from tests.support.staged_jobs import create_staged_job


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

    where = "AND" if " WHERE " in mistake else "WHERE"
    await database.owner.execute(f"UPDATE jobs.{mistake} {where} tenant_id = $1", operator.tenant)

    wrong = await database.recount(operator.tenant)
    assert (operator.tenant, "j", table, key, column, stored, counted) in wrong
