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

import asyncpg
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.environment import Environment, environment
from bench.page import format_number, table, wrap
from bench.run import Option, run
from jobs_grpc.db.store import ExecutionUpdate, Store
from jobs_grpc.dev.embedded_postgres.account import unprivileged_account
from jobs_grpc.dev.embedded_postgres.binaries import find_binaries
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.database import store_on

SETTINGS = ("shared_buffers=512MB", "max_wal_size=4GB")

_TENANT = "acme"
_DEVICES_PER_JOB = 100_000
# What concurrent streams of reports reach: see Batches of updates in docs/architecture.md.
_BATCH = 100
_DOCUMENT = '{"url": "https://example.com/2.4.1.bin"}'
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

    env: Environment
    store: Store
    """On a connection of the request role."""
    executions: int
    phases: dict[str, Figures] = field(default_factory=dict)

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
        await self.env.owner.execute("CHECKPOINT")
        wal, cpu, start = await self._wal(), self.env.postgres_cpu_time(), time.monotonic()
        yield
        seconds = time.monotonic() - start
        cpu = self.env.postgres_cpu_time() - cpu
        sizes = await self.env.owner.fetchrow(_SIZES)
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
        return float(await self.env.owner.fetchval(sql))


async def _measure(args: argparse.Namespace) -> str:
    async with environment(SETTINGS) as env:
        request = await asyncpg.connect(env.dsn)
        bench = Bench(env, store_on(request), args.executions)
        await _run(bench)
        hot, dump = await _hot_ratios(bench), await _dump_and_restore(env)
        await _delete(bench)
        await request.close()
        size = wrap(
            f"{args.executions:,} executions, batches of {_BATCH}, one connection; settings:"
            f" {', '.join(f'`{setting}`' for setting in SETTINGS)}."
        )
        figures = table(["", ""], [*hot, *dump])
        return await env.report(size, _phases(bench), _million(bench), figures)


async def _run(bench: Bench) -> None:
    await bench.env.owner.execute(
        "INSERT INTO device_state (tenant_id, device_id)"
        " SELECT $1, 'device-' || lpad(n::text, 8, '0') FROM generate_series(1, $2::integer) n",
        _TENANT,
        bench.devices,
    )
    async with bench.phase("create"):
        for job_id in bench.jobs:
            request = pb.CreateJobRequest(
                job_id=job_id,
                document_type="firmware",
                target_all=True,
                expires_in_hours=24,
                in_progress_timeout_minutes=60,
            )
            await seed.create_job(bench.store, _TENANT, request, _DOCUMENT)
    first = next(_batches(bench, _start))
    async with bench.phase("start 100, after a checkpoint", len(first)):
        await _apply(bench, first)
    async with bench.phase("start"):
        await _update_all(bench, _start)
    async with bench.phase("report"):
        await _update_all(
            bench, lambda job, device: ExecutionUpdate(job, device, "SUCCEEDED", _DETAILS)
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


async def _hot_ratios(bench: Bench) -> list[list[str]]:
    """The part of the updates of each table that wrote no index entry."""
    rows = []
    for name in ("job_executions", "job_progress"):
        row = await bench.env.owner.fetchrow(_UPDATES, name)
        ratio = row["hot"] / row["updated"] if row and row["updated"] else 0.0
        rows.append([f"HOT updates of `{name}`", f"{ratio:.1%}"])
    return rows


async def _dump_and_restore(env: Environment) -> list[list[str]]:
    binaries = find_binaries(env.cluster.data_dir, unprivileged_account())
    file = env.folder / "capacity.dump"
    start = time.monotonic()
    await _run_tool(binaries / "pg_dump", "-Fc", "-f", file, env.owner_dsn)
    dumped = time.monotonic()
    await env.owner.execute("CREATE DATABASE restored")
    await _run_tool(binaries / "pg_restore", "--jobs=2", "-d", env.cluster.dsn("restored"), file)
    seconds = time.monotonic() - dumped
    await env.owner.execute("DROP DATABASE restored WITH (FORCE)")
    size = file.stat().st_size / _MIB
    return [
        ["`pg_dump -Fc`", f"{dumped - start:.1f} s, {size:.0f} MiB"],
        ["`pg_restore --jobs=2`", f"{seconds:.1f} s"],
    ]


async def _run_tool(*command: str | Path) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True)


async def _delete(bench: Bench) -> None:
    age = "UPDATE jobs.jobs SET updated_at = updated_at - interval '2 days'"
    await bench.env.owner.execute(age)
    # The phase ends first: the CPU of sessions that are just ending cannot be read.
    async with (
        Sweeper(bench.env.owner_dsn, retention_days=1, statement_timeout=_TIMEOUT) as sweeper,
        bench.phase("delete"),
    ):
        await sweeper.run_cleanup()
        await sweeper.run_cleanup()
    async with bench.phase("vacuum"):
        await bench.env.owner.execute("VACUUM jobs.job_executions")


def _phases(bench: Bench) -> str:
    head = (
        *("after", "seconds", "CPU of PostgreSQL, µs per execution"),
        *("WAL, bytes per execution", "table, MiB", "indexes, MiB"),
    )
    rows = []
    for name, figures in bench.phases.items():
        cells = (
            figures["seconds"],
            figures["cpu_seconds"] * 1_000_000 / figures["executions"],
            figures["wal"] / figures["executions"],
            figures["table"] / _MIB,
            figures["indexes"] / _MIB,
        )
        rows.append([name, *map(format_number, cells)])
    return table(head, rows)


def _million(bench: Bench) -> str:
    """Return what a million executions take from their creation to their completion."""
    factor = 1_000_000 / bench.executions
    phases = [bench.phases[name] for name in ("create", "start", "report")]
    seconds, cpu, wal = (
        factor * sum(figures[name] for figures in phases)
        for name in ("seconds", "cpu_seconds", "wal")
    )
    origin = "measured" if factor == 1 else f"calculated from these {bench.executions:,}"
    return wrap(
        f"A million executions, created, started and reported until their jobs are COMPLETED"
        f" ({origin}): {seconds:.0f} s on one connection, of which PostgreSQL uses {cpu:.0f} s of"
        f" CPU time; {wal / 1e9:.1f} GB of WAL."
    )


if __name__ == "__main__":
    run(
        "capacity",
        __doc__,
        _measure,
        Option("executions", 1_000_000, "number of executions", quick=1_000),
    )
