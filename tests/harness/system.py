"""The system under test: PostgreSQL, two servers that both run maintenance, and a gateway."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

import asyncpg
import httpx
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import JobsError
from jobs_grpc.dev.embedded_postgres.account import unprivileged_account
from jobs_grpc.dev.embedded_postgres.binaries import find_binaries
from jobs_grpc.dev.embedded_postgres.server import Server as PostgresServer
from tests.harness.calls import Calls
from tests.harness.disk import Disk, MountNotPermitted
from tests.harness.history import History
from tests.harness.ledger import Ledger
from tests.support.database import Database
from tests.support.health import wait_until_healthy
from tests.support.postgres import connected
from tests.support.processes import output_of
from tests.support.server import open_channel, reserved_address
from tests.support.waiting import TIMEOUT, wait_until, wait_until_true

TENANTS = ("alpha", "beta")
DEVICES_PER_TENANT = 60
GROUPS = ("north", "south")

POSTGRES_SETTINGS = (
    "max_connections=60",
    # No table is ever analyzed, so no query may depend on statistics.
    "autovacuum=off",
    # A commit takes as long as on a real disk, so that faults also hit the middle of commits.
    "commit_delay=1000",
    "commit_siblings=0",
    "max_wal_size=256MB",
)
_GATEWAY_PROBES = 16  # More than the gateway has connections.
_MAX_LOG_LINES = 200_000
# Records of these levels are violations: a fault of the database or of a client is a WARNING.
_ERROR_LEVELS = ("ERROR", "CRITICAL")


@dataclass
class Process:
    """A process that faults kill, stop and start again."""

    name: str
    command: list[str]
    environ: dict[str, str]
    ledger: Ledger
    log: list[str] = field(default_factory=list)
    running: asyncio.subprocess.Process | None = None
    _reader: "asyncio.Task[None] | None" = None

    @property
    def pid(self) -> int:
        assert self.running
        return self.running.pid

    async def start(self) -> None:
        self.ledger.note(self.name, "starts")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("JOBS_")}
        self.running = await asyncio.create_subprocess_exec(
            *self.command,
            env=inherited | self.environ,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C of a terminal would be a fault of all processes.
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read_log(self.running))

    async def stop(self, number: int = signal.SIGKILL) -> None:
        """Send a signal that ends the process, and wait for its end."""
        if self.running is None:
            return
        self.ledger.note(self.name, f"gets {signal.Signals(number).name}")
        if self.running.returncode is None:
            self.running.send_signal(number)
        await self.running.wait()
        if self._reader:
            await self._reader
        self.running = None

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr
        async for raw in process.stderr:
            line = raw.decode(errors="replace").rstrip()
            if len(self.log) < _MAX_LOG_LINES:
                self.log.append(line)
            self._check(line)

    def _check(self, line: str) -> None:
        try:
            level = str(json.loads(line)["level"]).upper()
        except (ValueError, KeyError):
            level = "ERROR"  # From a library or an interpreter that crashes.
        if "Traceback" in line or level in _ERROR_LEVELS:
            # The cause is at the end of a traceback.
            short = line if len(line) < 2000 else f"{line[:500]} … {line[-1500:]}"
            self.ledger.problem("an error in a log", f"{self.name}: {short}")


@dataclass(frozen=True)
class Code:
    """The code of a version of the project, which this environment runs."""

    folder: Path

    def environ(self) -> dict[str, str]:
        """Return the variables with which `python -P` imports this code."""
        return {"PYTHONPATH": f"{self.folder}{os.pathsep}{self.folder / 'generated'}"}

    async def migrate(self, owner_dsn: str, request_dsn: str) -> str:
        dsns = {"JOBS_OWNER_DATABASE_URL": owner_dsn, "JOBS_DATABASE_URL": request_dsn}
        command = (sys.executable, "-P", "-m", "jobs_grpc.cli", "migrate")
        return await output_of(*command, env=os.environ | self.environ() | dsns)


THIS_VERSION = Code(Path(__file__).parents[2])


@dataclass
class Disks:
    """The file systems of PostgreSQL's data and of its write-ahead log."""

    data: Disk
    wal: Disk


