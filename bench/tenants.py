"""Measure thousands of tenants with a few watches each, and calls of a thousand tenants.

Run by `make bench-tenants`. Each tenant has a webhook. Clients in processes of their own keep a
WatchJob and a WatchPendingExecutions of each tenant open, and WatchEvents of a thousand tenants.
A few tenants are samples: this process watches for them, changes what they watch through one or
another server, and measures when they are told.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
from fleet.jobs.v1 import events_pb2, events_pb2_grpc

from bench.environment import Environment, Server, environment
from bench.figures import SERVICE, Results
from bench.hostile.other_tenant import TENANT as OTHER_TENANT
from bench.machine import describe_machine
from bench.other_tenant_calls import Call, other_tenant_calls
from bench.page import RESULTS, describe, format_number, replace_figures
from bench.process import PythonProcess, postgres_cpu_time
from bench.run import InvalidRun
from bench.tenant_samples import Samples
from bench.watches import Clients, read_line, watch_clients
from tests.support.endpoints import running_endpoint
from tests.support.webhooks import loopback_settings, write_keys

_METHODS = ("WatchJob", "WatchPendingExecutions")

# How many tenants call, and how many stream their events.
_CALLING_TENANTS = 1000

# CreateWebhook calls at a time.
_CREATIONS = 20

# Devices of a job in which the calling tenants look.
_DEVICES = 10

_CALLS_BY_ONE, _CALLS_BY_MANY = "GetJob of one tenant, p99", "GetJob of all tenants, p99"
_FACTOR = "GetJob of all tenants, p99, against that of one"

# The largest figures that are good enough.
_GOALS = {
    "another tenant's p99": 100,
    "another tenant's failed calls": 0,
    "change by the same server, p99": 0.3,
    "change by another server, p99": 1.2,
    "release by time alone, p99": 1.2,
    "expiry by time alone, p99": 1.2,
    "server and database at rest": 50,
    "memory per watch": 40,
    _FACTOR: 3,
}


def main() -> None:
    """Measure and print a table; with --page, keep it."""
    parser = argparse.ArgumentParser(prog="bench.tenants", description=__doc__)
    parser.add_argument("--tenants", type=int, default=10_000, help="number of tenants [10000]")
    parser.add_argument("--samples", type=int, default=100, help="tenants that change [100]")
    parser.add_argument("--seconds", type=float, default=15, help="seconds of each phase [15]")
    parser.add_argument("--rate", type=int, default=600, help="calls per second [600]")
    parser.add_argument("--quick", action="store_true", help="60 tenants, and short phases")
    parser.add_argument(
        "--page", action="store_true", help="write the table to bench/results/tenants.md"
    )
    args = parser.parse_args()
    if args.quick:
        args.tenants, args.samples, args.seconds, args.rate = 60, 5, 1.0, 50
    results = Results()
    machine: dict[str, str] = {}
    try:
        asyncio.run(_measure(args, results, machine))
    except InvalidRun as e:
        sys.exit(f"invalid run: {e}")
    except KeyboardInterrupt:
        print(f"\n{report(results, machine)}")
        sys.exit(130)
    text = report(results, machine)
    print(f"\n{text}")
    if args.page:
        replace_figures(RESULTS / "tenants.md", text)


async def _measure(args: argparse.Namespace, results: Results, machine: dict[str, str]) -> None:
    """Fill `results` and `machine`."""
    async with environment() as env:
        machine |= await describe_machine(env.service)
        tenants = _Tenants(env, results, args)
        await tenants.insert()
        await tenants.measure_watches()
        await tenants.measure_calls()


class _Tenants:
    """The tenants, and what is measured with them."""

    def __init__(self, env: Environment, results: Results, args: argparse.Namespace) -> None:
        self._env = env
        self._results = results
        self._seconds = args.seconds
        self._rate = args.rate
        names = [f"tenant-{number:05}" for number in range(args.tenants)]
        self._samples, self._idle = names[: args.samples], names[args.samples :]
        self._names = names
        self._case = f"{args.tenants:,} tenants with a webhook and a watch of each kind"

    async def insert(self) -> None:
        """Insert devices and a job for all devices of each tenant."""
        for tenants, devices in ((self._names, _DEVICES), ([OTHER_TENANT], _DEVICES)):
            await self._env.service.execute(
                "INSERT INTO device_state (tenant_id, device_id)"
                " SELECT t, 'd' || lpad(n::text, 7, '0')"
                " FROM unnest($1::text[]) t, generate_series(0, $2 - 1) n",
                tenants,
                devices,
            )
            await self._env.service.execute(
                "SELECT count(*) FROM unnest($1::text[]) t, jobs.create_job("
                "t, 'j', '{\"document_type\": \"bench\", \"target_all\": true}', '{}', NULL,"
                " 2000000, NULL, 24)",
                tenants,
            )
        await self._env.vacuum()

    async def measure_watches(self) -> None:
        """Keep the watches of all tenants open, and change what some of them see."""
        async with AsyncExitStack() as stack:
            endpoint = await stack.enter_async_context(running_endpoint(None))
            keys = write_keys(self._env.folder / "webhook-keys", "k1")
            settings = loopback_settings(keys, endpoint.port)
            # For maintenance and the delivery to webhooks.
            settings["JOBS_OWNER_DATABASE_URL"] = self._env.service_owner_dsn
            server = await stack.enter_async_context(self._server(**settings))
            other_server = await stack.enter_async_context(self._server(**settings))
            await self._create_webhooks(other_server, endpoint.url())
            before = server.resident_bytes()
            started = time.monotonic()
            for method in _METHODS:
                clients = await stack.enter_async_context(
                    watch_clients(server, method, len(self._idle), self._idle)
                )
                await _open(clients)
            samples = await stack.enter_async_context(Samples.watching(server, self._samples))
            watches = len(_METHODS) * len(self._names)
            self._add("open all", "s", time.monotonic() - started)
            memory = (server.resident_bytes() - before) / watches / 1024
            self._add("memory per watch", "KiB", memory)
            tenants = self._idle[:_CALLING_TENANTS]
            await _open(
                await stack.enter_async_context(
                    watch_clients(server, "WatchEvents", len(tenants), tenants)
                )
            )

            await self._measure_rest(server)
            async with other_tenant_calls(server) as calls:
                await asyncio.sleep(self._seconds)
            self._add_calls(calls)
            changes: Mapping[str, Callable[[], Awaitable[list[float]]]] = {
                "change by the same server": lambda: samples.change(server, self._seconds),
                "change by another server": lambda: samples.change(other_server, self._seconds),
                "release by time alone": lambda: samples.release(other_server, self._seconds),
                "expiry by time alone": lambda: samples.expire(self._env.service, self._seconds),
            }
            async with other_tenant_calls(server) as calls:
                for name, change in changes.items():
                    self._add_percentiles(name, "s", await change())
            self._add_calls(calls)
            self._add("events delivered to webhooks", "", len(endpoint.requests))

    async def measure_calls(self) -> None:
        """Let one tenant make all calls, and then a thousand tenants, in turn."""
        many = self._names[:_CALLING_TENANTS]
        p99: dict[str, list[float]] = {_CALLS_BY_ONE: [], _CALLS_BY_MANY: []}
        async with self._server() as server:
            for _ in range(3):
                for name, tenants in ((_CALLS_BY_ONE, many[:1]), (_CALLS_BY_MANY, many)):
                    process = PythonProcess(
                        *("-m", "bench.tenant_calls", server.address, str(self._rate)),
                        *(str(self._seconds / 3), *tenants),
                    )
                    async with process as calling:
                        milliseconds = json.loads(await read_line(calling))
                    p99[name].append(statistics.quantiles(milliseconds, n=100)[98])
                    self._add(name, "ms", p99[name][-1])
        one, all_tenants = map(statistics.median, p99.values())
        self._add(_FACTOR, "times", all_tenants / one)

    async def _create_webhooks(self, server: Server, url: str) -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub: Any = events_pb2_grpc.EventServiceStub(channel)
            names = iter(self._names)

            async def create() -> None:
                for name in names:
                    request = events_pb2.CreateWebhookRequest(url=url)
                    await stub.CreateWebhook(request, metadata=(("x-tenant-id", name),))

            await asyncio.gather(*(create() for _ in range(_CREATIONS)))

    async def _measure_rest(self, server: Server) -> None:
        await asyncio.sleep(self._seconds / 3)
        started = time.monotonic()
        cpu = server.cpu_time(), postgres_cpu_time(self._env.folder)
        await asyncio.sleep(self._seconds)
        share = 100 / (time.monotonic() - started)
        server_cpu = (server.cpu_time() - cpu[0]) * share
        # The other server has no watches.
        database_cpu = (postgres_cpu_time(self._env.folder) - cpu[1]) * share
        self._add("server at rest", "%", server_cpu)
        self._add("database at rest", "%", database_cpu)
        self._add("server and database at rest", "%", server_cpu + database_cpu)

    @asynccontextmanager
    async def _server(self, **settings: Any) -> AsyncIterator[Server]:
        streams = str(max(25_000, 3 * len(self._names)))
        # A tenant that makes all calls must not be refused for a burst.
        async with self._env.service_server(
            JOBS_MAX_STREAMS=streams, JOBS_MAX_TENANT_CALLS="1000", **settings
        ) as server:
            yield server

    def _add(self, figure: str, unit: str, value: float) -> None:
        self._results.add(figure, self._case, SERVICE, unit, value)

    def _add_percentiles(self, name: str, unit: str, values: Sequence[float]) -> None:
        percentiles = statistics.quantiles(values, n=100)
        self._add(f"{name}, p50", unit, percentiles[49])
        self._add(f"{name}, p99", unit, percentiles[98])

    def _add_calls(self, calls: Sequence[Call]) -> None:
        milliseconds = [1000 * seconds for _, seconds, error in calls if not error]
        percentiles = statistics.quantiles(milliseconds, n=100)
        self._add("another tenant's p50", "ms", percentiles[49])
        self._add("another tenant's p99", "ms", percentiles[98])
        failed = sum(bool(error) for _, _, error in calls[:-1])  # the end cancels the last one
        self._add("another tenant's failed calls", "", failed)


async def _open(clients: Clients) -> None:
    received = await (await clients.expect("first"))
    if received.ends:
        print(f"    ended while they opened: {dict(received.ends)}")


def report(results: Results, machine: Mapping[str, str]) -> str:
    """Return the machine and a table, as Markdown."""
    lines = [describe(machine)]
    for case in dict.fromkeys(figure.case for figure in results):
        lines += ["", f"| {case} | | goal | |", "|---|---|---|---|"]
        for figure in results:
            if figure.case != case:
                continue
            # The two phases with calls of another tenant must both be good enough.
            value = max(figure.values) if figure.workload in _GOALS else figure.median
            goal = _GOALS.get(figure.workload)
            cells = [f"{format_number(value)} {figure.unit}".rstrip()]
            cells.append("" if goal is None else f"≤ {goal:g} {figure.unit}".rstrip())
            cells.append("" if goal is None else ("met" if value <= goal else "missed"))
            lines.append(f"| {figure.workload} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
