"""Measure what start times, windows and retry policies cost jobs that use none of them.

Run by `make bench-schedules`. The commit before these features and this version have a database
each, on the same PostgreSQL, and take turns. The figures are CPU times of PostgreSQL for the SQL
functions that calls run, as the request role, with the commit. Needs Linux and the history.
"""

import argparse
import asyncio
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import asyncpg

from bench.environment import SETTINGS
from bench.machine import describe_machine
from bench.page import RESULTS, describe, format_number, replace_figures
from bench.postgres import running_postgres
from bench.requests import TENANT, InvalidRun
from jobs_grpc.db.migrate import RequestRole
from jobs_grpc.db.store import ExecutionUpdate, Store
from jobs_grpc.dev.embedded_postgres import Cluster
from tests.chaos.system import THIS_VERSION, Code
from tests.support.database import store_on
from tests.upgrade.earlier_version import NoHistoryError, extract

BEFORE, NOW = "before", "now"
"""The names of the versions and of their databases."""

Figures: TypeAlias = dict[str, dict[str, list[float]]]
"""The CPU seconds of each call, by what was called and by version."""

COMMIT_BEFORE = "5372d2591"

_LARGE = "large"
"""A tenant with the devices of the largest job."""
_BATCH = 100
_LISTED = 10
_FACTORS = {"µs": 1e6, "ms": 1e3}


@dataclass(frozen=True)
class Scale:
    """How large, and how often."""

    created: int
    """Devices of a created job."""
    creations: int
    devices: int
    """Devices that work, each of which has `jobs` pending executions."""
    jobs: int
    fingerprints: int
    calls: int
    batches: int


FULL = Scale(
    created=100_000,
    creations=15,
    devices=8_000,
    jobs=12,
    fingerprints=25,
    calls=2_000,
    batches=300,
)
QUICK = Scale(created=200, creations=2, devices=200, jobs=12, fingerprints=2, calls=4, batches=2)


@dataclass(frozen=True)
class Version:
    """A database with the schema of a version, and the statements of that version."""

    name: str
    owner: asyncpg.Connection
    connection: asyncpg.Connection
    """As the request role."""
    store: Store
    devices: int

    async def cpu_time(self, call: Awaitable[object]) -> float:
        """Await a call and return the CPU seconds that its process of PostgreSQL used."""
        pid = self.connection.get_server_pid()
        before = _cpu_seconds(pid)
        await call
        return _cpu_seconds(pid) - before

    async def create(self, job_id: str, *, tenant: str = TENANT, **fields: Any) -> None:
        """Create a job for all devices of a tenant."""
        request = {"document_type": "bench", "target_all": True, "expires_in_hours": 24} | fields
        await self.store.create_job(
            tenant,
            job_id=job_id,
            request=json.dumps(request),
            document_params="{}",
            created_by="operator",
            max_targets=1_000_000,
            max_active_jobs=None,
            default_expires_in_hours=24,
        )

    async def update(self, updates: Sequence[ExecutionUpdate]) -> None:
        """Start executions or report on them, in one batch."""
        rows = await self.store.update_executions(TENANT, updates, wait_ms=1000)
        if any(cast("Any", row)["outcome"] != "APPLIED" for row in rows):
            raise InvalidRun(f"{self.name}: an update returned {rows[0]}")


def _cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used so far, to a microsecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def _create(version: Version, number: int) -> None:
    await version.create(f"created-{number}", tenant=_LARGE)


async def _list(version: Version, number: int) -> None:
    rows = await version.store.list_pending_executions(
        TENANT, device_id=_device(number), limit=_LISTED + 1
    )
    if len(rows) != _LISTED + 1:
        raise InvalidRun(f"{len(rows)} executions of {_device(number)} are pending")


async def _read_fingerprints(version: Version, number: int) -> None:
    devices = await version.owner.fetchval(
        "SELECT array_agg(device_id) FROM public.device_state WHERE tenant_id = $1", TENANT
    )
    changed = await version.store.changed_pending_fingerprints(
        [TENANT] * len(devices),
        device_ids=devices,
        limits=[_LISTED] * len(devices),
        fingerprints=[None] * len(devices),
    )
    if len(changed) != len(devices):
        raise InvalidRun(f"{len(changed)} devices have pending executions")


async def _start_next(version: Version, number: int) -> None:
    await version.update([ExecutionUpdate(None, _device(number), None, must_be_next=True)])


async def _report(version: Version, number: int) -> None:
    await version.update([ExecutionUpdate(_job(0), _device(number), "SUCCEEDED")])


