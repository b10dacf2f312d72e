"""Measure a thundering herd: thousands of watches that reconnect at once.

Run by `make bench-herd`. Clients in processes of their own keep the watches open; the server is
killed, terminated and started again. Another tenant sends one GetJob after the other. A bare
grpc.aio server of streams shows the cost of the transport. Devices with client certificates have a
connection each, and reconnect with a TLS handshake.
"""

import argparse
import asyncio
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution, WatchPendingExecutionsResponse

from bench import seed
from bench.device_certificates import certificates_file, write_certificates
from bench.environment import Environment, environment, temporary_folder
from bench.figures import MINIMAL, SERVICE, Case, Results, tables_by_case
from bench.hostile.other_tenant import TENANT as OTHER_TENANT
from bench.hostile.other_tenant import Call, milliseconds, other_tenant_calls
from bench.process import Server, bare_server, cpu_shares, free_address
from bench.run import Option, run
from bench.watches import Clients, Received, watch_clients
from tests.support import shapes

_PENDING, _JOB = "WatchPendingExecutions", "WatchJob"

_DEVICE_LISTEN = "JOBS_DEVICE_LISTEN"

# How watches may end when the server stops or is killed.
_EXPECTED_ENDS = "UNAVAILABLE SERVER_STOPPING with RetryInfo", "connection lost"

# A device that calls before the server has reached the database cannot be looked up.
_TOO_EARLY = "UNAVAILABLE DATABASE_UNAVAILABLE with RetryInfo"

_CANCELED, _EXHAUSTED = "CANCELLED", "RESOURCE_EXHAUSTED LIMIT_EXCEEDED with RetryInfo"

# The shortest time in which the other tenant calls.
_MIN_SECONDS = 0.5

# How many times the watched state changes.
_CHANGES = 3

# The largest figures that are good enough.
_GOALS = {
    **{
        f"{name}, {phase}": 0
        for phase in ("first opening", "kill -9", "SIGTERM")
        for name in ("CANCELLED without a reason", "other errors")
    },
    "memory per watch": 28,
    "open all": 5,
    "another tenant's p99 while they open": 300,
    "notification p99": 1,
    "SIGTERM until the exit": 5,
    "server idle": 4,
    "database idle": 9,
    "server idle, analyzed": 4,
    "database idle, analyzed": 9,
}


async def _measure(args: argparse.Namespace) -> str:
    results = Results()
    plural = "s" if args.tenants > 1 else ""
    case = f"{args.watches:,} watches of {args.tenants} tenant{plural}"
    tenants = [f"herd-{number}" for number in range(args.tenants)]
    for method in (_PENDING, _JOB):
        # An environment of its own, with tables that were never analyzed.
        async with environment() as env:
            named = Case(results, f"{method}, {case}")
            await _Herd(env, named, method, args, args.watches, tenants).measure()
    async with environment() as env:
        named = Case(results, f"{_PENDING}, {args.devices:,} devices with certificates")
        settings = write_certificates(env.folder, args.devices, tenants)
        settings[_DEVICE_LISTEN] = free_address()
        await _Herd(env, named, _PENDING, args, args.devices, tenants, settings).measure()
        machine = await env.report()
    with temporary_folder() as folder:
        bare = Case(results, f"{_PENDING}, {case}", MINIMAL)
        await _measure_bare(folder, bare, args.watches, tenants)
    subjects = {SERVICE: "service", MINIMAL: "bare stream"}
    return f"{machine}\n\n{tables_by_case(results, _GOALS, subjects)}"


