"""The processes of a run: the server and the gateway under attack, and their clients."""

import asyncio
import os
import resource
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.environment import free_address, wait_until_serving

_START_TIMEOUT = 30


class ProcessFailed(Exception):
    """A process did not start, or ended too early; the message says why."""


@dataclass(frozen=True)
class Installation:
    """A checkout of this repository: the code that runs as the server and the gateway.

    It runs with the packages of the current environment, so it needs none of its own.
    """

    root: Path
    folder: Path
    """For logs and the gateway's binary."""

    async def migrate(self, owner_dsn: str, request_dsn: str) -> None:
        """Create the schema and the request role in an empty database."""
        process = await self._spawn(
            "migrate", JOBS_OWNER_DATABASE_URL=owner_dsn, JOBS_DATABASE_URL=request_dsn
        )
        if await process.wait():
            raise ProcessFailed(self._log.read_text())

    @asynccontextmanager
    async def server(
        self,
        request_dsn: str,
        open_files: int | None = None,
        address: str | None = None,
        **variables: str,
    ) -> AsyncIterator[tuple[str, int]]:
        """Run `jobs-grpc serve`; return its address and its process id."""
        address = address or free_address()
        process = await self._spawn(
            "serve",
            open_files=open_files,
            JOBS_DATABASE_URL=request_dsn,
            JOBS_LISTEN=address,
            JOBS_LOG_LEVEL="INFO",
            **variables,
        )
        async with _running(process, address, self._log):
            await wait_until_serving(address)
            yield address, process.pid

    @asynccontextmanager
    async def gateway(self, binary: Path, upstream: str) -> AsyncIterator[tuple[str, int]]:
        """Run the gateway in front of a server; return its address and its process id."""
        address = free_address()
        environment = {
            "JOBS_GATEWAY_UPSTREAM": upstream,
            "JOBS_GATEWAY_LISTEN": address,
            "JOBS_GATEWAY_LOG_LEVEL": "INFO",
        }
        with self._log.open("a") as log:
            process = await asyncio.create_subprocess_exec(binary, env=environment, stderr=log)
        async with _running(process, address, self._log):
            yield address, process.pid

    async def build_gateway(self) -> Path | None:
        """Build the gateway, or return None without Go."""
        if shutil.which("go") is None:
            return None
        binary = self.folder / "jobs-gateway"
        process = await asyncio.create_subprocess_exec(
            *("go", "build", "-trimpath", "-o", str(binary), "."),
            cwd=self.root / "gateway",
            env=os.environ | {"CGO_ENABLED": "0"},
        )
        if await process.wait():
            raise ProcessFailed("the gateway does not compile")
        return binary

    @property
    def log_bytes(self) -> int:
        """The size of what the processes have logged."""
        return self._log.stat().st_size

    @property
    def _log(self) -> Path:
        return self.folder / "servers.log"

    async def _spawn(
        self, command: str, *, open_files: int | None = None, **variables: str
    ) -> asyncio.subprocess.Process:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("JOBS_")} | variables
        environ["PYTHONPATH"] = f"{self.root}:{self.root / 'generated'}"
        with self._log.open("a") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "jobs_grpc.cli", command),
                cwd=self.root,
                env=environ,
                stdout=log,
                stderr=log,
                preexec_fn=None if open_files is None else lambda: _limit_open_files(open_files),
            )


def _limit_open_files(soft: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def _running(
    process: asyncio.subprocess.Process, address: str, log: Path
) -> AsyncIterator[None]:
    """Wait until the process listens; kill it when the block ends.

    Not with SIGTERM, because attackers could delay the shutdown.
    """
    try:
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(_START_TIMEOUT):
            while True:
                if process.returncode is not None:
                    raise ProcessFailed(await asyncio.to_thread(log.read_text))
                with suppress(OSError):
                    _, writer = await asyncio.open_connection(host, int(port))
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield
    finally:
        await _kill(process)


@asynccontextmanager
async def client(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module of this package as a process, from its first line of output on."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"bench.hostile.{module}", *arguments),
        stdout=asyncio.subprocess.PIPE,
        # A line can have all calls of the other tenant.
        limit=1 << 26,
    )
    try:
        assert process.stdout
        async with asyncio.timeout(_START_TIMEOUT):
            if not await process.stdout.readline():
                raise ProcessFailed(f"bench.hostile.{module} {' '.join(arguments)} failed")
        yield process
    finally:
        await _kill(process)


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


def peak_mib(pid: int) -> float:
    """Return the largest resident memory of a process so far, from Linux's /proc."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ProcessFailed(f"process {pid} has ended")
