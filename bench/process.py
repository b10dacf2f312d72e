"""Programs that a benchmark starts, servers of the service among them, and what they use."""

import asyncio
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.run import InvalidRun
from tests.harness.calls import Calls

_START_TIMEOUT = 30.0

OWN_CONNECTIONS = [("grpc.use_local_subchannel_pool", 1)]
"""With these options, a channel shares no connection with other channels."""


@asynccontextmanager
async def program(
    *command: object,
    log: Path | None = None,
    open_files: int | None = None,
    kill: bool = False,
    **variables: str,
) -> AsyncIterator[Any]:
    """Run a program until the block ends. Its output goes to `log`; by default, stdout to a pipe.

    Of the settings (JOBS_…), it has only those in `variables`. `open_files` is its soft limit.
    SIGTERM ends it, or with `kill`, SIGKILL.
    """
    environ = {k: v for k, v in os.environ.items() if not k.startswith("JOBS_")} | variables
    with log.open("ab") if log else nullcontext() as output:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            env=environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=output or asyncio.subprocess.PIPE,
            stderr=output,
            # Ctrl-C of a terminal would end it before its parent has read from it. Not a session of
            # its own: Linux shares the processors among sessions, so a server with many threads
            # would have no more time than an attacker with one.
            process_group=0,
            preexec_fn=_limit_open_files(open_files) if open_files else None,
            # A line can have the figures of thousands of streams.
            limit=1 << 26,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill() if kill else process.terminate()
        await process.wait()


@asynccontextmanager
async def python(module: str, *arguments: object, kill: bool = False) -> AsyncIterator[Any]:
    """Run a Python module; the block begins with its first line of output."""
    async with program(sys.executable, "-m", module, *arguments, kill=kill) as process:
        await read_line(process)
        yield process


async def read_line(process: Any) -> str:
    """Return a line of a program. Raises InvalidRun if it has ended."""
    line = await process.stdout.readline()
    if not line:
        raise InvalidRun("a client process has ended")
    return str(line.decode())


@dataclass(frozen=True)
class Server:
    """A server process and its workers, if it has any."""

    address: str
    process: asyncio.subprocess.Process

    def resident_bytes(self) -> int:
        """Return the resident memory of all processes."""
        return sum(process.memory_info().rss for process in self.processes())

    def peak_mib(self) -> float:
        """Return the largest resident memory of the process so far, from Linux's /proc."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise InvalidRun("a server has ended")

    def calls(self) -> AbstractAsyncContextManager[Calls]:
        """Connect to the server."""
        return connect(self.address)

    def cpu_time(self) -> float:
        """Return the CPU seconds that all processes have used so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def processes(self) -> list[psutil.Process]:
        """Return all processes, the parent first."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@asynccontextmanager
async def server(
    *command: object, address: str, log: Path, stdin: bytes = b"", **options: Any
) -> AsyncIterator[Server]:
    """Run a server; the block begins when it listens. See `program` for the options."""
    async with program(*command, log=log, **options) as process:
        process.stdin.write(stdin)
        process.stdin.close()
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(_START_TIMEOUT):
            while True:
                if process.returncode is not None:
                    raise InvalidRun(await asyncio.to_thread(log.read_text))
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield Server(address, process)


def bare_server(log: Path, method: str, response: bytes) -> AbstractAsyncContextManager[Server]:
    """Run bench.bare_server with a serialized response of a method."""
    address = free_address()
    command = (sys.executable, "-m", "bench.bare_server", address, method)
    return server(*command, address=address, log=log, stdin=response)


@asynccontextmanager
async def service(
    dsn: str, log: Path, *, workers: int = 1, address: str = "", **options: Any
) -> AsyncIterator[Server]:
    """Run this service on a database, as the role of the DSN.

    It has its default settings, except for those in the options, and listens on `address`, or on a
    free port. See `program` for the other options.
    """
    address = address or free_address()
    command = ("-P", "-m", "jobs_grpc.cli", "serve", "--workers", workers)
    settings = {"JOBS_DATABASE_URL": dsn, "JOBS_LISTEN": address} | options
    async with server(sys.executable, *command, address=address, log=log, **settings) as running:
        await wait_until_serving(address, workers)
        yield running


async def wait_until_serving(address: str, workers: int = 1) -> None:
    """Return when enough connections report SERVING that probably all workers are reached."""
    async with asyncio.timeout(_START_TIMEOUT):
        for _ in range(1 if workers == 1 else 8 * workers):
            async with grpc.aio.insecure_channel(address, OWN_CONNECTIONS) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                watch = stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
                    pass
                watch.cancel()


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[Calls]:
    """Connect to a server of the service."""
    async with grpc.aio.insecure_channel(address, OWN_CONNECTIONS) as channel:
        yield Calls(channel)


async def cpu_shares(seconds: float, **parts: Callable[[], float]) -> dict[str, float]:
    """Measure for `seconds`, and return the CPU use of each part in percent of one core.

    `parts` return the CPU seconds that they have used so far.
    """
    started, before = time.monotonic(), {name: used() for name, used in parts.items()}
    await asyncio.sleep(seconds)
    share = 100 / (time.monotonic() - started)
    return {name: (used() - before[name]) * share for name, used in parts.items()}


def free_address() -> str:
    """Return an address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds that processes have used so far, with all their threads. Linux only.

    Reads the CPU clocks of the processes, which count nanoseconds.
    """
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)  # as clock_getcpuclockid


def _limit_open_files(soft: int) -> Callable[[], None]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
