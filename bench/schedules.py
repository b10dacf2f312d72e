"""Measure what start times, windows and retries cost, mostly for jobs that use none of them.

Run by `make bench-schedules`. The commit before these features is compared with this version: see
bench.comparison.
"""

import statistics
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from bench.comparison import (
    FACTORS,
    FULL,
    QUICK,
    Comparison,
    Comparisons,
    Scale,
    compare,
    create_for_all,
    device,
    fill,
    job,
    report,
    run,
    start_next,
)
from bench.page import format_number
from bench.requests import TENANT, InvalidRun
from bench.versions import BEFORE, NOW, Version, open_version
from jobs_grpc.db.store import ExecutionUpdate
from jobs_grpc.dev.embedded_postgres import Cluster
from tests.chaos.system import THIS_VERSION, Code

COMMIT_BEFORE = "5372d2591"

_BATCH = 100
_LISTED = 10


async def _list(version: Version, number: int) -> None:
    rows = await version.store.list_pending_executions(
        TENANT, device_id=device(number), limit=_LISTED + 1
    )
    if len(rows) != _LISTED + 1:
        raise InvalidRun(f"{len(rows)} executions of {device(number)} are pending")


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


async def _report_batch(version: Version, number: int) -> None:
    # The first job is that of `report`.
    finished, part = divmod(number, version.devices // _BATCH)
    devices = [device(part * _BATCH + index) for index in range(_BATCH)]
    await version.update([ExecutionUpdate(job(1 + finished), d, "SUCCEEDED") for d in devices])


def _comparisons(scale: Scale) -> Comparisons:
    # In this order: starts and reports end the executions that lists and watches read.
    return {
        f"CreateJob, {scale.created:,} devices": Comparison(
            create_for_all, scale.creations, 1.02, "ms"
        ),
        "ListPendingExecutions, limit 10": Comparison(_list, scale.calls, 1.07),
        f"fingerprints of {scale.devices:,} watching devices": Comparison(
            _read_fingerprints, scale.fingerprints, 1.04, "ms"
        ),
        "StartNextExecution": Comparison(start_next, scale.calls, 1.12),
        "UpdateExecution, one report": Comparison(report, scale.calls, 1.07),
        f"a batch of {_BATCH} reports": Comparison(_report_batch, scale.batches, 1.04),
    }


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

_Figures: TypeAlias = dict[str, dict[str, list[float]]]
"""CPU seconds by work, without and with the feature."""


async def _measure_use(version: Version, scale: Scale) -> _Figures:
    """Measure windows and retries where they are used, and the same work without them."""
    figures: _Figures = {name: {BEFORE: [], NOW: []} for name in _USED}
    await fill(version, scale)

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
        devices = [device(number * _BATCH + index) for index in range(_BATCH)]
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


def _render_use(figures: _Figures) -> str:
    """Return the table of _measure_use as Markdown."""
    lines = [
        "| work | without | with | more | times | goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, (unit, goal) in _USED.items():
        without, used = (
            statistics.median(figures[name][column]) * FACTORS[unit] for column in (BEFORE, NOW)
        )
        values = (*(f"{format_number(v)} {unit}" for v in (without, used, used - without)),)
        times = "" if name == WINDOW_TEST else f"{used / without:.2f}×"
        lines.append(f"| {' | '.join((name, *values, times, goal))} |")
    return "\n".join(lines)


async def _measure(cluster: Cluster, before: Code, scale: Scale) -> str:
    table = await compare(cluster, before, _comparisons(scale), scale)
    async with open_version(cluster, "use", THIS_VERSION, scale.devices) as version:
        return f"{table}\n\n{_render_use(await _measure_use(version, scale))}"


if __name__ == "__main__":
    run("schedules", __doc__, COMMIT_BEFORE, _measure, FULL, QUICK)
