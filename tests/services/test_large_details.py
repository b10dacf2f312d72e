"""Pages of executions whose details are too large for one response.

U+0001 takes six bytes in the text of JSON and one byte in a message. So the database stops reading
details long before the message is full.
"""

from typing import Any, cast

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.store import Store
from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.world import World

pytestmark = [pytest.mark.slow, pytest.mark.wrong_counts("failures are stored, but not counted")]

EXECUTIONS = 300
MAX_DETAILS_BYTES = 8 * 1024 * 1024


@pytest.fixture
async def large(database: Database, operator: Operator) -> Operator:
    """An operator with the job "j" of 300 failed executions with 32,000 bytes of details each."""
    await database.add_devices(operator.tenant, EXECUTIONS)
    await operator.create(job_id="j", target_all=True)
    await _fail_with_large_details(database, operator.tenant)
    return operator


async def _fail_with_large_details(database: Database, tenant: str) -> None:
    async with database.owner.transaction():
        await database.owner.execute(
            "UPDATE jobs.job_executions SET status = 'FAILED', failure_code = 'E1',"
            " started_at = queued_at,"
            " last_updated_at = queued_at,"
            " status_details = jsonb_build_object('log', repeat(E'\\x01', 5330))"
            " WHERE tenant_id = $1",
            tenant,
        )
        await database.owner.execute(
            "UPDATE jobs.job_progress SET queued = 0, failed = queued WHERE tenant_id = $1", tenant
        )


def _check(executions: list[pb.JobExecution]) -> None:
    assert len(executions) == EXECUTIONS
    for execution in executions:
        assert execution.status == pb.JobExecution.FAILED
        assert execution.status_details["log"] == "\x01" * 5330


async def test_pages_have_all_executions_with_large_details(large: Operator) -> None:
    for filters in ({}, {"status": "FAILED"}, {"failure_code": "E1"}):
        executions = await all_executions(large, "j", limit=5000, **filters)

        _check(executions)
        assert len({execution.device_id for execution in executions}) == EXECUTIONS


async def test_job_has_a_token_after_large_details(large: Operator) -> None:
    job = await large.get("j", executions_limit=5000)

    assert job.next_executions_page_token
    assert 0 < len(job.executions) < EXECUTIONS
    assert all(execution.status_details for execution in job.executions)


@pytest.mark.parametrize(("status", "failure_code"), [(None, None), ("FAILED", None), (None, "E1")])
async def test_page_reads_a_bounded_number_of_bytes_when_details_are_large(
    world: World, large: Operator, status: str | None, failure_code: str | None
) -> None:
    store = Store(cast("Any", world.database.owner))  # The store only calls `fetch`.
    row = await store.list_job_executions(
        large.tenant,
        job_id="j",
        status=status,
        failure_code=failure_code,
        after_device_id="",
        limit=5001,
    )

    assert len(row["device_ids"]) == EXECUTIONS
    size = sum(len(details) for details in row["status_details"] if details)
    assert MAX_DETAILS_BYTES <= size < MAX_DETAILS_BYTES + 40_000
    assert [status is None for status in row["statuses"]] == [
        details is None for details in row["status_details"]
    ]


async def test_pages_of_a_device_have_all_executions_when_their_details_are_large(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 1)
    for number in range(EXECUTIONS):
        await operator.create(job_id=f"j{number}", target_device_id="d00001")
    await _fail_with_large_details(database, operator.tenant)

    executions = await all_executions(operator, "", device_id="d00001", limit=5000)

    _check(executions)
    assert len({execution.job_id for execution in executions}) == EXECUTIONS
