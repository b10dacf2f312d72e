"""Measure what polls of devices behind bridges cost: one by one, and in batches.

Run by `make bench-bridges`. Two bridges poll for their devices with one call at a time, several,
and with StartNextExecutions. The figures are the CPU times per device of the server process with
all its threads, and of its sessions of PostgreSQL. Needs Linux.
"""

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fleet.jobs.v1 import device_jobs_pb2 as pb

from bench import seed
from bench.environment import Environment, environment
from bench.page import format_number, table
from bench.process import Server, connect, cpu_seconds
from bench.requests import TENANT
from bench.run import InvalidRun, Option, run
from tests.harness.calls import Calls, metadata, method_of

_BRIDGES = 2
_BATCH = 100

# For the cores that a fleet takes: its devices, and JOBS_POLL_AFTER.
_FLEET, _POLL_AFTER = 100_000, 60

_METADATA = [("x-tenant-id", TENANT), ("x-roles", "bridge")]


@dataclass(frozen=True)
class Way:
    """A way in which a bridge polls for its devices."""

    name: str
    poll: Callable[[Calls, Sequence[str]], Awaitable[int]]
    """Polls for devices and returns the number of executions."""
    devices: int = 1
    """Devices of a call."""
    at_once: int = 1
    """Calls that a bridge makes at a time."""


async def _call(calls: Calls, request: Any, device: str = "") -> Any:
    caller = [*_METADATA, *metadata("", device=device)]
    return await calls.method(method_of(request))(request, metadata=caller)


async def _start(calls: Calls, devices: Sequence[str]) -> int:
    response = await _call(calls, pb.StartNextExecutionRequest(), devices[0])
    return int(response.HasField("execution"))


async def _list(calls: Calls, devices: Sequence[str]) -> int:
    response = await _call(calls, pb.ListPendingExecutionsRequest(), devices[0])
    return len(response.executions)


async def _start_all(calls: Calls, devices: Sequence[str]) -> int:
    request = pb.StartNextExecutionsRequest(device_ids=devices)
    response = await _call(calls, request)
    if any(result.HasField("error") for result in response.results):
        raise InvalidRun(f"{response.results[0].error}")
    return sum(result.HasField("execution") for result in response.results)


_COMPARED = "StartNextExecution, 8 calls at a time"
_WAYS = (
    Way("StartNextExecution, one call at a time", _start),
    Way(_COMPARED, _start, at_once=8),
    Way("ListPendingExecutions, 8 calls at a time", _list, at_once=8),
    Way("StartNextExecutions, 100 devices", _start_all, devices=_BATCH),
)


async def _poll(
    env: Environment, server: Server, bridges: Sequence[Calls], way: Way, devices: Sequence[str]
) -> tuple[int, float, float]:
    """Poll once for each device. Returns the executions, and the CPU seconds per device."""
    chunks = iter([devices[n : n + way.devices] for n in range(0, len(devices), way.devices)])

    async def work(calls: Calls) -> int:
        return sum([await way.poll(calls, chunk) for chunk in chunks])

    pids = [server.process.pid], await _sessions(env)
    before = [cpu_seconds(each) for each in pids]
    found = sum(
        await asyncio.gather(*(work(calls) for calls in bridges for _ in range(way.at_once)))
    )
    used = [cpu_seconds(each) - start for each, start in zip(pids, before, strict=True)]
    return found, used[0] / len(devices), used[1] / len(devices)


async def _sessions(env: Environment) -> list[int]:
    rows = await env.owner.fetch(
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename <> current_user"
        " AND backend_type = 'client backend'"
    )
    return [row["pid"] for row in rows]


async def _measure(args: argparse.Namespace) -> str:
    async with environment() as env, AsyncExitStack() as stack:
        for relation in ("jobs", "job_executions", "job_progress"):
            await env.owner.execute(f"ALTER TABLE jobs.{relation} SET (autovacuum_enabled = false)")
        count = args.polled * len(_WAYS) * (args.rounds + 1)
        await seed.add_devices(env.owner, TENANT, count)
        await env.vacuum()
        server = await stack.enter_async_context(env.server())
        bridges = [
            await stack.enter_async_context(connect(server.address)) for _ in range(_BRIDGES)
        ]
        rows: list[list[str]] = []
        for case, expected in (("nothing", 0), ("an execution", 1)):
            if expected:
                await _create_job(env)
                await env.vacuum()
            costs: dict[str, list[tuple[float, float]]] = {way.name: [] for way in _WAYS}
            ids = iter([f"d{n:07}" for n in range(count)])
            for number in range(args.rounds + 1):
                for way in _WAYS[:: -1 if number % 2 else 1]:
                    devices = [next(ids) for _ in range(args.polled)]
                    found, *cost = await _poll(env, server, bridges, way, devices)
                    if found != expected * len(devices):
                        raise InvalidRun(f"{way.name}: {found} executions")
                    if number:  # the first round fills pools and caches
                        costs[way.name].append((cost[0], cost[1]))
            rows += _rows(case, costs)
        return await env.report(table(_HEAD, rows))


_HEAD = ("pending", "call", "server", "PostgreSQL", "together", "times", "100,000 devices")


def _rows(case: str, costs: dict[str, list[tuple[float, float]]]) -> Iterator[list[str]]:
    totals = {name: statistics.median(map(sum, values)) for name, values in costs.items()}
    for name, values in costs.items():
        parts = [statistics.median(part) for part in zip(*values, strict=True)]
        figures = (f"{format_number(1e6 * seconds)} µs" for seconds in (*parts, totals[name]))
        times = f"{totals[name] / totals[_COMPARED]:.2f}×"
        cores = format_number(totals[name] * _FLEET / _POLL_AFTER)
        yield [case, name, *figures, times, f"{cores} cores"]


async def _create_job(env: Environment) -> None:
    await env.owner.fetch(
        "SELECT * FROM jobs.create_job($1, 'j', $2, $3, NULL, 2000000, NULL, 24)",
        TENANT,
        '{"document_type": "firmware", "target_all": true}',
        '{"version": "2.1.0", "url": "https://example.com/firmware", "size": 1048576}',
    )


if __name__ == "__main__":
    run(
        "bridges",
        __doc__,
        _measure,
        Option("polled", 2000, "devices that a bridge polls for in a round", quick=200),
        Option("rounds", 10, "rounds", quick=1),
    )
