"""Measure how much disk, WAL and CPU of PostgreSQL a million executions take.

Run by `make bench-capacity`. It calls the SQL functions of the service as the request role, without
a server: jobs of 100,000 devices are created, then each device starts its execution and reports it
as SUCCEEDED, in random order and in batches. Then the database is dumped and restored, and the
retention deletes everything. PostgreSQL has its default settings, except for those in SETTINGS.
"""

import argparse
import asyncio
import json
import random
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import asyncpg

from bench.machine import describe_machine
from bench.page import RESULTS, describe, format_number, replace_figures, wrap
from bench.postgres import running_postgres, temporary_folder
from bench.process import postgres_cpu_time
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.db.store import ExecutionUpdate, Store
from jobs_grpc.dev import embedded_postgres
from jobs_grpc.dev.embedded_postgres.account import unprivileged_account
from jobs_grpc.dev.embedded_postgres.binaries import find_binaries
from jobs_grpc.maintenance.sweeper import Sweeper

SETTINGS = ("shared_buffers=512MB", "max_wal_size=4GB")

_ROLE = RequestRole()
_TENANT = "acme"
_DEVICES_PER_JOB = 100_000
# What concurrent streams of reports reach: see Batches of updates in docs/architecture.md.
_BATCH = 100
_DETAILS = json.dumps({"firmware": "2.4.1", "duration_seconds": 312, "message": "installed"})
_TIMEOUT = 600.0
_MIB = 1 << 20

_SIZES = """
    SELECT pg_table_size('jobs.job_executions') AS table,
           pg_indexes_size('jobs.job_executions') AS indexes,
           pg_database_size(current_database()) AS database
"""
_UPDATES = """
    SELECT n_tup_upd AS updated, n_tup_hot_upd AS hot FROM pg_stat_user_tables
    WHERE schemaname = 'jobs' AND relname = $1
"""

Figures = dict[str, float]


