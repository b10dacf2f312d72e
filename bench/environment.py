"""One PostgreSQL server with two databases, and the servers under test."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.postgres import running_postgres, temporary_folder
from bench.process import PythonProcess
from jobs_grpc.db.migrate import RequestRole, migrate

# PostgreSQL's defaults, except that millions of rows are written without a checkpoint.
SETTINGS = ("shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=30min")

_ROLE = RequestRole("bench_request")
_START_TIMEOUT = 30.0


@dataclass(frozen=True)
class Server:
    """A server process and its workers, if it has any."""

    address: str
    process: asyncio.subprocess.Process

    def resident_bytes(self) -> int:
        """Return the resident memory of all processes."""
        return sum(process.memory_info().rss for process in self.processes())

    def cpu_time(self) -> float:
        """Return the CPU seconds that all processes have used so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def processes(self) -> list[psutil.Process]:
        """Return all processes, the parent first."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@dataclass(frozen=True)
class Environment:
    """The databases: connections as the owner, and the DSNs for the servers."""

    folder: Path
    service_dsn: str
    service_owner_dsn: str
    fastapi_dsn: str
    fastapi_owner_dsn: str
    service: asyncpg.Connection
    fastapi: asyncpg.Connection

    async def connect_fastapi(self) -> asyncpg.Connection:
        """Open a connection to the FastAPI service's database, as the owner."""
        return await asyncpg.connect(self.fastapi_owner_dsn)

    async def clear(self) -> None:
        """Delete all devices and jobs."""
        await self.delete_jobs()
        for connection in (self.service, self.fastapi):
            await connection.execute("TRUNCATE device_state")

    async def delete_jobs(self) -> None:
        """Delete all jobs, and the events that wait for a position."""
        await self.service.execute(
            "TRUNCATE jobs.jobs, jobs.job_progress, jobs.job_executions, jobs.job_stages,"
            " jobs.job_failures, jobs.job_failure_criteria, jobs.job_criterion_counts,"
            " jobs.event_queue"
        )
        await self.fastapi.execute("TRUNCATE jobs, job_executions")

    async def vacuum(self) -> None:
        """Update statistics and write dirty pages, so that earlier writes do not slow a run."""
        for connection in (self.service, self.fastapi):
            await connection.execute("VACUUM ANALYZE")
        await self.service.execute("CHECKPOINT")

    @asynccontextmanager
    async def service_server(
        self, workers: int = 1, *, metrics: bool = False, address: str = "", **settings: str
    ) -> AsyncIterator[Server]:
        """Run this service without maintenance, with its default settings except for `settings`.

        It listens on `address`, or on a free port.
        """
        address = address or free_address()
        command = ("-m", "jobs_grpc.cli", "serve", "--workers", str(workers))
        variables = {"JOBS_DATABASE_URL": self.service_dsn, "JOBS_LISTEN": address}
        variables |= settings
        if metrics:
            variables["JOBS_METRICS_LISTEN"] = "127.0.0.1:0"
        async with self._server(address, command, variables) as server:
            await wait_until_serving(address, workers)
            yield server

    @asynccontextmanager
    async def bare_stream_server(self) -> AsyncIterator[Server]:
        """Run the bare server of watches."""
        address = free_address()
        command = ("-m", "bench.bare_stream_server", address)
        async with self._server(address, command, {}) as server:
            yield server

    @asynccontextmanager
    async def fastapi_server(self, workers: int = 1) -> AsyncIterator[Server]:
        """Run the FastAPI service."""
        address = free_address()
        host, _, port = address.rpartition(":")
        command = (
            *("-m", "uvicorn", "bench.fastapi_service:app", "--host", host, "--port", port),
            *("--http", "httptools", "--loop", "uvloop", "--workers", str(workers)),
        )
        async with self._server(address, command, {"FASTAPI_DSN": self.fastapi_dsn}) as server:
            yield server

    @asynccontextmanager
    async def echo_server(self, method: str, response: bytes) -> AsyncIterator[Server]:
        """Run the echo server for one method with a serialized response."""
        address = free_address()
        command = ("-m", "bench.echo_server", address, method)
        async with self._server(address, command, {}, response) as server:
            yield server

    @asynccontextmanager
    async def minimal_server(
        self, tenant: str, response: bytes, *, convert: bool = False
    ) -> AsyncIterator[Server]:
        """Run the minimal server, which runs GetJob's statement and sends a serialized response.

        With `convert`, it converts the rows to the response instead.
        """
        address = free_address()
        command = ("-m", "bench.minimal_server", address, tenant, *(["convert"] if convert else []))
        variables = {"MINIMAL_DSN": self.service_dsn}
        async with self._server(address, command, variables, response) as server:
            yield server

    @asynccontextmanager
    async def _server(
        self, address: str, command: tuple[str, ...], variables: dict[str, str], stdin: bytes = b""
    ) -> AsyncIterator[Server]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("JOBS_")} | variables
        with (self.folder / "servers.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *command),
                env=environ,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        try:
            assert process.stdin
            process.stdin.write(stdin)
            process.stdin.close()
            await self._wait_until_listening(address, process)
            yield Server(address, process)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    async def _wait_until_listening(
        self, address: str, process: asyncio.subprocess.Process
    ) -> None:
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(_START_TIMEOUT):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
        raise RuntimeError((self.folder / "servers.log").read_text())


async def wait_until_serving(address: str, workers: int = 1) -> None:
    """Return when enough connections report SERVING that probably all workers are reached."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with asyncio.timeout(_START_TIMEOUT):
        for _ in range(1 if workers == 1 else 8 * workers):
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest()
                watch = stub.Watch(request, wait_for_ready=True)
                while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
                    pass
                watch.cancel()


@asynccontextmanager
async def running_service(dsn: str, log: Path, **settings: str) -> AsyncIterator[Server]:
    """Run this service on a database, as the role of the DSN. It listens on a free port."""
    address = free_address()
    async with PythonProcess(
        *("-P", "-m", "jobs_grpc.cli", "serve"),
        log=log,
        JOBS_DATABASE_URL=dsn,
        JOBS_LISTEN=address,
        **settings,
    ) as process:
        await wait_until_serving(address)
        yield Server(address, process)


def free_address() -> str:
    """Return an address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@asynccontextmanager
async def environment() -> AsyncIterator[Environment]:
    """Run PostgreSQL in a temporary folder and create both databases."""
    with temporary_folder() as folder, running_postgres(folder / "data", *SETTINGS) as cluster:
        first = await asyncpg.connect(cluster.dsn("postgres"))
        for database in ("service", "fastapi"):
            await first.execute(f"CREATE DATABASE {database}")
        await first.close()
        await migrate(cluster.dsn("service"), _ROLE)
        service = await asyncpg.connect(cluster.dsn("service"))
        fastapi = await asyncpg.connect(cluster.dsn("fastapi"))
        await fastapi.execute((Path(__file__).parent / "fastapi_service.sql").read_text())
        await fastapi.execute(
            f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {_ROLE.name}"
        )
        yield Environment(
            folder,
            cluster.dsn("service", _ROLE.name),
            cluster.dsn("service"),
            cluster.dsn("fastapi", _ROLE.name),
            cluster.dsn("fastapi"),
            service,
            fastapi,
        )
        await service.close()
        await fastapi.close()
