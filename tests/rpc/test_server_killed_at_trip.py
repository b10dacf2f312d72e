"""A failure that trips a criterion, and the pause, are stored together or not at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.cli import address_of, spawn
from tests.support.database import Database
from tests.support.health import wait_until_healthy
from tests.support.server import open_channel

DEVICES = [f"d{n:03}" for n in range(100)]
LIMIT = 50


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["server", "backend"])
async def test_batch_that_trips_is_stored_whole_or_not_at_all_when_its_process_is_killed(
    database: Database, operator: Operator, kill: str
) -> None:
    """The batch has stored its failures and is about to pause the job."""
    # Without the last one, the failures would finish the job instead of pausing it.
    await database.add_devices(operator.tenant, [*DEVICES, "last"])
    await operator.create(
        job_id="j", target_all=True, failure_criteria=[pb.FailureCriterion(count=LIMIT)]
    )
    process = await spawn(
        "serve", JOBS_DATABASE_URL=database.request_dsn, JOBS_LISTEN="127.0.0.1:0"
    )
    async with open_channel(await address_of(process)) as channel:
        await wait_until_healthy(channel)
        async with _pause_blocked(database, operator.tenant):
            reports = asyncio.create_task(_report_failures(channel, operator.tenant))
            await database.wait_for_blocked_sessions(1)
            if kill == "server":
                process.kill()
                await process.wait()
            else:
                await database.terminate_blocked_sessions()
        await asyncio.wait({reports})
        if kill == "backend":
            process.kill()
    await process.communicate()
    await database.wait_for_idle_sessions()

    job = await operator.get("j")
    failed = job.execution_counts.failed
    assert (job.status == pb.Job.PAUSED) == (failed >= LIMIT)
    assert job.HasField("trip") == (failed >= LIMIT)
    counted = await database.owner.fetchval(
        "SELECT coalesce(sum(failures), 0) FROM jobs.job_criterion_counts WHERE tenant_id = $1",
        operator.tenant,
    )
    assert counted == failed
    assert sum(f.execution_count for f in (await operator.failures("j")).failures) == failed


@asynccontextmanager
async def _pause_blocked(database: Database, tenant: str) -> AsyncIterator[None]:
    """Lock the row of the job, which a trip updates last. Nothing else of a report waits for it."""
    holder = await asyncpg.connect(database.owner_dsn)
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM jobs.jobs WHERE tenant_id = $1 FOR UPDATE", tenant)
            yield
    finally:
        await holder.close()


async def _report_failures(channel: grpc.aio.Channel, tenant: str) -> None:
    """Report for all devices in one message."""
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
    stream = stub.ReportExecutions(metadata=(("x-tenant-id", tenant),))
    reports = [
        device_pb.ExecutionReport(
            report_id=device,
            device_id=device,
            report=device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.FAILED),
        )
        for device in DEVICES
    ]
    try:
        await stream.write(device_pb.ReportExecutionsRequest(reports=reports))
        await stream.done_writing()
        async for _ in stream:
            pass
    except grpc.aio.AioRpcError:
        pass