@dataclass(frozen=True)
class _Herd:
    """The watches of one method, and what is measured with them."""

    _env: Environment
    _case: Case
    _method: str
    _args: argparse.Namespace
    _watches: int
    _tenants: Sequence[str]
    _settings: Mapping[str, str] = field(default_factory=dict)
    """Of JOBS_DEVICE_LISTEN, if the clients have certificates."""
    _address: str = field(default_factory=free_address)

    async def measure(self) -> None:
        """Open the watches, change what they watch, and restart the server twice."""
        async with AsyncExitStack() as stack:
            async with self._server() as server:
                await self._insert(server)
                clients = await stack.enter_async_context(self._clients(server))
                await self._open(server, clients)
                await self._measure_idle(server, "idle")
                await self._env.vacuum()
                await self._measure_idle(server, "idle, analyzed")
                for number in range(_CHANGES):
                    await self._notify(server, clients, number)
                reopened = await clients.expect("first")
                server.process.kill()
                await server.process.wait()
            async with self._server() as server:
                await self._reopen(server, "kill -9", reopened)
                reopened = await clients.expect("first")
                started = time.monotonic()
                server.process.terminate()
                await server.process.wait()
                self._case.add("SIGTERM until the exit", "s", time.monotonic() - started)
            async with self._server() as server:
                await self._reopen(server, "SIGTERM", reopened)

    def _server(self) -> AbstractAsyncContextManager[Server]:
        return self._env.server(
            address=self._address,
            JOBS_MAX_STREAMS=str(max(20_000, 2 * self._watches)),
            JOBS_MAX_TENANT_STREAMS=str(max(10_000, 2 * self._watches)),
            **self._settings,
        )

    def _clients(self, server: Server) -> AbstractAsyncContextManager[Clients]:
        certificates: Path | str = ""
        if self._settings:
            server = replace(server, address=self._settings[_DEVICE_LISTEN])
            certificates = certificates_file(self._env.folder)
        return watch_clients(server, self._method, self._watches, self._tenants, certificates)

    async def _insert(self, server: Server) -> None:
        """Insert the devices into tables that are never analyzed on their own, and jobs."""
        await shapes.disable_autovacuum(self._env.owner)
        devices = -(-self._watches // len(self._tenants))
        counts = dict.fromkeys(self._tenants, devices) | {OTHER_TENANT: 10}
        async with server.calls() as calls:
            for tenant, count in counts.items():
                await seed.add_devices(self._env.owner, tenant, count)
                await calls.call(_job("j"), tenant)

    async def _open(self, server: Server, clients: Clients) -> None:
        idle = server.resident_bytes()
        async with other_tenant_calls(server.address) as calls:
            await asyncio.sleep(2 * _MIN_SECONDS)
        self._add_latencies(calls, "alone")
        async with other_tenant_calls(server.address) as calls:
            started = time.monotonic()
            received = await (await clients.expect("first"))
            await asyncio.sleep(_MIN_SECONDS)
        seconds = max(received.times) - started
        memory = (server.resident_bytes() - idle) / self._watches / 1024
        self._case.add("open all", "s", seconds)
        # The connections are open already, which matters if each watch has one.
        noun = "watch besides its connection" if self._settings else "watch"
        self._case.add(f"memory per {noun}", "KiB", memory)
        self._add_ends(received.ends, "first opening")
        self._add_latencies([call for call in calls if call[0] > started], "while they open")

    async def _reopen(
        self, server: Server, phase: str, reopened: "asyncio.Future[Received]"
    ) -> None:
        serving = time.monotonic()
        async with other_tenant_calls(server.address) as calls:
            received = await reopened
            cpu = server.cpu_time()
            await asyncio.sleep(_MIN_SECONDS)
        seconds = max(received.times) - min(received.times)
        self._case.add(f"open all after {phase}", "s", seconds)
        self._case.add(
            f"last watch since the server serves, {phase}", "s", max(received.times) - serving
        )
        self._case.add(f"CPU of the server until then, {phase}", "s", cpu)
        self._add_ends(received.ends, phase)
        self._add_latencies(calls, f"after {phase}")

    async def _measure_idle(self, server: Server, state: str) -> None:
        await asyncio.sleep(self._args.idle / 4)
        shares = await cpu_shares(
            self._args.idle, server=server.cpu_time, database=self._env.postgres_cpu_time
        )
        for part, share in shares.items():
            self._case.add(f"{part} {state}", "%", share)

    async def _notify(self, server: Server, clients: Clients, number: int) -> None:
        """Change what all watch: create a job for all devices, or pause or resume the job."""
        changes = await clients.expect("next")
        change = pb.ResumeJobRequest if number % 2 else pb.PauseJobRequest
        request = _job("") if self._method == _PENDING else change(job_id="j")

        async def send(tenant: str) -> float:
            await calls.call(request, tenant)
            return time.monotonic()

        async with server.calls() as calls:
            changed = await asyncio.gather(*map(send, self._tenants))
        result = await changes
        seconds = [
            received - changed[number % len(changed)]
            for number, received in enumerate(result.times)
        ]
        self._case.add_percentiles("notification {}", "s", seconds)

    def _add_ends(self, ends: Counter[str], phase: str) -> None:
        """Add how many streams ended for another reason than the stop of the server."""
        self._case.add(f"CANCELLED without a reason, {phase}", "", ends.pop(_CANCELED, 0))
        self._case.add(f"RESOURCE_EXHAUSTED, {phase}", "", ends.pop(_EXHAUSTED, 0))
        if self._settings:
            self._case.add(f"DATABASE_UNAVAILABLE, {phase}", "", ends.pop(_TOO_EARLY, 0))
        for end, count in ends.items():
            print(f"    {count:,} × {end}")
        others = sum(count for end, count in ends.items() if end not in _EXPECTED_ENDS)
        self._case.add(f"other errors, {phase}", "", others)

    def _add_latencies(self, calls: list[Call], phase: str) -> None:
        name = f"another tenant's {{}} {phase}"
        self._case.add_percentiles(name, "ms", milliseconds(calls))


def _job(job_id: str) -> pb.CreateJobRequest:
    return pb.CreateJobRequest(job_id=job_id, document_type="bench", target_all=True)


async def _measure_bare(folder: Path, case: Case, watches: int, tenants: Sequence[str]) -> None:
    execution = DeviceExecution(job_id="j", device_id="d0000000", document_type="bench")
    response = WatchPendingExecutionsResponse(executions=[execution])
    async with (
        bare_server(folder / "bare.log", _PENDING, response.SerializeToString()) as bare,
        watch_clients(bare, _PENDING, watches, tenants) as clients,
    ):
        idle, started = bare.resident_bytes(), time.monotonic()
        received = await (await clients.expect("first"))
        case.add("open all", "s", max(received.times) - started)
        memory = (bare.resident_bytes() - idle) / watches / 1024
        case.add("memory per watch", "KiB", memory)
        changes = await clients.expect("next")
        started = time.monotonic()
        bare.process.send_signal(signal.SIGUSR1)
        seconds = [received - started for received in (await changes).times]
        case.add_percentiles("notification {}", "s", seconds)


if __name__ == "__main__":
    run(
        "herd",
        __doc__,
        _measure,
        Option("watches", 8000, "number of watches", quick=60),
        Option("devices", 6000, "number of devices with client certificates", quick=20),
        Option("tenants", 1, "tenants that watch", quick=2),
        Option("idle", 8.0, "seconds of idle watches", quick=0.5),
    )
