"""Measure whether speed, memory and sizes stay the same under steady churn.

Run by `make bench-soak`. A job for all devices is created every few seconds. Devices start and
report each execution, an operator reads, and old jobs are deleted. The server runs
maintenance; PostgreSQL has its default settings, except for those in SETTINGS. Each minute prints a
row with the main figures, and the end of the run tables with all of them. Ctrl-C ends the run; the
tables have what was measured until then.
"""

import argparse
import asyncio
import itertools
import signal
import statistics
import time
from collections import Counter, deque
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import psutil
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.environment import environment
from bench.machine import describe_machine
from bench.page import describe, format_number, table, wrap
from bench.process import Server
from bench.run import InvalidRun, Option, Report, run
from jobs_grpc.client import JobsError
from tests.harness.calls import Calls, method_of
from tests.support.server import open_channel

SETTINGS = ("shared_buffers=512MB", "max_wal_size=4GB")

_TENANT = "acme"
_CALLERS = 24
_MIB = 1 << 20
_TIMEOUT = 30.0

# The run fails if the memory of the last minute exceeds that of the first one by this factor.
_MAX_GROWTH = 1.25

_CALLS = ["CreateJob", "StartNextExecution", "UpdateExecution", "GetJob", "ListJobs", "DeleteJob"]

_TABLES = """
    SELECT c.relname AS table, pg_table_size(c.oid) AS bytes, pg_indexes_size(c.oid) AS index_bytes,
           s.n_live_tup AS live, s.n_dead_tup AS dead, s.n_tup_upd AS updated,
           s.n_tup_hot_upd AS hot, s.autovacuum_count AS vacuums,
           s.autoanalyze_count AS analyzes,
           EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.relid = c.oid) AS vacuuming
    FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
    WHERE c.relnamespace = 'jobs'::regnamespace
    ORDER BY c.relname
"""


@dataclass
class Minute:
    """The figures of one minute."""

    minute: float
    cycles_per_second: float
    waiting: int
    """Executions that no device has started yet."""
    milliseconds: dict[str, tuple[float, float]]
    """p50 and p99 of each call."""
    tables: dict[str, dict[str, Any]]
    server_mib: float
    postgres_mib: float
    """Private memory of all processes of PostgreSQL, without shared_buffers."""

    def __str__(self) -> str:
        """The main figures, for the terminal."""
        return (
            f"minute {self.minute:g}: {format_number(self.cycles_per_second)} cycles/s,"
            f" {self.waiting:,} waiting, tables {self.total('bytes') / _MIB:.1f} MiB,"
            f" server {self.server_mib:.1f} MiB"
        )

    def total(self, figure: str) -> int:
        """Return the sum of a figure over all tables."""
        return sum(int(table[figure]) for table in self.tables.values())


@dataclass
class Load:
    """The clients, on two connections."""

    args: argparse.Namespace
    operators: Calls
    devices: Calls
    failures: Counter[str] = field(default_factory=Counter)
    _waiting_devices: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)

    @property
    def waiting(self) -> int:
        """Executions that no device has started yet."""
        return self._waiting_devices.qsize()

    async def operate(self) -> None:
        """Create a job every few seconds, read jobs, and delete the oldest one."""
        loop = asyncio.get_running_loop()
        kept: deque[str] = deque()
        started = loop.time()
        for number in itertools.count():
            await asyncio.sleep(started + number * self.args.interval - loop.time())
            job_id = f"job-{number:06}"
            request = pb.CreateJobRequest(job_id=job_id, document_type="install", target_all=True)
            await self._call(request)
            kept.append(job_id)
            for device in range(self.args.devices):
                self._waiting_devices.put_nowait(f"d{device:06}")
            for read in kept:
                await self._call(pb.GetJobRequest(job_id=read))
                await self._call(pb.ListJobsRequest())
            if len(kept) > self.args.kept:
                await self._call(pb.DeleteJobRequest(job_id=kept.popleft()))

    async def work(self) -> None:
        """Act as one device after the other, and carry out its next execution."""
        while True:
            device = await self._waiting_devices.get()
            start = device_pb.StartNextExecutionRequest()
            response = await self._call(start, device)
            if response is None or not response.HasField("execution"):
                self.failures["StartNextExecution without an execution"] += 1
                continue
            report = device_pb.UpdateExecutionRequest(
                job_id=response.execution.job_id,
                execution_number=response.execution.execution_number,
                status=pb.JobExecution.SUCCEEDED,
            )
            await self._call(report, device)

    async def _call(self, request: Any, device: str = "") -> Any:
        calls = self.devices if device else self.operators
        try:
            return await calls.call(request, _TENANT, device=device, deadline=_TIMEOUT)
        except JobsError as e:
            self.failures[f"{method_of(request)}: {e.code.name} {e.message}"] += 1
            return None

    def take_latencies(self) -> dict[str, list[float]]:
        """Return the seconds that the calls took, by method, and forget them."""
        return self.operators.take_latencies() | self.devices.take_latencies()


