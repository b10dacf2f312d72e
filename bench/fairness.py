"""Measure how one tenant's load delays another tenant, and how fairness slows that load.

Run by `make bench-fairness`. A *quiet* tenant sends one GetJob after the other; others flood the
server, or open thousands of watches at once. The floods come from h2load, whose clients call
again as soon as they have an answer, also after a refusal. The phases of a case alternate: the
quiet tenant alone, the floods alone, both.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.environment import Environment, environment
from bench.figures import Case, Results, percentile, tables_by_case
from bench.h2load import h2load_version, run_flood
from bench.hostile.other_tenant import TENANT as QUIET
from bench.hostile.other_tenant import milliseconds, other_tenant_calls
from bench.process import Server
from bench.requests import Call, grpc_call
from bench.run import InvalidRun, Option, run
from bench.watches import watch_clients

_WATCHING = "watching"
_FLOODING = ("flood-1", "flood-2")
_TENANTS = (QUIET, *_FLOODING)

# Seconds in which a flood reaches its rate.
_RAMP_UP = 1.0

_CONNECTIONS = 8

_P99, _LOST = "p99 during / without flood", "flood throughput lost"

# Maximum acceptable values.
_GOALS = {_P99: 3, _LOST: 15, "p99 while they open": 300}


@dataclass(frozen=True)
class Flood:
    """Tenants that flood the server at the same time."""

    name: str
    floods: int
    """Number of flooding tenants."""
    calls: int
    """Concurrent calls of each flooding tenant; JOBS_MAX_TENANT_CALLS refuses those beyond 100."""
    locked: bool = False
    """The floods call CancelJob for a locked job, which waits in the database; else GetJob."""


FLOODS = (
    Flood("one flood", 1, 96),
    Flood("two floods", 2, 96),
    Flood("one flood that ignores refusals", 1, 200),
    Flood("two floods that ignore refusals", 2, 200),
    Flood("one flood that waits in the database", 1, 96, locked=True),
)

_STORM = "watches of one tenant open at once"


async def _measure(args: argparse.Namespace) -> str:
    h2load = h2load_version()
    results = Results()
    async with environment() as env:
        for tenant, devices in (dict.fromkeys(_TENANTS, 10) | {_WATCHING: args.watches}).items():
            await seed.add_devices(env.owner, tenant, devices)
            await seed.add_job(env.owner, tenant, "j")
        await env.vacuum()
        for flood in FLOODS:
            if args.only in flood.name:
                async with env.server() as server:
                    for _ in range(args.runs):
                        await _flood(env, server, flood, args.seconds, Case(results, flood.name))
        if args.only in _STORM:
            storm = Case(results, f"{args.watches:,} {_STORM}")
            for _ in range(args.runs):
                async with env.server() as server:
                    await _watch_storm(server, args.watches, args.seconds, storm)
        _compare(results)
        return await env.report(tables_by_case(results, _GOALS), h2load=h2load)


async def _flood(
    env: Environment, server: Server, flood: Flood, seconds: float, case: Case
) -> None:
    make_call = _cancel if flood.locked else _get
    calls = [make_call(server, tenant) for tenant in _FLOODING[: flood.floods]]

    async def rate() -> float:
        """Return the rate of all floods together."""
        rates = [
            run_flood(
                call,
                connections=_CONNECTIONS,
                streams=flood.calls // _CONNECTIONS,
                ramp_up=_RAMP_UP,
                seconds=seconds,
                response_bytes=len((await _get(server, _FLOODING[0]).send()).body),
            )
            for call in calls
        ]
        return sum(await asyncio.gather(*rates))

    async with _job_locks(env) if flood.locked else nullcontext():
        case.add("p99 alone", "ms", percentile(await _quiet(server, seconds), 99))
        if not flood.locked:
            case.add("rate alone", "/s", await rate())
        flooding = asyncio.create_task(rate())
        await asyncio.sleep(_RAMP_UP)
        case.add("p99", "ms", percentile(await _quiet(server, seconds), 99))
        together = await flooding
        if not flood.locked:
            case.add("rate", "/s", together)


@asynccontextmanager
async def _job_locks(env: Environment) -> AsyncIterator[None]:
    async with env.owner.transaction():
        await env.owner.execute(
            "SELECT FROM jobs.job_progress WHERE tenant_id = ANY($1) FOR UPDATE", [*_FLOODING]
        )
        yield


async def _watch_storm(server: Server, watches: int, seconds: float, case: Case) -> None:
    case.add("p99 alone", "ms", percentile(await _quiet(server, seconds), 99))
    idle = server.resident_bytes()
    async with watch_clients(server, "WatchPendingExecutions", watches, [_WATCHING]) as clients:
        async with other_tenant_calls(server.address) as calls:
            started = time.monotonic()
            received = await (await clients.expect("first"))
        latencies = milliseconds([call for call in calls if call[0] > started])
        if received.ends:
            raise InvalidRun(f"watches failed: {dict(received.ends)}")
        case.add("p99 while they open", "ms", percentile(latencies, 99))
        case.add("maximum", "ms", max(latencies))
        case.add("time to open", "s", max(received.times) - started)
        case.add("memory per watch", "KiB", (server.resident_bytes() - idle) / watches / 1024)
        case.add("p99 with open watches", "ms", percentile(await _quiet(server, seconds), 99))


async def _quiet(server: Server, seconds: float) -> list[float]:
    """Call GetJob for some seconds; return the latencies in milliseconds."""
    async with other_tenant_calls(server.address) as calls:
        await asyncio.sleep(seconds)
    # The end cancels the last call.
    if errors := [error for _, _, error in calls[:-1] if error]:
        raise InvalidRun(f"the quiet tenant's call failed: {errors[0]}")
    return milliseconds(calls)


def _get(server: Server, tenant: str) -> Call:
    return grpc_call(server.address, "GetJob", pb.GetJobRequest(job_id="j"), tenant=tenant)


def _cancel(server: Server, tenant: str) -> Call:
    return grpc_call(server.address, "CancelJob", pb.CancelJobRequest(job_id="j"), tenant=tenant)


def _compare(results: Results) -> None:
    """Add ratios of the medians during a flood to those without one."""
    for flood in FLOODS:
        medians = {each.workload: each.median for each in results if each.case == flood.name}
        case = Case(results, flood.name)
        if medians:
            case.add(_P99, "times", medians["p99"] / medians["p99 alone"])
        if "rate" in medians:
            case.add(_LOST, "%", 100 * (1 - medians["rate"] / medians["rate alone"]))


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
