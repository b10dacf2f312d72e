"""Run a year of a fleet on one server, in about an hour.

Run by `make bench-year`. The time that the SQL takes moves in steps of three hours through a year,
in a database of its own; the clock of the machine does not change. bench/results/year.md says what
happens in each month, and what is compared. The run fails if what is stored differs from what was
acknowledged, or if the last month is beyond a goal.
"""

import argparse
from contextlib import AsyncExitStack
from dataclasses import replace

from bench.environment import environment
from bench.run import InvalidRun, Option, Report, run
from bench.samples import missed_goals
from bench.year.calls import Callers
from bench.year.consumers import Consumers
from bench.year.environment import SETTINGS, logged_errors, move_time, year_database, year_server
from bench.year.fleet import Directory, devices
from bench.year.ledger import Ledger
from bench.year.report import GOALS, render
from bench.year.scale import FULL, QUICK
from bench.year.year import Year
from tests.harness.consumers import running_receiver


async def _measure(args: argparse.Namespace) -> Report:
    scale = replace(FULL, tenants=args.tenants, devices=args.devices, months=tuple(args.months))
    scale = QUICK if args.quick else scale
    ledger = Ledger()
    for tenant in scale.tenant_ids:
        ledger.directories[tenant] = Directory(devices(scale.devices, scale.cohorts))
    async with AsyncExitStack() as stack:
        env = await stack.enter_async_context(environment(SETTINGS))
        database = await year_database(env, scale)
        receiver = await stack.enter_async_context(running_receiver(env.folder, ledger))
        consumers = Consumers(ledger, receiver)
        await move_time(database.owner, ledger, next(scale.steps()).at)
        both = await stack.enter_async_context(year_server(env, receiver.variables))
        year = Year(scale, database, Callers(both[0], ledger), consumers)
        async with database.request_sessions, consumers.running(*both):
            await year.run()
        text = await env.report(*render(year.samples, ledger, scale))
        errors = logged_errors(env.log)
    if errors or ledger.problems:
        print(text)
        logged = ["the server has logged:", *errors[:20]] if errors else []
        raise InvalidRun("\n".join(["a recount differs, or a call failed: see above", *logged]))
    return Report(text, missed_goals("month", year.samples, GOALS))


if __name__ == "__main__":
    run(
        "year",
        __doc__,
        _measure,
        Option("tenants", FULL.tenants, "number of tenants"),
        Option("devices", FULL.devices, "devices of each tenant"),
        Option("months", FULL.months, "the months that pass"),
    )
