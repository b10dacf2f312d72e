"""Measures what events cost the calls that add them.

The commit before events and this version have a database each, on the same PostgreSQL, and make
each call in turn. The figures are CPU times of PostgreSQL for the SQL functions of the calls, as
the request role, with the commit. Positions are assigned later: see the log of bench.events.
"""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

from bench import seed
from bench.requests import TENANT, InvalidRun
from bench.versions import BEFORE, NOW, Version, measure_in_turn, open_versions
from jobs_grpc.db.store import ExecutionUpdate
from jobs_grpc.dev.embedded_postgres import Cluster
from tests.upgrade.earlier_version import extract

COMMIT_BEFORE = "c968ac787"

COLUMNS = ("call", "µs before", "µs now", "times")

_BATCH = 100
_GROUP = "g"

_Call: TypeAlias = Callable[[Version, int], Awaitable[object]]


async def measure_writes(cluster: Cluster, folder: Path, calls: int) -> list[Sequence[Any]]:
    """Return the rows of a table with COLUMNS.

    Each figure is the median of `calls` calls; of those with 100 executions, of a tenth of them.
    Raises NoHistoryError.
    """
    before = extract(COMMIT_BEFORE, folder / BEFORE)
    batches = max(2, calls // 10)
    devices = _BATCH * (batches + 1)
    async with AsyncExitStack() as stack:
        versions = await open_versions(stack, cluster, before, devices)
        for version in versions:
            await _fill(version)
        rows: list[Sequence[Any]] = []
        for name, (call, count) in _calls(calls, batches).items():
            times = []
            for number in range(count):
                times.append(await measure_in_turn(versions, call, number))
                if number % 100 == 99:
                    await _sequence(versions[1])
            await _sequence(versions[1])
            old, new = (
                statistics.median(t[version] for t in times) * 1e6 for version in (BEFORE, NOW)
            )
            rows.append((name, old, new, new / old))
        await _check(versions[1], 2 + 4 * calls + 2 * batches)
        return rows


def _calls(calls: int, batches: int) -> Mapping[str, tuple[_Call, int]]:
    # In this order: the jobs of the first are paused, resumed and canceled.
    return {
        "CreateJob, 1 device": (_create, calls),
        f"CreateJob, {_BATCH} devices": (_create_for_group, batches),
        "PauseJob": (_pause, calls),
        "ResumeJob": (_resume, calls),
        "CancelJob": (_cancel, calls),
        f"a batch of {_BATCH} reports": (_report("reported"), batches),
        "the same, with `execution_events`": (_report("with-events"), batches),
    }


async def _create(version: Version, number: int) -> None:
    await version.create(f"job-{number}", target_device_id="d0000000")


async def _create_for_group(version: Version, number: int) -> None:
    await version.create(f"group-{number}", target_group_id=_GROUP)


async def _pause(version: Version, number: int) -> None:
    await version.store.pause_job(
        TENANT, job_id=f"job-{number}", reason="the error rate is too high", paused_by=None, etag=""
    )


async def _resume(version: Version, number: int) -> None:
    await version.store.resume_job(TENANT, job_id=f"job-{number}", etag="")


async def _cancel(version: Version, number: int) -> None:
    await version.store.cancel_job(TENANT, job_id=f"job-{number}", reason="", force=False)


def _report(job_id: str) -> _Call:
    async def report(version: Version, number: int) -> None:
        first = number * _BATCH
        await version.update(
            [
                ExecutionUpdate(job_id, f"d{first + n:07}", "SUCCEEDED" if n % 10 else "FAILED")
                for n in range(_BATCH)
            ]
        )

    return report


async def _fill(version: Version) -> None:
    """Insert the devices, and the jobs whose executions are reported."""
    await seed.add_devices(version.owner, TENANT, version.devices)
    await version.owner.execute(
        "INSERT INTO public.device_group_members (tenant_id, group_id, device_id)"
        " SELECT $1, $2, 'd' || lpad(n::text, 7, '0') FROM generate_series(0, $3 - 1) n",
        TENANT,
        _GROUP,
        _BATCH,
    )
    await version.create("reported")
    # The version before does not know the field.
    await version.create("with-events", execution_events=True)
    await version.owner.execute("VACUUM ANALYZE")
    await version.owner.execute("CHECKPOINT")


async def _check(version: Version, expected: int) -> None:
    """Check that each change has added an event, and the batches of one job one each."""
    events = await version.owner.fetchval("SELECT count(*) FROM jobs.events")
    if events != expected:
        raise InvalidRun(f"{events} events, not {expected}")


async def _sequence(version: Version) -> None:
    """Give the events their positions, as the sweeper does once a second."""
    while await version.connection.fetchval("SELECT jobs.sequence_queued_events($1)", TENANT):
        pass
    await version.owner.execute("VACUUM jobs.event_queue")
