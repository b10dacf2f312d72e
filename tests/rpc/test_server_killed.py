"""A server that is killed in the middle of a report stream: what it acknowledged is there."""

import asyncio
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator, all_executions
from tests.support.cli import address_of, spawn
from tests.support.database import Database
from tests.support.health import wait_until_healthy
from tests.support.server import open_channel

DEVICES = [f"d{n:04}" for n in range(1000)]

# Reports that wait for their answers, at most: however fast the server and slow this
# process, the server is not through with all of them when it is killed.
WINDOW = 200


async def test_what_was_acknowledged_is_stored_and_counted(
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
            async for answer in stream:
                acknowledged.add(answer.report_id)
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
        each.device_id
        for each in await all_executions(operator, "j")
        if each.status == pb.JobExecution.SUCCEEDED
    }
    assert acknowledged <= stored
    assert job.execution_counts == pb.ExecutionCounts(
        succeeded=len(stored), queued=len(DEVICES) - len(stored)
    )


async def _write(stream: Any, window: asyncio.Semaphore) -> None:
    """Report for all devices, as fast as the window lets it."""
    for device in DEVICES:
        await window.acquire()
        report = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.SUCCEEDED)
        await stream.write(
            device_pb.ReportExecutionsRequest(report_id=device, device_id=device, report=report)
        )
    await stream.done_writing()
