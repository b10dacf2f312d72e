"""Measure the CPU time of the core calls in this version, and in an earlier one.

Run by `make bench-release`. Each version has a server and a database of its own, on the same
PostgreSQL and with the same libraries. They take turns in short batches of the same calls: before,
now, now, before. So what else the machine does slows down both. The figures are CPU times of the
server process with all its threads, and of its sessions of PostgreSQL. Needs Linux and the history.
"""

import argparse
import asyncio
import statistics
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
from fleet.jobs.v1.device_jobs_pb2 import ReportExecutionsRequest

from bench.core_calls import CoreCall, add_jobs, core_calls
from bench.environment import SETTINGS, running_postgres, temporary_folder
from bench.machine import describe_machine
from bench.page import describe, format_number, table
from bench.process import cpu_seconds, service
from bench.run import InvalidRun, Option, run
from jobs_grpc.client import JobsError
from jobs_grpc.db.migrate import RequestRole
from jobs_grpc.dev.embedded_postgres import Cluster
from tests.harness.calls import Calls, metadata
from tests.harness.system import THIS_VERSION, Code
from tests.upgrade.earlier_version import NoHistoryError, extract

COMMIT_BEFORE = "0be2f3477"
BEFORE, NOW = "before", "now"
"""The names of the versions."""

_CLIENTS = 4

_Times: TypeAlias = tuple[float, float]
"""CPU seconds of the server, and of its sessions of PostgreSQL."""

_Round: TypeAlias = dict[tuple[str, str], _Times]
"""The cost of a call by its name and that of the version."""

_HEAD = ("call", "CPU time of", "before", "now", "times (series)", "goal")


@dataclass(frozen=True)
class _Version:
    name: str
    pid: int
    """Of the server."""
    owner: asyncpg.Connection
    calls: Calls

    async def measure(self, call: CoreCall, first: int, count: int) -> _Times:
        """Make calls and return what they cost."""
        before = cpu_seconds([self.pid]), cpu_seconds(await self._sessions())
        numbers = iter(range(first, first + count))
        await asyncio.gather(*(self._send(call, numbers) for _ in range(_CLIENTS)))
        after = cpu_seconds([self.pid]), cpu_seconds(await self._sessions())
        return after[0] - before[0], after[1] - before[1]

    async def _send(self, call: CoreCall, numbers: Iterable[int]) -> None:
        for number in numbers:
            request, tenant, device = call.request(number)
            try:
                if isinstance(request, ReportExecutionsRequest):
                    stream = self.calls.method("ReportExecutions")
                    async for response in stream(iter([request]), metadata=metadata(tenant)):
                        if any(result.HasField("error") for result in response.results):
                            raise InvalidRun(f"{call.name}: {response.results[0]}")
                else:
                    await self.calls.call(request, tenant, device=device)
            except JobsError as e:
                raise InvalidRun(f"{call.name}: {e}") from None

    async def _sessions(self) -> list[int]:
        rows = await self.owner.fetch(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename <> current_user"
            " AND backend_type = 'client backend'"
        )
        return [row["pid"] for row in rows]


