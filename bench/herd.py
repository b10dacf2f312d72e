"""Measure a thundering herd: thousands of watches that reconnect at once.

Run by `make bench-herd`. Clients in processes of their own keep the watches open; the server is
killed, terminated and started again. Another tenant sends one GetJob after the other. A bare
grpc.aio server of streams shows the cost of the transport.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from bench import seed
from bench.environment import Environment, environment, temporary_folder
from bench.figures import MINIMAL, SERVICE, Results, tables_by_case
from bench.hostile.other_tenant import TENANT as OTHER_TENANT
from bench.machine import describe_machine
from bench.other_tenant_calls import Call, milliseconds, other_tenant_calls
from bench.page import describe
from bench.process import Server, free_address, server
from bench.run import InvalidRun, Option, run
from bench.watches import Clients, Received, watch_clients
from tests.support import shapes

_PENDING, _JOB = "WatchPendingExecutions", "WatchJob"

# How watches may end when the server stops or is killed.
_EXPECTED_ENDS = "UNAVAILABLE SERVER_STOPPING with RetryInfo", "connection lost"

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
            herd = _Herd(env, results, f"{method}, {case}", method, args, tenants)
            await herd.measure()
            machine = await describe_machine(env.owner)
    with temporary_folder() as folder:
        await _measure_bare(folder, results, f"{_PENDING}, {case}", args, tenants)
    subjects = {SERVICE: "service", MINIMAL: "bare stream"}
    return f"{describe(machine)}\n\n{tables_by_case(results, _GOALS, subjects)}"


@dataclass(frozen=True)
class _Herd:
    """The watches of one method, and what is measured with them."""

    _env: Environment
    _results: Results
    _case: str
    _method: str
    _args: argparse.Namespace
    _tenants: Sequence[str]
    _address: str = field(default_factory=free_address)

    async def measure(self) -> None:
        """Open the watches, change what they watch, and restart the server twice."""
        async with AsyncExitStack() as stack:
            async with self._server() as server:
                await self._insert(server)
                clients = await stack.enter_async_context(
                    watch_clients(server, self._method, self._args.watches, self._tenants)
                )
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
                self._add("SIGTERM until the exit", "s", time.monotonic() - started)
            async with self._server() as server:
                await self._reopen(server, "SIGTERM", reopened)

    def _server(self) -> AbstractAsyncContextManager[Server]:
        return self._env.server(
            address=self._address,
            JOBS_MAX_STREAMS=str(max(20_000, 2 * self._args.watches)),
            JOBS_MAX_TENANT_STREAMS=str(max(10_000, 2 * self._args.watches)),
        )

    async def _insert(self, server: Server) -> None:
        """Insert the devices into tables that are never analyzed on their own, and jobs."""
        await shapes.disable_autovacuum(self._env.owner)
        devices = -(-self._args.watches // len(self._tenants))
        for tenant, count in (*((tenant, devices) for tenant in self._tenants), (OTHER_TENANT, 10)):
            await seed.add_devices(self._env.owner, tenant, count)
            await _create(server, tenant, "j")

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
        memory = (server.resident_bytes() - idle) / self._args.watches / 1024
        self._add("open all", "s", seconds)
        self._add("memory per watch", "KiB", memory)
        self._add_ends(received.ends, "first opening")
        self._add_latencies([call for call in calls if call[0] > started], "while they open")

    async def _reopen(
        self, server: Server, phase: str, reopened: "asyncio.Future[Received]"
    ) -> None:
        async with other_tenant_calls(server.address) as calls:
            received = await reopened
            await asyncio.sleep(_MIN_SECONDS)
        self._add(f"open all after {phase}", "s", max(received.times) - min(received.times))
        self._add_ends(received.ends, phase)
        self._add_latencies(calls, f"after {phase}")

    async def _measure_idle(self, server: Server, state: str) -> None:
        await asyncio.sleep(self._args.idle / 4)
        started = time.monotonic()
        server_cpu, database_cpu = server.cpu_time(), self._env.postgres_cpu_time()
        await asyncio.sleep(self._args.idle)
        share = 100 / (time.monotonic() - started)
        self._add(f"server {state}", "%", (server.cpu_time() - server_cpu) * share)
        self._add(f"database {state}", "%", (self._env.postgres_cpu_time() - database_cpu) * share)

    async def _notify(self, server: Server, clients: Clients, number: int) -> None:
        """Change what all watch: create a job for all devices, or pause or resume the job."""
        changes = await clients.expect("next")

        async def change(tenant: str) -> float:
            if self._method == _PENDING:
                await _create(server, tenant, "")
            else:
                method = "ResumeJob" if number % 2 else "PauseJob"
                request = getattr(pb, f"{method}Request")(job_id="j")
                await _call(server, tenant, method, request)
            return time.monotonic()

        changed = await asyncio.gather(*(change(tenant) for tenant in self._tenants))
        result = await changes
        seconds = [
            received - changed[number % len(changed)]
            for number, received in enumerate(result.times)
        ]
        self._results.add_percentiles("notification {}", self._case, SERVICE, "s", seconds)

    def _add(self, figure: str, unit: str, value: float) -> None:
        self._results.add(figure, self._case, SERVICE, unit, value)

    def _add_ends(self, ends: Counter[str], phase: str) -> None:
        """Add how many streams ended for another reason than the stop of the server."""
        self._add(f"CANCELLED without a reason, {phase}", "", ends.pop(_CANCELED, 0))
        self._add(f"RESOURCE_EXHAUSTED, {phase}", "", ends.pop(_EXHAUSTED, 0))
        for end, count in ends.items():
            print(f"    {count:,} × {end}")
        others = sum(count for end, count in ends.items() if end not in _EXPECTED_ENDS)
        self._add(f"other errors, {phase}", "", others)

    def _add_latencies(self, calls: list[Call], phase: str) -> None:
        times = milliseconds(calls)
        if len(times) < 2:
            raise InvalidRun(f"another tenant made no call {phase}")
        name = f"another tenant's {{}} {phase}"
        self._results.add_percentiles(name, self._case, SERVICE, "ms", times)


async def _create(server: Server, tenant: str, job_id: str) -> None:
    request = pb.CreateJobRequest(job_id=job_id, document_type="bench", target_all=True)
    await _call(server, tenant, "CreateJob", request)


async def _call(server: Server, tenant: str, method: str, request: Any) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        await getattr(stub, method)(request, metadata=(("x-tenant-id", tenant),))


async def _measure_bare(
    folder: Path, results: Results, case: str, args: argparse.Namespace, tenants: Sequence[str]
) -> None:
    address = free_address()
    command = (sys.executable, "-m", "bench.bare_stream_server", address)
    async with (
        server(*command, address=address, log=folder / "bare.log") as bare,
        watch_clients(bare, _PENDING, args.watches, tenants) as clients,
    ):
        idle, started = bare.resident_bytes(), time.monotonic()
        received = await (await clients.expect("first"))
        results.add("open all", case, MINIMAL, "s", max(received.times) - started)
        memory = (bare.resident_bytes() - idle) / args.watches / 1024
        results.add("memory per watch", case, MINIMAL, "KiB", memory)
        changes = await clients.expect("next")
        started = time.monotonic()
        bare.process.send_signal(signal.SIGUSR1)
        seconds = [received - started for received in (await changes).times]
        results.add_percentiles("notification {}", case, MINIMAL, "s", seconds)


if __name__ == "__main__":
    run(
        "herd",
        __doc__,
        _measure,
        Option("watches", 8000, "number of watches", quick=60),
        Option("tenants", 1, "tenants that watch", quick=2),
        Option("idle", 8.0, "seconds of idle watches", quick=0.5),
    )
