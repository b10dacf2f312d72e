"""Measure what start times, windows and retries cost, mostly for jobs that use none of them.

Run by `make bench-schedules`. The commit before these features and this version have a database
each, on the same PostgreSQL, and take turns. The figures are CPU times of PostgreSQL for the SQL
functions that calls run, as the request role, with the commit. Needs Linux and the history.
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bench import seed
from bench.environment import SETTINGS
from bench.machine import describe_machine
from bench.page import RESULTS, describe, format_number, replace_figures
from bench.postgres import running_postgres, temporary_folder
from bench.requests import TENANT, InvalidRun
from bench.versions import BEFORE, NOW, Figures, Version, open_version
from jobs_grpc.db.store import ExecutionUpdate
from jobs_grpc.dev.embedded_postgres import Cluster
from tests.chaos.system import THIS_VERSION, Code
from tests.upgrade.earlier_version import NoHistoryError, extract

COMMIT_BEFORE = "5372d2591"

_LARGE = "large"
"""A tenant with the devices of the largest job."""
_BATCH = 100
_LISTED = 10
_FACTORS = {"µs": 1e6, "ms": 1e3}


@dataclass(frozen=True)
class Scale:
    """Sizes and numbers of calls."""

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
    creations=11,
    devices=8_000,
    jobs=12,
    fingerprints=15,
    calls=1_500,
    batches=200,
)
QUICK = Scale(created=200, creations=2, devices=200, jobs=12, fingerprints=2, calls=4, batches=2)


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
    """A call that both versions make in turn, and the maximum of its cost, as a factor."""

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


WINDOW_TEST = "a test of a start window"
OPEN, CLOSED = (
    f"fingerprints, one more job has {state} window" for state in ("an open", "a closed")
)
RETRIED = f"a batch of {_BATCH} failures that are all queued again"
_USED = {
    WINDOW_TEST: ("µs", "≤ 2.5 µs"),
    OPEN: ("ms", "≤ 40 ms more"),
    CLOSED: ("ms", "≤ 40 ms more"),
    RETRIED: ("ms", ""),
}
_WINDOW_TESTS = """
    SELECT count(*) FILTER (WHERE jobs.is_window_open(
        '{31,1320,360}', 'Europe/Berlin', '2026-07-01'::timestamptz + n * interval '7 minutes'
    ))
    FROM generate_series(1, $1::integer) AS n
"""
_NO_TESTS = """
    SELECT count(*) FILTER (WHERE '2026-07-01'::timestamptz + n * interval '7 minutes' IS NOT NULL)
    FROM generate_series(1, $1::integer) AS n
"""


async def _measure_use(version: Version, scale: Scale) -> Figures:
    """Measure windows and retries where they are used, and the same work without them."""
    figures: Figures = {name: {BEFORE: [], NOW: []} for name in _USED}
    await _fill(version, scale)

    async def add(name: str, column: str, call: Awaitable[object], count: int = 1) -> None:
        figures[name][column].append(await version.cpu_time(call) / count)

    tests = 50 * scale.calls
    for _ in range(scale.fingerprints):
        await add(WINDOW_TEST, BEFORE, version.connection.fetchval(_NO_TESTS, tests), tests)
        await add(WINDOW_TEST, NOW, version.connection.fetchval(_WINDOW_TESTS, tests), tests)

    windows = {OPEN: [127, 0, 1440], CLOSED: [_day_in_days(3), 720, 60]}
    await version.create(
        "windowed",
        # First in each queue, so that fingerprints cover it.
        priority="HIGH",
        start_windows=windows[OPEN],
        window_time_zone="Europe/Berlin",
        expires_in_hours=0,
    )
    set_windows = "UPDATE jobs.jobs SET start_windows = $1 WHERE job_id = 'windowed'"
    for number in range(scale.fingerprints):
        for name, window in windows.items():
            for column, value in ((BEFORE, None), (NOW, window)):
                await version.owner.execute(set_windows, value)
                await add(name, column, _read_fingerprints(version, number))

    rule = {
        "statuses": ["FAILED"],
        "failure_codes": [],
        "max_attempts": 10,
        "initial_backoff_seconds": 60,
        "backoff_multiplier": 1,
        "max_backoff_seconds": 60,
    }
    # The retry budget is 10 percent of the devices.
    await version.create("retried", retry_policy=[rule], expires_in_hours=0)
    await version.create("failed", expires_in_hours=0)
    for number in range(max(1, version.devices // 10 // _BATCH)):
        devices = [_device(number * _BATCH + index) for index in range(_BATCH)]
        for column, job_id in ((BEFORE, "failed"), (NOW, "retried")):
            updates = [ExecutionUpdate(job_id, d, "FAILED", failure_code="E") for d in devices]
            await add(RETRIED, column, version.update(updates))
    waiting = await version.owner.fetchval(
        "SELECT count(*) FROM jobs.job_executions WHERE job_id = 'retried' AND retries > 0"
    )
    if waiting < _BATCH * len(figures[RETRIED][NOW]) and version.devices > _BATCH * 10:
        raise InvalidRun(f"only {waiting} failures were queued again")
    return figures


def _day_in_days(days: int) -> int:
    """The bit of the day of the week that is this many days from now."""
    return 1 << (datetime.now(UTC) + timedelta(days=days)).weekday()


async def _fill(version: Version, scale: Scale) -> None:
    """Insert the devices and the jobs."""
    for tenant, devices in ((TENANT, scale.devices), (_LARGE, scale.created)):
        await seed.add_devices(version.owner, tenant, devices)
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


def render_use(figures: Figures) -> str:
    """Return the table of _measure_use as Markdown."""
    lines = [
        "| work | without | with | more | times | goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, (unit, goal) in _USED.items():
        without, used = (
            statistics.median(figures[name][column]) * _FACTORS[unit] for column in (BEFORE, NOW)
        )
        values = (*(f"{format_number(v)} {unit}" for v in (without, used, used - without)),)
        times = "" if name == WINDOW_TEST else f"{used / without:.2f}×"
        lines.append(f"| {' | '.join((name, *values, times, goal))} |")
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
    with temporary_folder() as folder:
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
    text = f"{render(figures, machine, scale)}\n\n{render_use(figures)}"
    print(text)
    if args.page:
        replace_figures(RESULTS / "schedules.md", text)


async def _measure(cluster: Cluster, before: Code, scale: Scale) -> tuple[Figures, dict[str, str]]:
    async with AsyncExitStack() as stack:
        versions = [
            await stack.enter_async_context(open_version(cluster, name, code, scale.devices))
            for name, code in ((BEFORE, before), (NOW, THIS_VERSION))
        ]
        figures = await _compare(versions, scale)
        use = await stack.enter_async_context(
            open_version(cluster, "use", THIS_VERSION, scale.devices)
        )
        figures |= await _measure_use(use, scale)
        return figures, await describe_machine(use.owner)


if __name__ == "__main__":
    main()
