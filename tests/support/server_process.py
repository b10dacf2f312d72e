"""The service in a process of its own, whose memory tests measure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from fleet.jobs.v1 import jobs_pb2_grpc

from tests.support.callers import Operator
from tests.support.cli import address_of, spawn
from tests.support.health import wait_until_healthy
from tests.support.server import open_channel
from tests.support.waiting import TIMEOUT


@dataclass(frozen=True)
class ServerProcess:
    """A `jobs-grpc serve` process and a channel to it."""

    address: str
    pid: int
    channel: grpc.aio.Channel

    def operator(self, tenant: str) -> Operator:
        """Return a caller in a tenant."""
        return Operator(jobs_pb2_grpc.JobServiceStub(self.channel), tenant)

    def peak_mib(self) -> float:
        """Return the largest resident memory since the process started."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"/proc/{self.pid}/status has no VmHWM")


@asynccontextmanager
async def running_server_process(
    database_url: str, **variables: str
) -> AsyncIterator[ServerProcess]:
    """Run `jobs-grpc serve` and wait until it is healthy. Its log is discarded."""
    environ = {
        "JOBS_DATABASE_URL": database_url,
        "JOBS_LISTEN": "127.0.0.1:0",
        "JOBS_POOL_TIMEOUT": f"{TIMEOUT}",
    }
    process = await spawn("serve", stdin=None, **(environ | variables))
    try:
        address = await address_of(process)
        assert process.stderr
        # A process that nobody reads from would stop at its next line.
        discarding = asyncio.create_task(process.stderr.read())
        async with open_channel(address) as channel:
            await wait_until_healthy(channel)
            yield ServerProcess(address, process.pid, channel)
    finally:
        process.kill()
        await process.wait()
    await discarding
