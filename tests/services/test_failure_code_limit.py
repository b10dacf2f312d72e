"""The failure counts of a job whose devices invent failure codes."""

import asyncio

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Operator
from tests.support.database import Database, request_session

COUNT_ROWS = "SELECT count(*) FROM jobs.job_failures WHERE tenant_id = $1"


def code(number: int) -> str:
    """A failure code; codes of higher numbers come later in sort order."""
    return f"code-{number:04}"


def failure(number: int, failure_code: str) -> ExecutionUpdate:
    """The report of a failure by a device."""
    return ExecutionUpdate("j", f"d{number:05}", "FAILED", failure_code=failure_code)


async def test_codes_after_the_first_hundred_are_counted_together(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 300)
    await operator.create(job_id="j", target_all=True)
    async with request_session(database) as (_, store):
        for first in range(1, 300, 60):
            numbers = range(first, first + 60)
            batch = [failure(number, code(number)) for number in numbers]
            await store.update_executions(operator.tenant, batch, wait_ms=1000)

    summary = await operator.failures("j")

    assert [(f.failure_code, f.execution_count) for f in summary.failures] == [
        (code(number), 1) for number in range(1, 101)
    ]
    assert summary.other_count == 200
    assert await database.owner.fetchval(COUNT_ROWS, operator.tenant) == 101

    # A retry takes failures back where they were counted, and keeps the first hundred.
    codes = [code(number) for number in (1, 50, 101, 300)]
    assert (await operator.retry("j", "FAILED", failure_codes=codes)).retried_count == 4
    summary = await operator.failures("j")
    assert (len(summary.failures), summary.other_count) == (98, 198)
    async with request_session(database) as (_, store):
        batch = [failure(1, code(101)), failure(50, code(50))]
        await store.update_executions(operator.tenant, batch, wait_ms=1000)
    summary = await operator.failures("j")
    assert (len(summary.failures), summary.other_count) == (99, 199)

    assert (await operator.retry("j", "FAILED")).retried_count == 298
    assert await operator.failures("j") == pb.GetFailureSummaryResponse()


async def test_first_hundred_is_exact_when_batches_of_one_job_run_concurrently(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 400)
    await operator.create(job_id="j", target_all=True)

    async def send(first: int) -> None:
        async with request_session(database) as (_, store):
            batch = [failure(number, code(number)) for number in range(first, first + 100)]
            await store.update_executions(operator.tenant, batch, wait_ms=60_000)

    await asyncio.gather(*map(send, range(1, 400, 100)))

    summary = await operator.failures("j")
    assert (len(summary.failures), summary.other_count) == (100, 300)
