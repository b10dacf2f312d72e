"""The service in processes of its own: its log, its end, and its memory."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from fleet.jobs.v1 import jobs_pb2_grpc

from tests.support.callers import Operator
from tests.support.cli import spawn
from tests.support.health import wait_until_healthy
from tests.support.server import open_channel
from tests.support.waiting import TIMEOUT, wait_until

# Linux only: /proc has the memory of a process.
MAX_MIB = 256


@dataclass
class Serve:
    """A `jobs-grpc serve` process, and the lines of its log so far."""

    process: asyncio.subprocess.Process
    log: list[str] = field(default_factory=list)
    _matched: int = 0

    def __post_init__(self) -> None:
        self._reading = asyncio.create_task(self._read_log())

    async def _read_log(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            self.log.append(line.decode().rstrip("\n"))

    async def wait_for_log(self, pattern: str) -> str:
        """Wait for the next line that matches; return the first group of the match."""
        found = ""

        async def is_logged() -> bool:
            nonlocal found
            for number, line in enumerate(self.log[self._matched :], self._matched + 1):
                if match := re.search(pattern, line):
                    self._matched, found = number, match[1]
                    return True
            assert not self._reading.done(), self.log
            return False

        await wait_until(is_logged)
        return found

    async def address(self) -> str:
        """Wait until the service, or the next worker, listens; return the address."""
        return await self.wait_for_log(r"listening on (\S+)")

    async def wait_for_exit(self) -> int:
        """Wait until the process ends and its log is complete; return its exit code."""
        async with asyncio.timeout(TIMEOUT):
            await self._reading
            return await self.process.wait()


@asynccontextmanager
async def serving(database_url: str, *options: str, **variables: str) -> AsyncIterator[Serve]:
    """Run `jobs-grpc serve` on a free port. The process is killed if the block leaves it alive."""
    environ = {"JOBS_DATABASE_URL": database_url, "JOBS_LISTEN": "127.0.0.1:0"}
    serve = Serve(await spawn("serve", *options, stdin=None, **(environ | variables)))
    try:
        yield serve
    finally:
        if serve.process.returncode is None:
            serve.process.kill()
        await serve.wait_for_exit()


@asynccontextmanager
async def connected_operator(address: str, tenant: str) -> AsyncIterator[Operator]:
    """Yield a caller on a connection of its own, when the server is healthy."""
    async with open_channel(address) as channel:
        await wait_until_healthy(channel)
        yield Operator(jobs_pb2_grpc.JobServiceStub(channel), tenant)


@dataclass(frozen=True)
class ServerProcess:
    """A `jobs-grpc serve` process and a channel to it."""

    address: str
    pid: int
    channel: grpc.aio.Channel

    def operator(self, tenant: str) -> Operator:
        return Operator(jobs_pb2_grpc.JobServiceStub(self.channel), tenant)

    def check_memory(self) -> None:
        """Fail if the process has held more memory than callers may make it hold."""
        assert self.peak_mib() < MAX_MIB

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
    """Run `jobs-grpc serve` and wait until it is healthy."""
    # A memory test keeps the event loop busy for seconds.
    defaults = {"JOBS_POOL_TIMEOUT": "300", "JOBS_QUERY_TIMEOUT": "300"}
    async with serving(database_url, **(defaults | variables)) as serve:
        address = await serve.address()
        async with open_channel(address) as channel:
            await wait_until_healthy(channel)
            yield ServerProcess(address, serve.process.pid, channel)
