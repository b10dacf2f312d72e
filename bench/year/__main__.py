"""Run a year of a fleet on one server, in about an hour.

Run by `make bench-year`. The time that the SQL takes moves in steps of three hours through a year,
in a database of its own; the clock of the machine does not change. bench/results/year.md says what
happens in each month, and what is compared. The run fails if what is stored differs from what was
acknowledged, or if the last month is beyond a goal.
"""

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from bench.machine import describe_machine
from bench.page import RESULTS, replace_figures
from bench.postgres import running_postgres, temporary_folder
from bench.year.calls import Calls, Clock
from bench.year.consumers import running_consumers
from bench.year.environment import SETTINGS, logged_errors, move_time, year_database, year_server
from bench.year.fleet import Directory, devices
from bench.year.ledger import Ledger
from bench.year.report import missed_goals, render
from bench.year.scale import FULL, QUICK, Scale
from bench.year.year import Year
from jobs_grpc.dev.embedded_postgres import Cluster


def main() -> None:
    """Run the year and print the figures; with --page, keep them."""
    parser = argparse.ArgumentParser(prog="bench.year", description=__doc__)
    parser.add_argument("--tenants", type=int, default=FULL.tenants, help="[50]")
    parser.add_argument("--devices", type=int, default=FULL.devices, help="of each tenant [4000]")
    parser.add_argument(
        "--months", default="", help="the months that pass, such as 1,2,3,11,12 [all]"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: check that the benchmark works"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the tables to bench/results/year.md"
    )
    args = parser.parse_args()
    scale = QUICK if args.quick else replace(FULL, tenants=args.tenants, devices=args.devices)
    if args.months:
        scale = replace(scale, months=tuple(map(int, args.months.split(","))))
    ledger = Ledger(
        {tenant: Directory(devices(scale.devices, scale.cohorts)) for tenant in scale.tenant_ids}
    )
    with temporary_folder() as folder:
        with running_postgres(folder / "data", *SETTINGS) as cluster:
            year, machine = asyncio.run(_run(scale, ledger, folder, cluster))
        errors = logged_errors(folder)
    text = render(year.samples, ledger, machine, scale)
    print(f"\n{text}")
    if errors:
        sys.exit("\n".join(["the server has logged:", *errors[:20]]))
    if ledger.problems:
        sys.exit("a recount differs, or a call failed: see above")
    if args.page:
        replace_figures(RESULTS / "year.md", text)
    if missed := missed_goals(year.samples):
        sys.exit("\n".join(missed))


async def _run(
    scale: Scale, ledger: Ledger, folder: Path, cluster: Cluster
) -> tuple[Year, dict[str, str]]:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(year_database(cluster, scale))
        consumers = await stack.enter_async_context(running_consumers(folder, ledger))
        clock = Clock()
        await move_time(database.owner, clock, next(scale.steps()).at)
        channels = await stack.enter_async_context(year_server(database, folder, consumers))
        calls = Calls(*channels, ledger, clock)
        year = Year(scale, database, calls, consumers)
        async with consumers.running(calls):
            await year.run()
        return year, await describe_machine(database.owner)


if __name__ == "__main__":
    main()
