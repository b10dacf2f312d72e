"""Measure queues and background work on tables with and without statistics.

Run by `make bench-queues`. PostgreSQL and the servers are separate processes. The tables are never
analyzed, as after an import or a restore, or analyzed. Three parts:

- cycles: devices start their next execution and report it as SUCCEEDED, through gRPC. One server
  runs on a never analyzed database, another on an analyzed copy; the phases alternate.
- rest: what a server with maintenance uses while no call arrives, and how long after its deadline
  an execution is stored as TIMED_OUT.
- statements: the rows that statements read, and their time.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import asyncpg
import grpc
import psutil
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.environment import SETTINGS, free_address, wait_until_serving
from bench.machine import describe_machine
from bench.page import RESULTS, describe, format_number, replace_figures
from bench.postgres import running_postgres, temporary_folder
from bench.process import PythonProcess, postgres_cpu_time
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.db.store import ExecutionUpdate, Store
from jobs_grpc.dev import embedded_postgres
from tests.support import shapes
from tests.support.database import store_on
from tests.support.rows_read import rows_read
from tests.support.shapes import Jobs, Shape

STATES = ("never analyzed", "analyzed")

_ROLE = RequestRole()
_CALLERS = 16
# A figure that takes longer counts as "over" this; the sweeper cancels its searches after 30 s.
_TIMEOUT = 60.0

CYCLES = {1: Jobs(1, 20_000), 400: Jobs(400, 200), 5000: Jobs(5_000, 200)}
REST = Jobs(5_600, 200)
QUEUES = {
    "4 jobs × 100,000 devices": Shape((Jobs(4, 100_000),)),
    "400 jobs × 200 devices": Shape((Jobs(400, 200),)),
    "1,500 jobs × 200 devices": Shape((Jobs(1_500, 200),)),
    "20,000 pending on one device": Shape((Jobs(20_000, 1),)),
    "the same after 5,000 of canceled jobs": Shape(
        (Jobs(5_000, 1, prefix="ended", canceled=True), Jobs(20_000, 1))
    ),
}

Figures = dict[str, float | None]
"""None: the statement was canceled."""


def main() -> None:
    """Measure and print tables; with --page, keep them."""
    parser = argparse.ArgumentParser(prog="bench.queues", description=__doc__)
    parser.add_argument("--parts", default="cycles,rest,statements", help="parts to measure [all]")
    parser.add_argument("--seconds", type=float, default=5, help="seconds per phase [5]")
    parser.add_argument("--runs", type=int, default=3, help="number of pairs of phases [3]")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: check that the benchmark works"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the tables to bench/results/queues.md"
    )
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.runs = 1, 1
    with temporary_folder() as folder, running_postgres(folder / "data", *SETTINGS) as cluster:
        result = asyncio.run(_measure(Bench(cluster, folder, args), args.parts))
    text = _render(result)
    print(text)
    if args.page:
        replace_figures(RESULTS / "queues.md", text)


@dataclass(frozen=True)
class Bench:
    """The cluster and the options of a run."""

    cluster: embedded_postgres.Cluster
    folder: Path
    args: argparse.Namespace

    def scaled(self, shape: Shape) -> Shape:
        """Return the shape, or a small one for a quick run."""
        return shapes.small(shape) if self.args.quick else shape

    @asynccontextmanager
    async def database(self, name: str, template: str = "") -> AsyncIterator[asyncpg.Connection]:
        """Create a database and yield its owner; without a template, migrate it."""
        admin = await asyncpg.connect(self.cluster.dsn("postgres"))
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template1'}")
        if not template:
            await migrate(self.cluster.dsn(name), _ROLE)
        owner = await asyncpg.connect(self.cluster.dsn(name))
        try:
            yield owner
        finally:
            await owner.close()
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await admin.close()

    @asynccontextmanager
    async def server(self, database: str, **variables: str) -> AsyncIterator["Server"]:
        """Run a server on a database."""
        address = free_address()
        async with PythonProcess(
            *("-m", "jobs_grpc.cli", "serve"),
            log=self.folder / "server.log",
            JOBS_DATABASE_URL=self.cluster.dsn(database, _ROLE.name),
            JOBS_LISTEN=address,
            JOBS_LOG_LEVEL="ERROR",
            **variables,
        ) as process:
            await _wait_until_serving(address)
            yield Server(address, psutil.Process(process.pid), self.folder / "data")


@dataclass(frozen=True)
class Server:
    """A server process, and the folder of its PostgreSQL."""

    address: str
    process: psutil.Process
    data: Path

    def cpu_times(self) -> tuple[float, float]:
        """Return the CPU seconds so far of the server and of PostgreSQL."""
        return sum(self.process.cpu_times()[:2]), postgres_cpu_time(self.data)


async def _wait_until_serving(address: str) -> None:
    async with asyncio.timeout(_TIMEOUT):
        while True:
            try:
                return await wait_until_serving(address)
            except grpc.aio.AioRpcError:  # The process does not listen yet.
                await asyncio.sleep(0.1)


async def _measure(bench: Bench, parts: str) -> dict[str, Any]:
    admin = await asyncpg.connect(bench.cluster.dsn("postgres"))
    result: dict[str, Any] = {"machine": await describe_machine(admin)}
    await admin.close()
    functions: dict[str, Callable[[Bench], Awaitable[Any]]] = {
        "cycles": _cycles,
        "rest": _rest,
        "statements": _statements,
    }
    for part in parts.split(","):
        result[part] = await functions[part](bench)
    return result


async def _cycles(bench: Bench) -> dict[str, dict[str, Figures]]:
    """Return the figures by pending executions per device and by state."""
    result: dict[str, dict[str, Figures]] = {}
    for pending, jobs in CYCLES.items():
        shape = bench.scaled(Shape((jobs,)))
        async with AsyncExitStack() as stack:
            owner = await stack.enter_async_context(bench.database("never"))
            await _fill(owner, shape)
            await owner.close()
            copy = await stack.enter_async_context(bench.database("analyzed", "never"))
            await shapes.analyze(copy)
            await copy.execute("CHECKPOINT")
            servers = [
                await stack.enter_async_context(bench.server(name))
                for name in ("never", "analyzed")
            ]
            runs: dict[str, list[Figures]] = {state: [] for state in STATES}
            devices = shape.jobs[0].devices
            for run in range(bench.args.runs + 1):
                for state, server in zip(STATES, servers, strict=True):
                    figures = await _run_devices(server, devices, run, bench.args.seconds)
                    if run:  # The first run is a warm-up.
                        runs[state].append(figures)
        result[str(pending)] = {
            state: {name: statistics.median(f[name] or 0 for f in figures) for name in figures[0]}
            for state, figures in runs.items()
        }
    return result


async def _run_devices(server: Server, devices: int, run: int, seconds: float) -> Figures:
    """Cycle for some seconds with as many devices at a time as there are callers."""
    count = 0
    # Each device of a fleet with one pending execution is used once.
    numbers = itertools.count(run * devices // 4)

    async def cycle_devices(stub: Any) -> None:
        nonlocal count
        while time.perf_counter() < end:
            metadata = (("x-tenant-id", "t"), ("x-device-id", f"d{next(numbers) % devices + 1}"))
            response = await stub.StartNextExecution(
                device_pb.StartNextExecutionRequest(), metadata=metadata
            )
            if response.HasField("execution"):
                request = device_pb.UpdateExecutionRequest(
                    job_id=response.execution.job_id, status=pb.JobExecution.SUCCEEDED
                )
                await stub.UpdateExecution(request, metadata=metadata)
                count += 1

    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
        before, started = server.cpu_times(), time.perf_counter()
        end = started + seconds
        await asyncio.gather(*(cycle_devices(stub) for _ in range(_CALLERS)))
        elapsed = time.perf_counter() - started
    cpu, postgres = (a - b for a, b in zip(server.cpu_times(), before, strict=True))
    return {
        "cycles per second": count / elapsed,
        "CPU of the server, ms per cycle": 1000 * cpu / max(count, 1),
        "CPU of PostgreSQL, ms per cycle": 1000 * postgres / max(count, 1),
    }


async def _rest(bench: Bench) -> Figures:
    """Return the share of a core at rest, and the delay of a timeout, never analyzed."""
    async with bench.database("rest") as owner:
        await _fill(owner, bench.scaled(Shape((REST,))))
        await owner.execute("CHECKPOINT")
        async with bench.server(
            "rest", JOBS_OWNER_DATABASE_URL=bench.cluster.dsn("rest")
        ) as server:
            seconds = 4 * bench.args.seconds
            before = server.cpu_times()
            await asyncio.sleep(seconds)
            cpu, postgres = (a - b for a, b in zip(server.cpu_times(), before, strict=True))
            return {
                "share of a core, server": cpu / seconds,
                "share of a core, PostgreSQL": postgres / seconds,
                "seconds until a passed deadline is stored": await _timeout_delay(owner, server),
            }


async def _timeout_delay(owner: asyncpg.Connection, server: Server) -> float:
    """Return how many seconds after its deadline an execution is stored as TIMED_OUT."""
    metadata = (("x-tenant-id", "t"), ("x-device-id", "d1"))
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
        response = await stub.StartNextExecution(
            device_pb.StartNextExecutionRequest(), metadata=metadata
        )
    key = "WHERE tenant_id = 't' AND device_id = 'd1' AND job_id = $1"
    job_id = response.execution.job_id
    await owner.execute(f"UPDATE jobs.job_executions SET times_out_at = now() {key}", job_id)
    started = time.perf_counter()
    status = f"SELECT status::text FROM jobs.job_executions {key}"
    while await owner.fetchval(status, job_id) != "TIMED_OUT":
        if time.perf_counter() - started > _TIMEOUT:
            break
        await asyncio.sleep(0.02)
    return time.perf_counter() - started


Statement = Callable[[asyncpg.Connection], Awaitable[object]]


def _start_next(count: int) -> Statement:
    updates = [ExecutionUpdate(None, f"d{n}", None, must_be_next=True) for n in range(1, count + 1)]
    return lambda c: Store(cast("Any", c)).update_executions("t", updates, wait_ms=1000)


def _search(connection: asyncpg.Connection) -> Awaitable[object]:
    return connection.fetch("SELECT * FROM jobs.timed_out_executions(1000, '{}', '{}')")


STATEMENTS: dict[str, Statement] = {
    "start of the next execution": _start_next(1),
    "100 starts of the next execution": _start_next(100),
    "pending list with limit 10": lambda c: Store(cast("Any", c)).list_pending_executions(
        "t", device_id="d1", limit=11
    ),
    "what a watch asks for one device": lambda c: store_on(c).changed_pending_fingerprints(
        ["t"], device_ids=["d1"], limits=[11], fingerprints=[None]
    ),
    "FAILED executions of a job": lambda c: Store(cast("Any", c)).list_job_executions(
        "t", job_id="j1", status="FAILED", after_device_id="", limit=101
    ),
    "search for passed deadlines": _search,
}


async def _statements(bench: Bench) -> dict[str, Figures]:
    """Return rows and milliseconds by data and statement, and by state."""
    result: dict[str, Figures] = {}
    for name, shape in QUEUES.items():
        async with bench.database("statements") as owner:
            await _fill(owner, bench.scaled(shape))
            for state in STATES:
                if state == "analyzed":
                    await shapes.analyze(owner)
                for statement, call in STATEMENTS.items():
                    figures = await _time_statement(bench, "statements", statement, call)
                    row = result.setdefault(f"{statement}: {name}", {})
                    row |= {f"{state}, {unit}": value for unit, value in figures.items()}
    return result


async def _time_statement(bench: Bench, database: str, name: str, call: Statement) -> Figures:
    role = None if name.startswith("search") else _ROLE.name
    dsn = bench.cluster.dsn(database, role) if role else bench.cluster.dsn(database)
    connection = await asyncpg.connect(dsn, server_settings={"statement_timeout": "30s"})
    times: list[float] = []
    rows: int | None = None
    try:
        for _ in range(4):  # The first call plans.
            started = time.perf_counter()
            rows = await rows_read(connection, call(connection))
            times.append((time.perf_counter() - started) * 1000)
    except asyncpg.QueryCanceledError:
        times = [30_000]
    finally:
        await connection.close()
    return {"rows": rows, "ms": min(times)}


async def _fill(owner: asyncpg.Connection, shape: Shape) -> None:
    await shapes.disable_autovacuum(owner)
    await shapes.fill(owner, shape)
    await shapes.fill_due(owner, shape)


def _render(result: dict[str, Any]) -> str:
    """Return Markdown tables."""
    lines = [describe(result["machine"])]
    if "cycles" in result:
        rows = {
            f"{pending}, {state}": list(figures.values())
            for pending, states in result["cycles"].items()
            for state, figures in states.items()
        }
        first = next(iter(next(iter(result["cycles"].values())).values()))
        lines += ["", *_table(["pending a device, tables", *first], rows)]
    if "statements" in result:
        first = next(iter(result["statements"].values()))
        rows = {name: list(figures.values()) for name, figures in result["statements"].items()}
        lines += ["", *_table(["statement: data", *first], rows)]
    if "rest" in result:
        rows = {name: [value] for name, value in result["rest"].items()}
        lines += ["", *_table(["5,600 jobs × 200 devices", "figure"], rows)]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: dict[str, list[float | None]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for name, values in rows.items():
        cells = ["–" if value is None else format_number(value) for value in values]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