async def _report_batch(version: Version, number: int) -> None:
    # The first job is that of _report.
    job, part = divmod(number, version.devices // _BATCH)
    devices = [_device(part * _BATCH + index) for index in range(_BATCH)]
    await version.update([ExecutionUpdate(_job(1 + job), d, "SUCCEEDED") for d in devices])


def _device(index: int) -> str:
    return f"d{index:07}"


def _job(index: int) -> str:
    return f"job-{index:02}"


@dataclass(frozen=True)
class Comparison:
    """A call that the versions take turns with, and how many times the earlier cost is allowed."""

    call: Callable[[Version, int], Awaitable[None]]
    count: int
    goal: float
    unit: str = "µs"


def _comparisons(scale: Scale) -> dict[str, Comparison]:
    # In this order: starts and reports end the executions that lists and watches read.
    return {
        f"CreateJob, {scale.created:,} devices": Comparison(_create, scale.creations, 1.02, "ms"),
        "ListPendingExecutions, limit 10": Comparison(_list, scale.calls, 1.07),
        f"fingerprints of {scale.devices:,} watching devices": Comparison(
            _read_fingerprints, scale.fingerprints, 1.04, "ms"
        ),
        "StartNextExecution": Comparison(_start_next, scale.calls, 1.12),
        "UpdateExecution, one report": Comparison(_report, scale.calls, 1.07),
        f"a batch of {_BATCH} reports": Comparison(_report_batch, scale.batches, 1.04),
    }


async def _compare(versions: Sequence[Version], scale: Scale) -> Figures:
    figures: Figures = {}
    for version in versions:
        await _fill(version, scale)
    for name, comparison in _comparisons(scale).items():
        values = figures[name] = {version.name: [] for version in versions}
        for number in range(comparison.count):
            # Neither version is always the first.
            for version in versions[:: -1 if number % 2 else 1]:
                seconds = await version.cpu_time(comparison.call(version, number))
                values[version.name].append(seconds)
                if comparison.call is _create:
                    await _delete_created(version)
        print(f"  {name}", flush=True)
    return figures


async def _fill(version: Version, scale: Scale) -> None:
    """Insert the devices and the jobs."""
    for tenant, devices in ((TENANT, scale.devices), (_LARGE, scale.created)):
        await version.owner.execute(
            "INSERT INTO public.device_state (tenant_id, device_id)"
            " SELECT $1, 'd' || lpad(n::text, 7, '0') FROM generate_series(0, $2 - 1) n",
            tenant,
            devices,
        )
    for index in range(scale.jobs):
        await version.create(_job(index))
    await version.owner.execute("VACUUM ANALYZE")
    await version.owner.execute("CHECKPOINT")


async def _delete_created(version: Version) -> None:
    for table in ("job_executions", "job_progress", "jobs"):
        await version.owner.execute(f"DELETE FROM jobs.{table} WHERE tenant_id = '{_LARGE}'")
        await version.owner.execute(f"VACUUM jobs.{table}")


def render(figures: Figures, machine: dict[str, str], scale: Scale) -> str:
    """Return the machine and the table as Markdown."""
    lines = [
        describe(machine),
        "",
        "| work | before | now | times | goal |",
        "|---|---|---|---|---|",
    ]
    for name, comparison in _comparisons(scale).items():
        before, now = (statistics.median(figures[name][version]) for version in (BEFORE, NOW))
        times = now / before
        missed = " missed" if scale == FULL and times > comparison.goal else ""
        factor = _FACTORS[comparison.unit]
        cells = (
            name,
            *(f"{format_number(value * factor)} {comparison.unit}" for value in (before, now)),
            f"{times:.3f}×",
            f"≤ {comparison.goal}×{missed}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table; with --page, keep it."""
    parser = argparse.ArgumentParser(prog="bench.schedules", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: check that the benchmark works"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the table to bench/results/schedules.md"
    )
    args = parser.parse_args()
    scale = QUICK if args.quick else FULL
    with tempfile.TemporaryDirectory(prefix="jobs-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL may run as another account, which must reach the folder.
        try:
            before = extract(COMMIT_BEFORE, folder / "before")
        except NoHistoryError as e:
            print(f"Commit {COMMIT_BEFORE} is not in this copy of the project: {e}")
            return
        with running_postgres(folder / "data", *SETTINGS) as cluster:
            try:
                figures, machine = asyncio.run(_measure(cluster, before, scale))
            except InvalidRun as e:
                sys.exit(f"invalid run: {e}")
    text = render(figures, machine, scale)
    print(text)
    if args.page:
        replace_figures(RESULTS / "schedules.md", text)


async def _measure(cluster: Cluster, before: Code, scale: Scale) -> tuple[Figures, dict[str, str]]:
    async with AsyncExitStack() as stack:
        versions = [
            await stack.enter_async_context(_version(cluster, name, code, scale))
            for name, code in ((BEFORE, before), (NOW, THIS_VERSION))
        ]
        figures = await _compare(versions, scale)
        return figures, await describe_machine(versions[0].owner)


@asynccontextmanager
async def _version(cluster: Cluster, name: str, code: Code, scale: Scale) -> AsyncIterator[Version]:
    """Create a database with the schema of a version."""
    role = RequestRole().name
    admin = await asyncpg.connect(cluster.dsn("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    await code.migrate(cluster.dsn(name), cluster.dsn(name, role))
    owner = await asyncpg.connect(cluster.dsn(name))
    for table in ("jobs", "job_executions", "job_progress"):
        await owner.execute(f"ALTER TABLE jobs.{table} SET (autovacuum_enabled = false)")
    connection = await asyncpg.connect(cluster.dsn(name, role))
    # Its statements pass the arguments that a server of the version passes.
    store = store_on(connection, store_class=_store_class(code))
    try:
        yield Version(name, owner, connection, store, scale.devices)
    finally:
        await connection.close()
        await owner.close()


def _store_class(code: Code) -> type[Store]:
    """Load the store of a version, with everything else of this version."""
    spec = importlib.util.spec_from_file_location(
        "store_of_version", code.folder / "jobs_grpc/db/store.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    store: type[Store] = module.Store
    return store


if __name__ == "__main__":
    main()
