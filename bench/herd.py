"""Measure a thundering herd: thousands of watches that reconnect at once.

Run by `make bench-herd`. Clients in processes of their own keep the watches open; the server is
killed, terminated and started again. Another tenant sends one GetJob after the other. A bare
grpc.aio server of streams shows the cost of the transport. Ctrl-C ends the run and prints a table
of what was measured.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from bench import seed
from bench.environment import Environment, Server, environment, free_address
from bench.figures import MINIMAL, SERVICE, Figure, Results
from bench.hostile.other_tenant import TENANT as OTHER_TENANT
from bench.machine import describe_machine
from bench.other_tenant_calls import Call, other_tenant_calls
from bench.page import RESULTS, describe, format_number, replace_figures
from bench.process import postgres_cpu_time
from bench.run import InvalidRun
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


def main() -> None:
    """Measure and print a table; with --page, keep it."""
    parser = argparse.ArgumentParser(prog="bench.herd", description=__doc__)
    parser.add_argument("--watches", type=int, default=8000, help="number of watches [8000]")
    parser.add_argument("--tenants", type=int, default=1, help="tenants that watch [1]")
    parser.add_argument("--idle", type=float, default=8, help="seconds of idle watches [8]")
    parser.add_argument(
        "--only", choices=(_PENDING, _JOB, MINIMAL), help="measure one subject, and keep nothing"
    )
    parser.add_argument("--quick", action="store_true", help="60 watches of two tenants")
    parser.add_argument(
        "--page", action="store_true", help="write the tables to bench/results/herd.md"
    )
    args = parser.parse_args()
    if args.quick:
        args.watches, args.tenants, args.idle = 60, 2, 0.5
    results = Results()
    machine: dict[str, str] = {}
    try:
        asyncio.run(_measure(args, results, machine))
    except InvalidRun as e:
        sys.exit(f"invalid run: {e}")
    except KeyboardInterrupt:
        if results:
            print(f"\n{report(results, machine)}")
        sys.exit(130)
    text = report(results, machine)
    print(f"\n{text}")
    if args.page:
        replace_figures(RESULTS / "herd.md", text)


async def _measure(args: argparse.Namespace, results: Results, machine: dict[str, str]) -> None:
    """Fill `results` and `machine`."""
    case = f"{args.watches:,} watches of {args.tenants} tenant{'s' if args.tenants > 1 else ''}"
    tenants = [f"herd-{number}" for number in range(args.tenants)]
    for method in (_PENDING, _JOB):
        if args.only in (None, method):
            # An environment of its own, with tables that were never analyzed.
            async with environment() as env:
                machine |= await describe_machine(env.service)
                herd = _Herd(env, results, f"{method}, {case}", method, args, tenants)
                await herd.measure()
    if args.only in (None, MINIMAL):
        async with environment() as env:
            machine |= await describe_machine(env.service)
            await _measure_bare(env, results, f"{_PENDING}, {case}", args, tenants)


class _Herd:
    """The watches of one method, and what is measured with them."""

    def __init__(
        self,
        env: Environment,
        results: Results,
        case: str,
        method: str,
        args: argparse.Namespace,
        tenants: Sequence[str],
    ) -> None:
        self._env = env
        self._results = results
        self._case = case
        self._method = method
        self._watches = args.watches
        self._idle_seconds = args.idle
        self._tenants = tenants
        self._address = free_address()

    async def measure(self) -> None:
        """Open the watches, change what they watch, and restart the server twice."""
        async with AsyncExitStack() as stack:
            async with self._server() as server:
                await self._insert(server)
                clients = await stack.enter_async_context(
                    watch_clients(server, self._method, self._watches, self._tenants)
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
        return self._env.service_server(
            address=self._address,
            JOBS_MAX_STREAMS=str(max(20_000, 2 * self._watches)),
            JOBS_MAX_TENANT_STREAMS=str(max(10_000, 2 * self._watches)),
        )

    async def _insert(self, server: Server) -> None:
        """Insert the devices into tables that are never analyzed on their own, and jobs."""
        await shapes.disable_autovacuum(self._env.service)
        devices = -(-self._watches // len(self._tenants))
        for tenant, count in (*((tenant, devices) for tenant in self._tenants), (OTHER_TENANT, 10)):
            await seed.add_devices(self._env.service, tenant, count)
            await _create(server, tenant, "j")

    async def _open(self, server: Server, clients: Clients) -> None:
        idle = server.resident_bytes()
        async with other_tenant_calls(server) as calls:
            await asyncio.sleep(2 * _MIN_SECONDS)
        self._add_latencies(calls, "alone")
        async with other_tenant_calls(server) as calls:
            started = time.monotonic()
            received = await (await clients.expect("first"))
            await asyncio.sleep(_MIN_SECONDS)
        seconds = max(received.times) - started
        memory = (server.resident_bytes() - idle) / self._watches / 1024
        self._add("open all", "s", seconds)
        self._add("memory per watch", "KiB", memory)
        self._add_ends(received.ends, "first opening")
        self._add_latencies([call for call in calls if call[0] > started], "while they open")

    async def _reopen(
        self, server: Server, phase: str, reopened: "asyncio.Future[Received]"
    ) -> None:
        async with other_tenant_calls(server) as calls:
            received = await reopened
            await asyncio.sleep(_MIN_SECONDS)
        self._add(f"open all after {phase}", "s", max(received.times) - min(received.times))
        self._add_ends(received.ends, phase)
        self._add_latencies(calls, f"after {phase}")

    async def _measure_idle(self, server: Server, state: str) -> None:
        await asyncio.sleep(self._idle_seconds / 4)
        started = time.monotonic()
        server_cpu, database_cpu = server.cpu_time(), postgres_cpu_time(self._env.folder)
        await asyncio.sleep(self._idle_seconds)
        share = 100 / (time.monotonic() - started)
        self._add(f"server {state}", "%", (server.cpu_time() - server_cpu) * share)
        self._add(
            f"database {state}", "%", (postgres_cpu_time(self._env.folder) - database_cpu) * share
        )

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
        percentiles = statistics.quantiles(seconds, n=100)
        self._add("notification p50", "s", percentiles[49])
        self._add("notification p99", "s", percentiles[98])

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

    def _add_latencies(self, calls: Sequence[Call], phase: str) -> None:
        milliseconds = [1000 * seconds for _, seconds, error in calls if not error]
        if len(milliseconds) < 2:
            raise InvalidRun(f"another tenant made no call {phase}")
        percentiles = statistics.quantiles(milliseconds, n=100)
        self._add(f"another tenant's p50 {phase}", "ms", percentiles[49])
        self._add(f"another tenant's p99 {phase}", "ms", percentiles[98])


async def _create(server: Server, tenant: str, job_id: str) -> None:
    request = pb.CreateJobRequest(job_id=job_id, document_type="bench", target_all=True)
    await _call(server, tenant, "CreateJob", request)


async def _call(server: Server, tenant: str, method: str, request: Any) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        await getattr(stub, method)(request, metadata=(("x-tenant-id", tenant),))


async def _measure_bare(
    env: Environment, results: Results, case: str, args: argparse.Namespace, tenants: Sequence[str]
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(env.bare_stream_server())
        idle = server.resident_bytes()
        clients = await stack.enter_async_context(
            watch_clients(server, _PENDING, args.watches, tenants)
        )
        started = time.monotonic()
        received = await (await clients.expect("first"))
        results.add("open all", case, MINIMAL, "s", max(received.times) - started)
        memory = (server.resident_bytes() - idle) / args.watches / 1024
        results.add("memory per watch", case, MINIMAL, "KiB", memory)
        changes = await clients.expect("next")
        started = time.monotonic()
        server.process.send_signal(signal.SIGUSR1)
        seconds = [received - started for received in (await changes).times]
        percentiles = statistics.quantiles(seconds, n=100)
        results.add("notification p50", case, MINIMAL, "s", percentiles[49])
        results.add("notification p99", case, MINIMAL, "s", percentiles[98])


def report(results: Results, machine: Mapping[str, str]) -> str:
    """Return the machine and a table for each kind of watch, as Markdown."""
    lines = [describe(machine)]
    for case in dict.fromkeys(figure.case for figure in results):
        names = dict.fromkeys(figure.workload for figure in results if figure.case == case)
        lines += [
            "",
            f"| {case} | service | bare stream | goal | |",
            "|---|---|---|---|---|",
        ]
        for name in names:
            service = results.find(name, case, SERVICE)
            cells = [_format(service), _format(results.find(name, case, MINIMAL))]
            goal = _GOALS.get(name)
            verdict = "" if goal is None or service is None else _verdict(service.median <= goal)
            unit = service.unit if service else ""
            cells += ["" if goal is None else f"≤ {goal:g} {unit}".rstrip(), verdict]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format(figure: Figure | None) -> str:
    return "–" if figure is None else f"{format_number(figure.median)} {figure.unit}".rstrip()


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


if __name__ == "__main__":
    main()