@asynccontextmanager
async def _database(
    cluster: Cluster, name: str, code: Code
) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """Create a database with the schema of a version.

    Yields a connection as its owner, and the DSN of the request role.
    """
    dsn = cluster.dsn(name, RequestRole().name)
    admin = await asyncpg.connect(cluster.dsn("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    await code.migrate(cluster.dsn(name), dsn)
    owner = await asyncpg.connect(cluster.dsn(name))
    for relation in ("jobs", "job_executions", "job_progress"):
        await owner.execute(f"ALTER TABLE jobs.{relation} SET (autovacuum_enabled = false)")
    try:
        yield owner, dsn
    finally:
        await owner.close()


@asynccontextmanager
async def _running(
    cluster: Cluster, name: str, database: str, code: Code, folder: Path, executions: int
) -> AsyncIterator[_Version]:
    """Run a server on a new database with at least that many executions."""
    async with (
        _database(cluster, database, code) as (owner, dsn),
        service(dsn, folder / f"{name}.log", **dict[str, Any](code.environ())) as server,
        server.calls() as calls,
    ):
        await add_jobs(owner, calls, executions)
        await owner.execute("VACUUM ANALYZE")
        yield _Version(name, server.process.pid, owner, calls)


async def _round(
    versions: Sequence[_Version], calls: Sequence[CoreCall], number: int, batch: int
) -> _Round:
    """Make a round of batches of each call."""
    times: _Round = {}
    for call in calls:
        # Neither version is always the first.
        first, second = versions[:: -1 if number % 2 else 1]
        costs: dict[str, list[_Times]] = {BEFORE: [], NOW: []}
        for version in (first, second, second, first):
            start = batch * (2 * number + len(costs[version.name]))
            costs[version.name].append(await version.measure(call, start, batch))
        for name, of_batches in costs.items():
            server, postgres = (
                sum(seconds) / (2 * batch) for seconds in zip(*of_batches, strict=True)
            )
            times[call.name, name] = server, postgres
    return times


async def _measure(args: argparse.Namespace) -> str:
    """Return the machine and a table as Markdown."""
    with temporary_folder() as folder:
        try:
            before = extract(args.before, folder / BEFORE)
        except NoHistoryError as e:
            return f"Commit {args.before} is not in this copy of the project: {e}"
        with running_postgres(folder, *SETTINGS) as cluster:
            return await _compare(cluster, before, args)


async def _compare(cluster: Cluster, before: Code, args: argparse.Namespace) -> str:
    # COMMIT_BEFORE has no directory of devices.
    calls = [
        call
        for call in core_calls()
        if args.before != COMMIT_BEFORE or not call.name.startswith("UpdateDevices")
    ]
    executions = 2 * args.batch * (args.rounds + 1)
    series: list[Sequence[_Round]] = []
    for number in range(args.series):
        async with AsyncExitStack() as stack:
            # New processes: two of the same code differ by several percent as long as they live.
            versions = [
                await stack.enter_async_context(
                    _running(cluster, name, f"{name}{number}", code, before.folder, executions)
                )
                for name, code in ((BEFORE, before), (NOW, THIS_VERSION))
            ]
            await _round(versions, calls, 0, args.batch)  # fills pools and caches
            rounds = range(1, 1 + args.rounds)
            series.append([await _round(versions, calls, n, args.batch) for n in rounds])
            machine = describe(await describe_machine(versions[0].owner))
        print(f"  series {number + 1}", flush=True)
    rows = [row for call in calls for row in _rows(call, series)]
    return f"{machine}\n\n{table(_HEAD, rows)}"


def _rows(call: CoreCall, series: Sequence[Sequence[_Round]]) -> Iterator[list[str]]:
    for part, process in enumerate(("server", "PostgreSQL")):
        before, now = (
            statistics.median(times[call.name, name][part] for rounds in series for times in rounds)
            for name in (BEFORE, NOW)
        )
        ratios = [
            statistics.median(
                times[call.name, NOW][part] / times[call.name, BEFORE][part] for times in rounds
            )
            for rounds in series
        ]
        times = statistics.median(ratios)
        missed = " missed" if times > call.goal else ""
        yield [
            call.name,
            process,
            *(f"{format_number(cost * 1e6)} µs" for cost in (before, now)),
            f"{times:.3f}× ({min(ratios):.3f}–{max(ratios):.3f})",
            f"≤ {call.goal}×{missed}" if process == "server" else "",
        ]


if __name__ == "__main__":
    run(
        "release",
        __doc__,
        _measure,
        Option("series", 5, "series of rounds, each with new servers", quick=2),
        Option("rounds", 15, "rounds of a series", quick=1),
        Option("batch", 50, "calls of a batch", quick=4),
        Option("before", COMMIT_BEFORE, "the earlier commit"),
    )