@dataclass
class Bench:
    """The database, and what has been measured."""

    cluster: embedded_postgres.Cluster
    owner: asyncpg.Connection
    request: asyncpg.Connection
    executions: int
    phases: dict[str, Figures] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        """The store on the connection of the request role."""
        return Store(cast("Any", self.request))  # the store only calls `fetch`

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs."""
        return [f"job-{n}" for n in range(max(1, self.executions // _DEVICES_PER_JOB))]

    @property
    def devices(self) -> int:
        """The number of devices, which is that of the executions of each job."""
        return self.executions // len(self.jobs)

    @asynccontextmanager
    async def phase(self, name: str, executions: int | None = None) -> AsyncIterator[None]:
        """Measure a part, and the sizes afterwards. `executions`: how many it changes; None: all.

        A checkpoint precedes it, so that the first change of each page writes the whole page.
        """
        await self.owner.execute("CHECKPOINT")
        wal, cpu, start = await self._wal(), self._cpu(), time.monotonic()
        yield
        seconds = time.monotonic() - start
        cpu = self._cpu() - cpu
        sizes = await self.owner.fetchrow(_SIZES)
        assert sizes is not None
        self.phases[name] = {
            "executions": float(executions or self.executions),
            "seconds": seconds,
            "cpu_seconds": cpu,
            "wal": await self._wal() - wal,
            **{column: float(size) for column, size in sizes.items()},
        }

    async def _wal(self) -> float:
        sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8"
        return float(await self.owner.fetchval(sql))

    def _cpu(self) -> float:
        return postgres_cpu_time(self.cluster.data_dir)


def main() -> None:
    """Measure and print tables; with --page, keep them."""
    parser = argparse.ArgumentParser(prog="bench.capacity", description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000, help="[1000000]")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: check that the benchmark works"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the tables to bench/results/capacity.md"
    )
    args = parser.parse_args()
    if args.quick:
        args.executions = 1_000
    with temporary_folder() as folder, running_postgres(folder / "data", *SETTINGS) as cluster:
        result = asyncio.run(_measure(cluster, folder, args.executions))
    text = "\n".join(_render(result))
    print(text)
    if args.page:
        replace_figures(RESULTS / "capacity.md", text)


async def _measure(
    cluster: embedded_postgres.Cluster, folder: Path, executions: int
) -> dict[str, Any]:
    admin = await asyncpg.connect(cluster.dsn("postgres"))
    await admin.execute("CREATE DATABASE capacity")
    await migrate(cluster.dsn("capacity"), _ROLE)
    owner = await asyncpg.connect(cluster.dsn("capacity"))
    request = await asyncpg.connect(cluster.dsn("capacity", _ROLE.name))
    bench = Bench(cluster, owner, request, executions)
    await _run(bench, folder)
    result = {
        "machine": await describe_machine(owner, ["asyncpg"]),
        "settings": list(SETTINGS),
        "executions": executions,
        "phases": bench.phases,
        "hot": await _hot_ratios(bench),
        "dump": await _dump_and_restore(bench, admin, folder),
    }
    await _delete(bench)
    for connection in (owner, request, admin):
        await connection.close()
    return result


async def _run(bench: Bench, folder: Path) -> None:
    await bench.owner.execute(
        "INSERT INTO device_state (tenant_id, device_id)"
        " SELECT $1, 'device-' || lpad(n::text, 8, '0') FROM generate_series(1, $2::integer) n",
        _TENANT,
        bench.devices,
    )
    async with bench.phase("create"):
        for job_id in bench.jobs:
            await _create(bench, job_id)
    first = next(_batches(bench, _start))
    async with bench.phase("start 100, after a checkpoint", len(first)):
        await _apply(bench, first)
    async with bench.phase("start"):
        await _update_all(bench, _start)
    async with bench.phase("report"):
        await _update_all(
            bench, lambda job, device: ExecutionUpdate(job, device, "SUCCEEDED", _DETAILS)
        )


async def _create(bench: Bench, job_id: str) -> None:
    await bench.store.create_job(
        _TENANT,
        job_id=job_id,
        request=json.dumps(
            {
                "document_type": "firmware",
                "target_all": True,
                "expires_in_hours": 24,
                "in_progress_timeout_minutes": 60,
            }
        ),
        document_params='{"url": "https://example.com/2.4.1.bin"}',
        created_by="olivia",
        max_targets=bench.devices,
        max_active_jobs=None,
        default_expires_in_hours=24,
    )


async def _update_all(bench: Bench, make_update: Callable[[str, str], ExecutionUpdate]) -> None:
    for batch in _batches(bench, make_update):
        await _apply(bench, batch)


async def _apply(bench: Bench, batch: list[ExecutionUpdate]) -> None:
    rows = await bench.store.update_executions(_TENANT, batch, wait_ms=60_000)
    if any(row["outcome"] not in ("APPLIED", "REPEATED") for row in rows):
        raise RuntimeError(f"a batch of {batch[0].job_id} was not applied")


def _start(job_id: str, device_id: str) -> ExecutionUpdate:
    return ExecutionUpdate(job_id, device_id, None)


def _batches(
    bench: Bench, make_update: Callable[[str, str], ExecutionUpdate]
) -> Iterator[list[ExecutionUpdate]]:
    order = random.Random(1)  # noqa: S311 - the same order in each run
    for job_id in bench.jobs:
        devices = [f"device-{n:08}" for n in range(1, bench.devices + 1)]
        order.shuffle(devices)
        for first in range(0, len(devices), _BATCH):
            yield [make_update(job_id, device) for device in devices[first : first + _BATCH]]


async def _hot_ratios(bench: Bench) -> Figures:
    """The part of the updates of each table that wrote no index entry."""
    ratios = {}
    for table in ("job_executions", "job_progress"):
        row = await bench.owner.fetchrow(_UPDATES, table)
        ratios[table] = row["hot"] / row["updated"] if row and row["updated"] else 0.0
    return ratios


async def _dump_and_restore(bench: Bench, admin: asyncpg.Connection, folder: Path) -> Figures:
    binaries = find_binaries(bench.cluster.data_dir, unprivileged_account())
    file = folder / "capacity.dump"
    start = time.monotonic()
    await _run_tool(binaries / "pg_dump", "-Fc", "-f", file, bench.cluster.dsn("capacity"))
    dumped = time.monotonic()
    await admin.execute("CREATE DATABASE restored")
    restored = bench.cluster.dsn("restored")
    await _run_tool(binaries / "pg_restore", "--jobs=2", "-d", restored, file)
    figures = {
        "dump_seconds": dumped - start,
        "restore_seconds": time.monotonic() - dumped,
        "bytes": float(file.stat().st_size),
    }
    await admin.execute("DROP DATABASE restored WITH (FORCE)")
    return figures


async def _run_tool(*command: str | Path) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True)


async def _delete(bench: Bench) -> None:
    await bench.owner.execute("UPDATE jobs.jobs SET updated_at = updated_at - interval '2 days'")
    dsn = bench.cluster.dsn("capacity")
    # The phase ends first: the CPU of sessions that are just ending cannot be read.
    async with (
        Sweeper(dsn, retention_days=1, statement_timeout=_TIMEOUT) as sweeper,
        bench.phase("delete"),
    ):
        await sweeper.run_cleanup()
        await sweeper.run_cleanup()
    async with bench.phase("vacuum"):
        await bench.owner.execute("VACUUM jobs.job_executions")


def _render(result: dict[str, Any]) -> Iterator[str]:
    executions = result["executions"]
    yield describe(result["machine"])
    yield ""
    yield wrap(
        f"{executions:,} executions, batches of {_BATCH}, one connection; settings:"
        f" {', '.join(f'`{setting}`' for setting in result['settings'])}."
    )
    yield ""
    yield (
        "| after | seconds | CPU of PostgreSQL, µs per execution | WAL, bytes per execution"
        " | table, MiB | indexes, MiB |"
    )
    yield "|---|---|---|---|---|---|"
    for name, figures in result["phases"].items():
        cells = (
            figures["seconds"],
            figures["cpu_seconds"] * 1_000_000 / figures["executions"],
            figures["wal"] / figures["executions"],
            figures["table"] / _MIB,
            figures["indexes"] / _MIB,
        )
        yield f"| {name} | {' | '.join(format_number(cell) for cell in cells)} |"
    yield ""
    yield _million(result)
    yield ""
    yield "| | |"
    yield "|---|---|"
    for table, ratio in result["hot"].items():
        yield f"| HOT updates of `{table}` | {ratio:.1%} |"
    dump = result["dump"]
    yield f"| `pg_dump -Fc` | {dump['dump_seconds']:.1f} s, {dump['bytes'] / _MIB:.0f} MiB |"
    yield f"| `pg_restore --jobs=2` | {dump['restore_seconds']:.1f} s |"


def _million(result: dict[str, Any]) -> str:
    """Return what a million executions take from their creation to their completion."""
    factor = 1_000_000 / result["executions"]
    phases = [result["phases"][name] for name in ("create", "start", "report")]
    seconds, cpu, wal = (
        factor * sum(figures[name] for figures in phases)
        for name in ("seconds", "cpu_seconds", "wal")
    )
    origin = "measured" if factor == 1 else f"calculated from these {result['executions']:,}"
    return wrap(
        f"A million executions, created, started and reported until their jobs are COMPLETED"
        f" ({origin}): {seconds:.0f} s on one connection, of which PostgreSQL uses {cpu:.0f} s of"
        f" CPU time; {wal / 1e9:.1f} GB of WAL."
    )


if __name__ == "__main__":
    main()