@dataclass
class System:
    """The running processes, and connections to the two servers."""

    ledger: Ledger
    postgres: PostgresServer
    pgdata: Path
    socket_dir: Path
    servers: list[Process]
    gateway: Process
    calls: list[Calls]
    streams: list[Calls]
    """Other connections: one carries a limited number of calls."""
    http: httpx.AsyncClient
    disks: Disks | None
    history: History | None = None
    pace: float = 1.0
    """How long faults last, compared with those of a full trial."""
    _probes: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def owner_dsn(self) -> str:
        return owner_dsn(self.socket_dir)

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[asyncpg.Connection]:
        async with connected(self.owner_dsn) as connection:
            yield connection

    async def migrate(self, code: Code = THIS_VERSION) -> str:
        """Run `migrate` of a version. Return what it printed."""
        return await code.migrate(self.owner_dsn, request_dsn(self.socket_dir))

    async def replace_server(self, number: int, code: Code | None = None) -> None:
        """Replace a server as a deployment does, and wait until all clients reach the new one."""
        server = self.servers[number]
        self.ledger.begin_drain(number)
        await server.stop(signal.SIGTERM)
        if code:
            server.environ |= code.environ()
        await server.start()
        await self.wait_until_all_answer()
        for calls in (self.calls[number], self.streams[number]):
            await wait_until_healthy(calls.channel)
        await wait_until(self._gateway_is_connected)
        self.ledger.end_drain(number)

    async def start_postgres(self) -> None:
        """Start PostgreSQL, which recovers from a crash first."""
        log = self.socket_dir / "postgresql.log"
        await asyncio.to_thread(self.postgres.start, self.socket_dir, log, POSTGRES_SETTINGS)

    @property
    def postgres_pid(self) -> int:
        """The process id of PostgreSQL, which must be running."""
        return int((self.pgdata / "postmaster.pid").read_text().split()[0])

    async def crash_postgres(self) -> None:
        """Stop PostgreSQL without a checkpoint, as a power failure does."""
        pid = self.postgres_pid
        os.kill(pid, signal.SIGQUIT)
        await wait_until_true(lambda: not is_running(pid))

    async def wait_until_all_answer(self, seconds: float = 60) -> None:
        """Wait until the servers and the gateway respond; after `seconds`, it is a violation."""
        # A write, because an answer to a read does not show that a fault has ended.
        probes: dict[str, Callable[[], Awaitable[object]]] = {
            server.name: partial(
                self.calls[number].call,
                pb.CreateJobRequest(
                    job_id=f"probe-{next(self._probes)}",
                    document_type="reboot",
                    target_device_id=device_names()[0],
                ),
                TENANTS[0],
                deadline=1,
            )
            for number, server in enumerate(self.servers)
        }
        probes["gateway"] = self._probe_gateway
        await asyncio.gather(*(self._wait_for(name, p, seconds) for name, p in probes.items()))

    async def _wait_for(
        self, name: str, probe: Callable[[], Awaitable[object]], seconds: float
    ) -> None:
        loop = asyncio.get_running_loop()
        start, last = loop.time(), ""
        while True:
            try:
                await probe()
            except (JobsError, httpx.HTTPError) as e:
                last = repr(e)[:500]
            else:
                break
            if loop.time() - start > 60:
                self.ledger.problem("no answer within 60 s of a fault", f"{name}: {last}")
                return
            await asyncio.sleep(0.05)
        if (took := loop.time() - start) > seconds:
            self.ledger.problem("a late answer after a fault", f"{name}: {took:.1f} s, {last}")

    async def _probe_gateway(self, deadline: float = 1) -> None:
        headers = {"X-Tenant-Id": TENANTS[0]}
        response = await self.http.get("/customer/jobs?limit=1", headers=headers, timeout=deadline)
        response.raise_for_status()

    async def _gateway_is_connected(self) -> bool:
        """Whether all connections of the gateway, which take turns, reach the server."""
        probes = (self._probe_gateway(TIMEOUT) for _ in range(_GATEWAY_PROBES))
        found = await asyncio.gather(*probes, return_exceptions=True)
        return not any(found)