def _problems(rows: list[Minute], failures: Counter[str], *, quick: bool) -> list[str]:
    """Return why the run fails."""
    problems = [f"{count:,} calls failed: {text}" for text, count in failures.most_common(5)]
    first, last = rows[0], rows[-1]
    if last.server_mib > first.server_mib * _MAX_GROWTH:
        problems.append(
            f"memory of the server grew from {first.server_mib:.1f} to {last.server_mib:.1f} MiB"
        )
    if quick:
        problems += [f"no figures of {call}" for call in _CALLS if call not in last.milliseconds]
    return problems


async def _measure(args: argparse.Namespace) -> Report:
    rows: list[Minute] = []
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        env = await stack.enter_async_context(environment(SETTINGS))
        await env.owner.execute(
            "INSERT INTO device_state (tenant_id, device_id)"
            " SELECT $1, 'd' || lpad(n::text, 6, '0') FROM generate_series(0, $2 - 1) n",
            _TENANT,
            args.devices,
        )
        machine = await describe_machine(env.owner)
        server = await stack.enter_async_context(env.maintaining_server())
        channels = [await stack.enter_async_context(open_channel(server.address)) for _ in range(2)]
        load = Load(args, Calls(channels[0]), Calls(channels[1]))
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(load.operate())]
            clients += [tasks.create_task(load.work()) for _ in range(_CALLERS)]
            for number in range(1, args.minutes + 1):
                started = time.monotonic()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), args.row)
                seconds = time.monotonic() - started
                # Less than half a minute shows little.
                if seconds > args.row / 2:
                    minute = number - 1 + min(1.0, round(seconds / args.row, 1))
                    rows.append(await _read(minute, seconds, load, env.owner, server))
                    print(rows[-1], flush=True)
                if stop.is_set():
                    break
            for client in clients:
                client.cancel()
    if not rows:
        raise InvalidRun("it ended before the first row")
    return Report(render(rows, machine, args), _problems(rows, load.failures, quick=args.quick))


async def _read(
    minute: float, seconds: float, load: Load, owner: asyncpg.Connection, server: Server
) -> Minute:
    calls = load.take_latencies()
    tables = {row["table"]: dict(row) for row in await owner.fetch(_TABLES)}
    return Minute(
        minute,
        len(calls["UpdateExecution"]) / seconds,
        load.waiting,
        {call: _percentiles(calls[call]) for call in _CALLS if calls.get(call)},
        {name: each for name, each in tables.items() if each["updated"] or each["live"]},
        server.resident_bytes() / _MIB,
        await asyncio.to_thread(_postgres_memory, await owner.fetchval("SELECT pg_backend_pid()")),
    )


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    """Return p50 and p99, in milliseconds."""
    ordered = sorted(seconds)
    return 1000 * statistics.median(ordered), 1000 * ordered[int(0.99 * (len(ordered) - 1))]


