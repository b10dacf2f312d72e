"""Devices that carry out what the console creates."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1.jobs_pb2 import JobExecution

from tests.support.server import Server

Outcome = Callable[[str, device_pb.DeviceExecution], str]
"""The failure code of a device's execution, or "" if it succeeds."""


def succeeds(_device: str, _execution: device_pb.DeviceExecution) -> str:
    """Let every execution succeed."""
    return ""


@asynccontextmanager
async def running_fleet(
    server: Server, tenant: str, devices: Iterable[str], outcome: Outcome = succeeds
) -> AsyncIterator[None]:
    """Let devices start and report their executions, until the block ends."""
    task = asyncio.create_task(_run(server, tenant, list(devices), outcome))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _run(server: Server, tenant: str, devices: list[str], outcome: Outcome) -> None:
    while True:
        for name in devices:
            device = server.device(tenant, name)
            while execution := await device.start_next():
                code = outcome(name, execution)
                await device.update(
                    execution.job_id,
                    JobExecution.FAILED if code else JobExecution.SUCCEEDED,
                    failure_code=code,
                    execution_number=execution.execution_number,
                )
        await asyncio.sleep(0.05)
