"""Reports that a server has acknowledged are stored even if the server is killed."""

import asyncio
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator, all_executions
from tests.support.cli import address_of, spawn
from tests.support.database import Database
from tests.support.health import wait_until_healthy
from tests.support.server import open_channel

DEVICES = [f"d{n:04}" for n in range(1000)]

# Reports in flight at most. Because of this limit, the server cannot have processed all reports
# when it is killed, even if it is much faster than this process.
WINDOW = 200


@pytest.mark.slow
async def test_acknowledged_reports_are_stored_and_counted_when_the_server_is_killed(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(job_id="j", target_all=True)
    process = await spawn(
        "serve", JOBS_DATABASE_URL=database.request_dsn, JOBS_LISTEN="127.0.0.1:0"
    )

    acknowledged: set[str] = set()
    async with open_channel(await address_of(process)) as channel:
        await wait_until_healthy(channel)
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
        stream = stub.ReportExecutions(metadata=(("x-tenant-id", operator.tenant),))
        window = asyncio.Semaphore(WINDOW)
        writing = asyncio.create_task(_write(stream, window))
        try:
            async for response in stream:
                acknowledged.add(response.report_id)
                if len(acknowledged) < 500:
                    window.release()
                elif len(acknowledged) == 500:
                    process.kill()
        except grpc.aio.AioRpcError:
            pass
        writing.cancel()
        await asyncio.wait({writing})
    await process.communicate()

    assert 500 <= len(acknowledged) < len(DEVICES)
    job = await operator.get("j", executions_limit=0)
    stored = {
        execution.device_id
        for execution in await all_executions(operator, "j")
        if execution.status == pb.JobExecution.SUCCEEDED
    }
    assert acknowledged <= stored
    assert job.execution_counts == pb.ExecutionCounts(
        succeeded=len(stored), queued=len(DEVICES) - len(stored)
    )


async def _write(stream: Any, window: asyncio.Semaphore) -> None:
    """Report for all devices, as fast as the window allows."""
    for device in DEVICES:
        await window.acquire()
        report = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.SUCCEEDED)
        await stream.write(
            device_pb.ReportExecutionsRequest(report_id=device, device_id=device, report=report)
        )
    await stream.done_writing()
