"""A failure that trips a criterion, and the pause, are stored together or not at all."""

import asyncio
import os
import signal
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.database import rows_locked
from tests.support.server_process import running_server_process
from tests.support.world import World

DEVICES = [f"d{n:03}" for n in range(100)]
LIMIT = 50


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["server", "backend"])
async def test_batch_that_trips_is_stored_whole_or_not_at_all_when_its_process_is_killed(
    world: World, kill: str
) -> None:
    """The batch has stored its failures and waits for the row of the job, to pause it."""
    # Without the last one, the failures would finish the job instead of pausing it.
    await world.add_devices([*DEVICES, "last"])
    await world.create(failure_criteria=[pb.FailureCriterion(count=LIMIT)])
    async with running_server_process(world.database.request_dsn) as process:
        async with rows_locked(world.database, "jobs.jobs", tenant_id=world.tenant):
            reports = await world.blocked(_report_failures(process.channel, world.tenant))
            if kill == "server":
                os.kill(process.pid, signal.SIGKILL)
            else:
                await world.database.terminate_blocked_sessions()
        await asyncio.wait({reports})
    await world.database.wait_for_idle_sessions()

    job = await world.operator.get("j")
    failed = job.execution_counts.failed
    assert (job.status == pb.Job.PAUSED) == (failed >= LIMIT)
    assert job.HasField("trip") == (failed >= LIMIT)
    counted = await world.owner_value(
        "SELECT coalesce(sum(failures), 0) FROM jobs.job_criterion_counts WHERE tenant_id = $1"
    )
    assert counted == failed
    assert sum(f.execution_count for f in (await world.operator.failures("j")).failures) == failed


async def _report_failures(channel: grpc.aio.Channel, tenant: str) -> None:
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
