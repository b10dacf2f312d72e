"""Compares what calls cost in this version with what they cost in an earlier one.

The versions have a database each, on the same PostgreSQL, and take turns. The figures are CPU times
of PostgreSQL for the SQL functions that calls run, as the request role, with the commit. Needs
Linux and the history.
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from bench import seed
from bench.environment import SETTINGS
from bench.machine import describe_machine
from bench.page import RESULTS, describe, format_number, replace_figures
from bench.postgres import running_postgres, temporary_folder
from bench.requests import TENANT, InvalidRun
from bench.versions import BEFORE, NOW, Version, measure_in_turn, open_versions
from jobs_grpc.db.store import ExecutionUpdate
from jobs_grpc.dev.embedded_postgres import Cluster
from tests.chaos.system import Code
from tests.upgrade.earlier_version import NoHistoryError, extract

_CREATING = "creating"
"""A tenant with the devices of the largest job, for which jobs are created."""
FACTORS = {"µs": 1e6, "ms": 1e3}


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


@dataclass(frozen=True)
class Comparison:
    """A call that both versions make in turn, and the maximum of its cost, as a factor."""

    call: Callable[[Version, int], Awaitable[object]]
    count: int
    goal: float
    unit: str = "µs"


AnyScale = TypeVar("AnyScale")

Comparisons: TypeAlias = Mapping[str, Comparison]


def run(
    name: str,
    doc: str | None,
    commit_before: str,
    measure: Callable[[Cluster, Code, AnyScale], Coroutine[Any, Any, str]],
    full: AnyScale,
    quick: AnyScale,
) -> None:
    """Run bench.NAME from the command line: print what `measure` returns; with --page, keep it."""
    parser = argparse.ArgumentParser(prog=f"bench.{name}", description=doc)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: check that the benchmark works"
    )
    parser.add_argument(
        "--page", action="store_true", help=f"write the tables to bench/results/{name}.md"
    )
    parser.add_argument("--before", default=commit_before, help="the earlier commit (%(default)s)")
    args = parser.parse_args()
    with temporary_folder() as folder:
        try:
            before = extract(args.before, folder / BEFORE)
        except NoHistoryError as e:
            print(f"Commit {args.before} is not in this copy of the project: {e}")
            return
        with running_postgres(folder / "data", *SETTINGS) as cluster:
            try:
                text = asyncio.run(measure(cluster, before, quick if args.quick else full))
            except InvalidRun as e:
                sys.exit(f"invalid run: {e}")
    print(text)
    if args.page:
        replace_figures(RESULTS / f"{name}.md", text)


async def compare(cluster: Cluster, before: Code, comparisons: Comparisons, scale: Scale) -> str:
    """Return the machine and a table as Markdown."""
    async with AsyncExitStack() as stack:
        versions = await open_versions(stack, cluster, before, scale.devices)
        for version in versions:
            await fill(version, scale)
        rows = [
            "| work | before | now | times | goal |",
            "|---|---|---|---|---|",
        ]
        for name, comparison in comparisons.items():
            times = [
                await measure_in_turn(versions, comparison.call, number)
                for number in range(comparison.count)
            ]
            medians = [statistics.median(t[version] for t in times) for version in (BEFORE, NOW)]
            rows.append(_row(name, comparison, *medians, is_full=scale == FULL))
            print(f"  {name}", flush=True)
        machine = describe(await describe_machine(versions[0].owner))
        return "\n".join([machine, "", *rows])


def _row(name: str, comparison: Comparison, before: float, now: float, *, is_full: bool) -> str:
    times = now / before
    missed = " missed" if is_full and times > comparison.goal else ""
    costs = (
        f"{format_number(value * FACTORS[comparison.unit])} {comparison.unit}"
        for value in (before, now)
    )
    return f"| {' | '.join((name, *costs, f'{times:.3f}×', f'≤ {comparison.goal}×{missed}'))} |"


async def fill(version: Version, scale: Scale) -> None:
    """Insert the devices and the jobs."""
    for tenant, devices in ((TENANT, scale.devices), (_CREATING, scale.created)):
        await seed.add_devices(version.owner, tenant, devices)
    for index in range(scale.jobs):
        await version.create(job(index))
    await version.owner.execute("VACUUM ANALYZE")
    await version.owner.execute("CHECKPOINT")


def device(index: int) -> str:
    """Return the ID of a device."""
    return f"d{index:07}"


def job(index: int) -> str:
    """Return the ID of a job of all devices that work."""
    return f"job-{index:02}"


async def create_for_all(version: Version, number: int) -> None:
    """Create a job of `Scale.created` devices; the owner, who is not measured, deletes it."""
    await version.create(f"created-{number}", tenant=_CREATING)
    for table in ("job_executions", "job_progress", "jobs"):
        await version.owner.execute(f"DELETE FROM jobs.{table} WHERE tenant_id = '{_CREATING}'")
        await version.owner.execute(f"VACUUM jobs.{table}")


async def start_next(version: Version, number: int) -> None:
    """Start the next execution of a device, which is that of the first job."""
    await version.update([ExecutionUpdate(None, device(number), None, must_be_next=True)])


async def report(version: Version, number: int) -> None:
    """Report that a device has carried out the first job."""
    await version.update([ExecutionUpdate(job(0), device(number), "SUCCEEDED")])
