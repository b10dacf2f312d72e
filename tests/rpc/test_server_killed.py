"""Reports that a server has acknowledged are stored even if the server is killed."""

import asyncio
import os
import signal
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.server import Server
from tests.support.server_process import running_server_process
from tests.support.staged_jobs import create_staged_job

DEVICES = [f"d{n:04}" for n in range(1000)]

# Reports in flight at most. Because of this limit, the server cannot have processed all reports
# when it is killed, even if it is much faster than this process.
WINDOW = 100


@pytest.mark.slow
async def test_acknowledged_reports_are_stored_and_counted_when_the_server_is_killed(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(job_id="j", target_all=True)

    acknowledged = await _report_until_the_server_is_killed(database, operator, DEVICES)

    job = await operator.get("j", executions_limit=0)
    stored = await _succeeded(operator)
    assert acknowledged <= stored
    assert job.execution_counts == pb.ExecutionCounts(
        succeeded=len(stored), queued=len(DEVICES) - len(stored)
    )


@pytest.mark.slow
async def test_stages_agree_with_the_stored_reports_when_the_server_is_killed(
    database: Database, server: Server, operator: Operator
) -> None:
    """Each stage opens with the first success of the one before it."""
    await database.add_devices(operator.tenant, DEVICES)
    stage = {"device_count": 200, "gate": pb.Gate(min_succeeded_percent=1)}
    stages: list[dict[str, Any]] = [stage] * 4 + [{"remainder": True}]
    job = await create_staged_job(database, server, operator, *stages)
    for number in (0, 1):
        await job.device(0, number).update("j", pb.JobExecution.SUCCEEDED)
    devices = [device for names in job.names for device in names]

    acknowledged = await _report_until_the_server_is_killed(database, operator, devices[2:])

    stored = await _succeeded(operator)
    assert acknowledged <= stored
    await job.check_counts()
    reached = max(number for number, names in enumerate(job.names) if len(stored & {*names}) >= 2)
    assert await job.open_stage() == min(reached + 1, 4)


async def _report_until_the_server_is_killed(
    database: Database, operator: Operator, devices: list[str]
) -> set[str]:
    """Report SUCCEEDED to a server that is killed on the way; return what it acknowledged."""
    acknowledged: set[str] = set()
    async with running_server_process(database.request_dsn) as process:
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(process.channel)
        stream = stub.ReportExecutions(metadata=(("x-tenant-id", operator.tenant),))
        window = asyncio.Semaphore(WINDOW)
        writing = asyncio.create_task(_write(stream, window, devices))
        try:
            async for response in stream:
                assert response.WhichOneof("result") != "error", response
                acknowledged.add(response.report_id)
                if len(acknowledged) < 500:
                    window.release()
                elif len(acknowledged) == 500:
                    os.kill(process.pid, signal.SIGKILL)
        except grpc.aio.AioRpcError:
            pass
        writing.cancel()
        await asyncio.wait({writing})
    await database.wait_for_idle_sessions()

    assert 500 <= len(acknowledged) < len(devices)
    return acknowledged


async def _succeeded(operator: Operator) -> set[str]:
    """The devices whose success is stored."""
    return {
        execution.device_id
        for execution in await all_executions(operator, "j")
        if execution.status == pb.JobExecution.SUCCEEDED
    }


async def _write(stream: Any, window: asyncio.Semaphore, devices: list[str]) -> None:
    """Report for all devices, as fast as the window allows."""
    for device in devices:
        await window.acquire()
        report = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.SUCCEEDED)
        await stream.write(
            device_pb.ReportExecutionsRequest(report_id=device, device_id=device, report=report)
        )
    await stream.done_writing()
