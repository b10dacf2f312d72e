"""Measure how one tenant's load delays another tenant, and how fairness slows that load.

Run by `make bench-fairness`. A *quiet* tenant sends one GetJob after the other; others flood the
server, or open thousands of watches at once. The floods come from h2load, whose clients call
again as soon as they have an answer, also after a refusal. The phases of a case alternate: the
quiet tenant alone, the floods alone, both.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from bench import seed
from bench.environment import Environment, environment
from bench.figures import SERVICE, Results, percentile
from bench.h2load import h2load_version, run_flood
from bench.machine import describe_machine
from bench.page import describe, table
from bench.process import Server
from bench.requests import Call, grpc_call
from bench.run import InvalidRun, Option, run
from bench.watches import watch_clients

_QUIET, _WATCHING = "quiet", "watching"
_FLOODS = ("flood-1", "flood-2")

# Seconds between two calls of the quiet tenant.
_PAUSE = 0.002

# Seconds in which a flood reaches its rate.
_RAMP_UP = 1.0

_CONNECTIONS = 8

# Goals: the p99 of the quiet tenant during a flood, as a multiple of its p99 alone; the part of
# their rate that the floods keep; the p99 of the quiet tenant while the watches open.
_P99_FACTOR = 3
_RATE_PART = 0.85
_STORM_MS = 300


@dataclass(frozen=True)
class Case:
    """Tenants that flood the server at the same time."""

    name: str
    floods: int
    """Number of flooding tenants."""
    calls: int
    """Concurrent calls of each flooding tenant; JOBS_MAX_TENANT_CALLS refuses those beyond 100."""
    locked: bool = False
    """The floods call CancelJob for a locked job, which waits in the database; else GetJob."""


CASES = (
    Case("one flood", 1, 96),
    Case("two floods", 2, 96),
    Case("one flood that ignores refusals", 1, 200),
    Case("two floods that ignore refusals", 2, 200),
    Case("one flood that waits in the database", 1, 96, locked=True),
)

_STORM = "watches of one tenant open at once"
_STORM_FIGURES = ("maximum", "time to open", "memory per watch", "p99 with open watches")


async def _measure(args: argparse.Namespace) -> str:
    h2load = h2load_version()
    results = Results()
    async with environment() as env:
        for tenant, devices in (*((t, 10) for t in (_QUIET, *_FLOODS)), (_WATCHING, args.watches)):
            await seed.add_devices(env.owner, tenant, devices)
            await seed.add_job(env.owner, tenant, "j")
        await env.vacuum()
        for case in CASES:
            if args.only in case.name:
                async with env.server() as server:
                    for _ in range(args.runs):
                        await _flood(env, server, case, args.seconds, results)
        if args.only in _STORM:
            for _ in range(args.runs):
                async with env.server() as server:
                    await _watch_storm(server, args.watches, args.seconds, results)
        return _render(results, await describe_machine(env.owner) | {"h2load": h2load})


async def _flood(
    env: Environment, server: Server, case: Case, seconds: float, results: Results
) -> None:
    def add(figure: str, unit: str, value: float) -> None:
        results.add(figure, case.name, SERVICE, unit, value)

    make_call = _cancel if case.locked else _get
    calls = [make_call(server, tenant) for tenant in _FLOODS[: case.floods]]

    async def flood() -> float:
        """Return the rate of all floods together."""
        rates = [
            run_flood(
                call,
                connections=_CONNECTIONS,
                streams=case.calls // _CONNECTIONS,
                ramp_up=_RAMP_UP,
                seconds=seconds,
                response_bytes=len((await _get(server, _FLOODS[0]).send()).body),
            )
            for call in calls
        ]
        return sum(await asyncio.gather(*rates))

    async with _job_locks(env) if case.locked else nullcontext():
        add("p99 alone", "ms", percentile(await _quiet(server, seconds), 99))
        if not case.locked:
            add("rate alone", "/s", await flood())
        flooding = asyncio.create_task(flood())
        await asyncio.sleep(_RAMP_UP)
        add("p99", "ms", percentile(await _quiet(server, seconds), 99))
        rate = await flooding
        if not case.locked:
            add("rate", "/s", rate)


@asynccontextmanager
async def _job_locks(env: Environment) -> AsyncIterator[None]:
    async with env.owner.transaction():
        await env.owner.execute(
            "SELECT FROM jobs.job_progress WHERE tenant_id = ANY($1) FOR UPDATE", list(_FLOODS)
        )
        yield


async def _watch_storm(server: Server, watches: int, seconds: float, results: Results) -> None:
    def add(figure: str, unit: str, value: float) -> None:
        results.add(figure, f"{watches:,} {_STORM}", SERVICE, unit, value)

    add("p99 alone", "ms", percentile(await _quiet(server, seconds), 99))
    idle = server.resident_bytes()
    async with watch_clients(server, "WatchPendingExecutions", watches, [_WATCHING]) as clients:
        started = time.monotonic()
        opened = await clients.expect("first")
        latencies = await _quiet(server, 0.2)
        while not opened.done():
            latencies += await _quiet(server, 0.2)
        received = opened.result()
        if received.ends:
            raise InvalidRun(f"watches failed: {dict(received.ends)}")
        add("p99", "ms", percentile(latencies, 99))
        add("maximum", "ms", max(latencies))
        add("time to open", "s", max(received.times) - started)
        add("memory per watch", "KiB", (server.resident_bytes() - idle) / watches / 1024)
        add("p99 with open watches", "ms", percentile(await _quiet(server, seconds), 99))


async def _quiet(server: Server, seconds: float) -> list[float]:
    """Call GetJob for some seconds; return the latencies in milliseconds."""
    latencies = []
    request = pb.GetJobRequest(job_id="j")
    metadata = (("x-tenant-id", _QUIET),)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = jobs_pb2_grpc.JobServiceStub(channel)
        await channel.channel_ready()
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            try:
                await stub.GetJob(request, metadata=metadata)
            except grpc.aio.AioRpcError as e:
                raise InvalidRun(f"the quiet tenant's call failed: {e.details()}") from None
            latencies.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(_PAUSE)
    return latencies


def _get(server: Server, tenant: str) -> Call:
    return grpc_call(server.address, "GetJob", pb.GetJobRequest(job_id="j"), tenant=tenant)


def _cancel(server: Server, tenant: str) -> Call:
    return grpc_call(server.address, "CancelJob", pb.CancelJobRequest(job_id="j"), tenant=tenant)


def _render(results: Results, machine: Mapping[str, str]) -> str:
    """Return the machine, a row for each goal, and the storm's other figures, as Markdown."""
    rows = []
    for case in dict.fromkeys(figure.case for figure in results):
        alone, together = (results.find(name, case, SERVICE) for name in ("p99 alone", "p99"))
        assert alone
        assert together
        if case.endswith(_STORM):
            goal, result = f"≤ {_STORM_MS} ms", f"{together.median:.0f} ms"
            met = together.median <= _STORM_MS
        else:
            goal, result = f"≤ {_P99_FACTOR}×", f"{together.median / alone.median:.1f}×"
            met = together.median <= _P99_FACTOR * alone.median
        times = f"{alone.median:.1f} ms", f"{together.median:.1f} ms"
        rows.append([case, "quiet tenant's p99", *times, result, goal, _verdict(met)])
        alone, together = (results.find(name, case, SERVICE) for name in ("rate alone", "rate"))
        if alone and together:
            part = together.median / alone.median
            rates = f"{alone.median:,.0f}/s", f"{together.median:,.0f}/s"
            goal, met = f"≥ {_RATE_PART:.0%}", part >= _RATE_PART
            rows.append([case, "floods' rate", *rates, f"{part:.0%}", goal, _verdict(met)])
    text = table(["case", "measure", "alone", "together", "result", "goal", ""], rows)
    storm = [
        f"{figure.workload} {figure.format(figure.median)}"
        for figure in results
        if figure.case.endswith(_STORM) and figure.workload in _STORM_FIGURES
    ]
    if storm:
        text += f"\n\nThe watches: {', '.join(storm)}."
    return f"{describe(machine)}\n\n{text}"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


if __name__ == "__main__":
    run(
        "fairness",
        __doc__,
        _measure,
        Option("seconds", 2.0, "seconds per phase", quick=1),
        Option("runs", 3, "runs per case", quick=1),
        Option("watches", 6000, "watches of the storm", quick=60),
        Option("only", "", "only cases that contain this text"),
    )
