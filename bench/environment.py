"""One PostgreSQL with two databases, and the servers that are compared on them."""

import asyncio
import os
import platform
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import asyncpg
import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev import embedded_postgres

# Its defaults, but for room to write millions of rows without a checkpoint in between.
SETTINGS = ("shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=30min")

_ROLE = RequestRole("bench_request")
_START_TIMEOUT = 30.0


@dataclass(frozen=True)
class Server:
    """A server process, with its workers if it has any."""

    address: str
    process: asyncio.subprocess.Process

    def resident(self) -> int:
        """Bytes of memory in use, by all of its processes."""
        return sum(each.memory_info().rss for each in self.processes())

    def busy(self) -> float:
        """Seconds of CPU that all of its processes have taken so far."""
        return sum(sum(each.cpu_times()[:2]) for each in self.processes())

    def processes(self) -> list[psutil.Process]:
        """All of them, the one that was started first."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@dataclass(frozen=True)
class Environment:
    """Where it all happens: connections as the tables' owner, and the DSNs of the servers."""

    folder: Path
    service_dsn: str
    document_dsn: str
    document_owner_dsn: str
    service: asyncpg.Connection
    document: asyncpg.Connection

    async def connect_document(self) -> asyncpg.Connection:
        """A connection of its own to the document's tables, as their owner."""
        return await asyncpg.connect(self.document_owner_dsn)

    async def empty(self) -> None:
        """Begin anew: no device and no job."""
        await self.service.execute(
            "TRUNCATE device_state, jobs.jobs, jobs.job_progress, jobs.job_executions"
        )
        await self.document.execute("TRUNCATE device_state, jobs, job_executions")

    async def settle(self) -> None:
        """Let what was written before not disturb what comes: statistics, dirty pages."""
        for connection in (self.service, self.document):
            await connection.execute("VACUUM ANALYZE")
        await self.service.execute("CHECKPOINT")

    @asynccontextmanager
    async def serving(self, workers: int = 1) -> AsyncIterator[Server]:
        """This service, with its defaults. It does not sweep: that is not part of a call."""
        address = _free_address()
        command = ("-m", "jobs_grpc.cli", "serve", "--workers", str(workers))
        variables = {"JOBS_DATABASE_URL": self.service_dsn, "JOBS_LISTEN": address}
        async with self._server(address, command, variables) as server:
            await _until_serving(address, workers)
            yield server

    @asynccontextmanager
    async def serving_document(self, workers: int = 1) -> AsyncIterator[Server]:
        """The document's design."""
        address = _free_address()
        host, _, port = address.rpartition(":")
        command = (
            *("-m", "uvicorn", "bench.document:app", "--host", host, "--port", port),
            *("--http", "httptools", "--loop", "uvloop", "--workers", str(workers)),
        )
        async with self._server(address, command, {"DOCUMENT_DSN": self.document_dsn}) as server:
            yield server

    @asynccontextmanager
    async def echoing(self, method: str, answer: bytes) -> AsyncIterator[Server]:
        """The echo of one method, with its answer serialized."""
        address = _free_address()
        command = ("-m", "bench.echo", address, method)
        async with self._server(address, command, {}, answer) as server:
            yield server

    @asynccontextmanager
    async def parts(
        self, tenant: str, answer: bytes, *, mapping: bool = False
    ) -> AsyncIterator[Server]:
        """What answers GetJob with a serialized message once the database has answered.

        With `mapping`, with a message made of what the database has answered.
        """
        address = _free_address()
        command = ("-m", "bench.parts", address, tenant, *(["mapping"] if mapping else []))
        variables = {"PARTS_DSN": self.service_dsn}
        async with self._server(address, command, variables, answer) as server:
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
            await self._until_listening(address, process)
            yield Server(address, process)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    async def _until_listening(self, address: str, process: asyncio.subprocess.Process) -> None:
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


async def _until_serving(address: str, workers: int) -> None:
    """Return when connections enough to reach all workers have been told SERVING."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with asyncio.timeout(_START_TIMEOUT):
        for _ in range(1 if workers == 1 else 8 * workers):
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest()
                watch = stub.Watch(request)
                while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
                    pass
                watch.cancel()


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@asynccontextmanager
async def environment() -> AsyncIterator[Environment]:
    """PostgreSQL in a temporary folder, and both schemas."""
    with tempfile.TemporaryDirectory(prefix="jobs-bench-", dir="/tmp") as name:
        folder = Path(name)
        # PostgreSQL may run as another account.
        folder.chmod(0o711)  # noqa: ASYNC240
        with embedded_postgres.running(folder / "data", *SETTINGS) as cluster:
            first = await asyncpg.connect(cluster.dsn("postgres"))
            for database in ("service", "document"):
                await first.execute(f"CREATE DATABASE {database}")
            await first.close()
            await migrate(cluster.dsn("service"), _ROLE)
            service = await asyncpg.connect(cluster.dsn("service"))
            document = await asyncpg.connect(cluster.dsn("document"))
            await document.execute((Path(__file__).parent / "document.sql").read_text())
            await document.execute(
                f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {_ROLE.name}"
            )
            yield Environment(
                folder,
                cluster.dsn("service", _ROLE.name),
                cluster.dsn("document", _ROLE.name),
                cluster.dsn("document"),
                service,
                document,
            )
            await service.close()
            await document.close()


async def described(env: Environment, clients: dict[str, str]) -> dict[str, str]:
    """The machine and the versions, as figures need them beside them; with those of `clients`."""
    packages = ("grpcio", "protobuf", "asyncpg", "fastapi", "uvicorn", "uvloop", "httptools")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "postgresql": str(await env.service.fetchval("SHOW server_version")),
        **{name: version(name) for name in packages},
        **clients,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
