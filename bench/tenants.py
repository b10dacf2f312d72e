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
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any

from fleet.jobs.v1 import events_pb2

from bench import seed
from bench.environment import Environment, environment
from bench.figures import Case, Results, percentile, tables_by_case
from bench.hostile.other_tenant import TENANT as OTHER_TENANT
from bench.hostile.other_tenant import Call, milliseconds, other_tenant_calls
from bench.process import Server, cpu_shares, python, read_line
from bench.run import Option, run
from bench.tenant_samples import Samples
from bench.watches import Clients, watch_clients
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

_IDLE, _CHANGING = "idle watches", "changes"

# The largest figures that are good enough.
_GOALS = {
    **{f"another tenant's p99, {phase}": 100 for phase in (_IDLE, _CHANGING)},
    **{f"another tenant's failed calls, {phase}": 0 for phase in (_IDLE, _CHANGING)},
    "change by the same server, p99": 0.3,
    "change by another server, p99": 1.2,
    "release by time alone, p99": 1.2,
    "expiry by time alone, p99": 1.2,
    "server and database at rest": 50,
    "memory per watch": 40,
    _FACTOR: 3,
}


async def _measure(args: argparse.Namespace) -> str:
    results = Results()
    async with environment() as env:
        tenants = _Tenants(env, results, args)
        await tenants.insert()
        await tenants.measure_watches()
        await tenants.measure_calls()
        return await env.report(tables_by_case(results, _GOALS))


class _Tenants:
    """The tenants, and what is measured with them."""

    def __init__(self, env: Environment, results: Results, args: argparse.Namespace) -> None:
        self._env = env
        self._seconds = args.seconds
        self._rate = args.rate
        names = [f"tenant-{number:05}" for number in range(args.tenants)]
        self._samples, self._idle = names[: args.samples], names[args.samples :]
        self._names = names
        name = f"{args.tenants:,} tenants with a webhook and a watch of each kind"
        self._case = Case(results, name)

    async def insert(self) -> None:
        """Insert devices and a job for all devices of each tenant."""
        for tenant in (*self._names, OTHER_TENANT):
            await seed.add_devices(self._env.owner, tenant, _DEVICES)
            await seed.add_job(self._env.owner, tenant, "j")
        await self._env.vacuum()

    async def measure_watches(self) -> None:
        """Keep the watches of all tenants open, and change what some of them see."""
        async with AsyncExitStack() as stack:
            endpoint = await stack.enter_async_context(running_endpoint(None))
            keys = write_keys(self._env.folder / "webhook-keys", "k1")
            settings = loopback_settings(keys, endpoint.port)
            # For maintenance and the delivery to webhooks.
            settings["JOBS_OWNER_DATABASE_URL"] = self._env.owner_dsn
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
            self._case.add("open all", "s", time.monotonic() - started)
            memory = (server.resident_bytes() - before) / watches / 1024
            self._case.add("memory per watch", "KiB", memory)
            tenants = self._idle[:_CALLING_TENANTS]
            await _open(
                await stack.enter_async_context(
                    watch_clients(server, "WatchEvents", len(tenants), tenants)
                )
            )

            await self._measure_rest(server)
            async with other_tenant_calls(server.address) as calls:
                await asyncio.sleep(self._seconds)
            self._add_calls(calls, _IDLE)
            changes = {
                "change by the same server": partial(samples.change, server, self._seconds),
                "change by another server": partial(samples.change, other_server, self._seconds),
                "release by time alone": partial(samples.release, other_server, self._seconds),
                "expiry by time alone": partial(samples.expire, self._env.owner, self._seconds),
            }
            async with other_tenant_calls(server.address) as calls:
                for name, change in changes.items():
                    self._case.add_percentiles(f"{name}, {{}}", "s", await change())
            self._add_calls(calls, _CHANGING)
            self._case.add("events delivered to webhooks", "", len(endpoint.requests))

    async def measure_calls(self) -> None:
        """Let one tenant make all calls, and then a thousand tenants, in turn."""
        many = self._names[:_CALLING_TENANTS]
        p99: dict[str, list[float]] = {_CALLS_BY_ONE: [], _CALLS_BY_MANY: []}
        async with self._server() as server:
            for _ in range(3):
                for name, tenants in ((_CALLS_BY_ONE, many[:1]), (_CALLS_BY_MANY, many)):
                    arguments = (server.address, self._rate, self._seconds / 3, *tenants)
                    async with python("bench.tenant_calls", *arguments) as calling:
                        times = json.loads(await read_line(calling))
                    p99[name].append(percentile(times, 99))
                    self._case.add(name, "ms", p99[name][-1])
        one, all_tenants = map(statistics.median, p99.values())
        self._case.add(_FACTOR, "times", all_tenants / one)

    async def _create_webhooks(self, server: Server, url: str) -> None:
        names = iter(self._names)

        async def create() -> None:
            for name in names:
                await calls.call(events_pb2.CreateWebhookRequest(url=url), name)

        async with server.calls() as calls:
            await asyncio.gather(*(create() for _ in range(_CREATIONS)))

    async def _measure_rest(self, server: Server) -> None:
        await asyncio.sleep(self._seconds / 3)
        # The other server has no watches.
        shares = await cpu_shares(
            self._seconds, server=server.cpu_time, database=self._env.postgres_cpu_time
        )
        for part, share in (shares | {"server and database": sum(shares.values())}).items():
            self._case.add(f"{part} at rest", "%", share)

    def _server(self, **settings: Any) -> AbstractAsyncContextManager[Server]:
        streams = str(max(25_000, 3 * len(self._names)))
        # A tenant that makes all calls must not be refused for a burst.
        return self._env.server(JOBS_MAX_STREAMS=streams, JOBS_MAX_TENANT_CALLS="1000", **settings)

    def _add_calls(self, calls: list[Call], phase: str) -> None:
        self._case.add_percentiles(f"another tenant's {{}}, {phase}", "ms", milliseconds(calls))
        failed = sum(bool(error) for _, _, error in calls[:-1])  # the end cancels the last one
        self._case.add(f"another tenant's failed calls, {phase}", "", failed)


async def _open(clients: Clients) -> None:
    received = await (await clients.expect("first"))
    if received.ends:
        print(f"    ended while they opened: {dict(received.ends)}")


if __name__ == "__main__":
    run(
        "tenants",
        __doc__,
        _measure,
        Option("tenants", 10_000, "number of tenants", quick=60),
        Option("samples", 100, "tenants that change", quick=5),
        Option("seconds", 15.0, "seconds of each phase", quick=1.0),
        Option("rate", 600, "calls per second", quick=50),
    )