@asynccontextmanager
async def running_system(
    folder: Path,
    gateway_binary: Path,
    ledger: Ledger,
    code: Code = THIS_VERSION,
    variables: Mapping[str, str] = MappingProxyType({}),
    history: History | None = None,
) -> AsyncIterator[System]:
    """Run the system in `folder`, which PostgreSQL's account must be able to reach.

    `code` is that of the servers and of the schema; `variables` are more settings of the servers.
    `history` gets the calls of the traffic.
    """
    account = unprivileged_account()
    sockets = folder / "sockets"
    sockets.mkdir()
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)
        os.chown(sockets, account.pw_uid, account.pw_gid)
    async with AsyncExitStack() as stack:
        disks = _mount_disks(folder, stack, ledger)
        pgdata = (disks.data.path if disks else folder) / "pgdata"
        postgres = PostgresServer(find_binaries(folder, account), pgdata, account)
        await asyncio.to_thread(postgres.init)
        if disks:
            _move_wal(pgdata / "pg_wal", disks.wal.path / "pg_wal")
        addresses = [stack.enter_context(reserved_address()) for _ in range(3)]
        calls, streams = [
            [
                Calls(await stack.enter_async_context(open_channel(a)), history)
                for a in addresses[:2]
            ]
            for _ in range(2)
        ]
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{addresses[2]}", timeout=2)
        )
        servers = [
            Process(
                f"server {number}",
                [sys.executable, "-P", "-m", "jobs_grpc.cli", "serve"],
                code.environ()
                | database_variables(sockets)
                | {
                    "JOBS_LISTEN": address,
                    "JOBS_LOG_FORMAT": "json",
                    "JOBS_LOG_LEVEL": "WARNING",
                    **variables,
                },
                ledger,
            )
            for number, address in enumerate(addresses[:2])
        ]
        gateway = Process(
            "gateway",
            [str(gateway_binary)],
            {
                "JOBS_GATEWAY_UPSTREAM": addresses[0],
                "JOBS_GATEWAY_LISTEN": addresses[2],
                "JOBS_GATEWAY_LOG_LEVEL": "WARN",
            },
            ledger,
        )
        system = System(
            *(ledger, postgres, pgdata, sockets, servers, gateway, calls, streams, http, disks),
            history,
        )
        await system.start_postgres()
        stack.callback(postgres.stop)
        await _prepare_database(system, code)
        for process in (*servers, gateway):
            await process.start()
            stack.push_async_callback(process.stop)
        await system.wait_until_all_answer()
        yield system


def _mount_disks(folder: Path, stack: AsyncExitStack, ledger: Ledger) -> Disks | None:
    mounted = []
    for name in ("data", "wal"):
        path = folder / name
        path.mkdir()
        try:
            disk = Disk(path)
        except MountNotPermitted as e:
            ledger.skipped = f"full disks, because {e}"
            return None
        stack.callback(disk.unmount)
        mounted.append(disk)
    return Disks(*mounted)


def _move_wal(source: Path, target: Path) -> None:
    """Move the write-ahead log to another file system, as `initdb --waldir` does."""
    owner = source.stat()
    shutil.copytree(source, target)
    for path in (target, *target.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    shutil.rmtree(source)
    source.symlink_to(target)


def database_variables(*sockets: Path) -> dict[str, str]:
    """Return the settings of a server whose primary has one of these sockets."""
    return {
        "JOBS_DATABASE_URL": request_dsn(*sockets),
        "JOBS_OWNER_DATABASE_URL": owner_dsn(*sockets),
    }


def owner_dsn(*sockets: Path) -> str:
    return _dsn("postgres", sockets)


def request_dsn(*sockets: Path) -> str:
    return _dsn("jobs_request:secret", sockets)


def _dsn(login: str, sockets: Sequence[Path]) -> str:
    attributes = "&target_session_attrs=primary" if len(sockets) > 1 else ""
    return f"postgresql://{login}@/jobs?host={','.join(map(str, sockets))}{attributes}"


async def _prepare_database(system: System, code: Code) -> None:
    async with connected(system.owner_dsn.replace("/jobs?", "/postgres?")) as connection:
        await connection.execute("CREATE DATABASE jobs")
    await system.migrate(code)
    async with system.owner() as owner:
        database, names = Database(system.owner_dsn, "", owner), device_names()
        for tenant in TENANTS:
            await database.add_devices(tenant, names)
            for number, group in enumerate(GROUPS):
                await database.add_devices(tenant, names[number :: len(GROUPS)], group=group)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def device_names() -> list[str]:
    return [f"d{number:03}" for number in range(DEVICES_PER_TENANT)]