def _postgres_memory(backend: int) -> float:
    """Return the private MiB of PostgreSQL's processes; `backend` is the pid of a session."""
    postmaster = psutil.Process(backend).parent()
    assert postmaster
    total = 0
    for process in (postmaster, *postmaster.children()):
        try:
            total += process.memory_full_info().uss
        except psutil.NoSuchProcess:  # A session or a worker has ended.
            continue
    return total / _MIB


_HEAD = (
    "minute",
    "cycles/s",
    "waiting",
    *("create", "start", "report", "get", "list", "delete"),
    *("tables", "indexes", "dead rows", "vacuums", "server", "PostgreSQL"),
)
_UNITS = (
    "",
    "",
    "",
    *["ms"] * len(_CALLS),
    *("MiB", "MiB", "", "", "MiB", "MiB"),
)


def _cells(row: Minute) -> list[str]:
    latencies = (row.milliseconds.get(call) for call in _CALLS)
    running = sum(bool(table["vacuuming"]) for table in row.tables.values())
    return [
        f"{row.minute:g}",
        format_number(row.cycles_per_second),
        f"{row.waiting:,}",
        *("–" if each is None else "/".join(map(format_number, each)) for each in latencies),
        f"{row.total('bytes') / _MIB:.1f}",
        f"{row.total('index_bytes') / _MIB:.1f}",
        f"{row.total('dead'):,}",
        f"{row.total('vacuums')}{f' +{running}' if running else ''}",
        f"{row.server_mib:.1f}",
        f"{row.postgres_mib:.1f}",
    ]


# The columns of the two tables by minute, each narrow enough for a page.
_SPEED = tuple(range(_HEAD.index("tables")))
_SIZE = (0, *range(_HEAD.index("tables"), len(_HEAD)))


def render(rows: list[Minute], machine: dict[str, str], args: argparse.Namespace) -> str:
    """Return the figures as Markdown."""
    load = wrap(
        f"A job for {args.devices:,} devices every {args.interval:g} s, {_CALLERS} devices at"
        f" a time; the newest {args.kept} jobs are kept."
        f" Settings: {', '.join(f'`{setting}`' for setting in SETTINGS)}."
    )
    heads = [f"{h}, {u}" if u else h for h, u in zip(_HEAD, _UNITS, strict=True)]
    by_minute = [
        table([heads[c] for c in columns], ([_cells(row)[c] for c in columns] for row in rows))
        for columns in (_SPEED, _SIZE)
    ]
    first, last = rows[0].tables, rows[-1].tables
    sizes = []
    for name, sized in last.items():
        before, updated = first.get(name, sized), sized["updated"]
        sizes.append(
            [
                f"`{name}`",
                f"{before['bytes'] / _MIB:.1f}, {sized['bytes'] / _MIB:.1f}",
                f"{before['index_bytes'] / _MIB:.1f}, {sized['index_bytes'] / _MIB:.1f}",
                f"{before['dead']:,}, {sized['dead']:,}",
                f"{sized['hot'] / updated:.0%}" if updated else "–",
                f"{sized['vacuums']}, {sized['analyzes']}",
            ]
        )
    head = (
        *("table", "size, first and last minute, MiB", "indexes, MiB", "dead rows"),
        *("HOT updates", "autovacuum, analyze"),
    )
    return "\n\n".join([describe(machine), load, *by_minute, table(head, sizes)])


if __name__ == "__main__":
    run(
        "soak",
        __doc__,
        _measure,
        Option("minutes", 12, "rows of the tables", quick=3),
        Option("row", 60.0, "seconds of a row", quick=1.5),
        Option("devices", 1_500, "devices of a job", quick=40),
        Option("interval", 4.0, "seconds between two jobs", quick=0.25),
        Option("kept", 30, "jobs that are not deleted yet", quick=3),
    )
