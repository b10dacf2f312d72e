"""Compare the service with a running Eclipse hawkBit update server, for the same work.

Start hawkBit first, with an empty database: bench/results/hawkbit.md says how. The service runs on
a PostgreSQL server of its own. Both are measured one after the other, by the same Python client.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Sequence

from bench.environment import environment
from bench.figures import SERVICE, Results
from bench.hawkbit.service import Service
from bench.hawkbit.update_server import UpdateServer
from bench.page import format_number, table
from bench.run import InvalidRun, Option, run

System = UpdateServer | Service

HAWKBIT = "hawkbit"

_CALLERS = (16, 64)
_CYCLES = 1000

_WARM_UPS = 3
_WARM_UP_DEVICES = 400


async def _run(args: argparse.Namespace) -> str:
    results = Results()
    async with environment() as env:
        async with env.server() as server:
            await _measure(SERVICE, Service(server.address, env.owner), args.sizes, results)
        machine = await env.report(
            **{"hawkBit": args.version, "hawkBit's database": args.database},
        )
    hawkbit = UpdateServer(args.url, args.user, args.password)
    await _measure(HAWKBIT, hawkbit, args.sizes, results)
    return f"{machine}\n\n{render(results)}"


async def _measure(subject: str, system: System, sizes: Sequence[int], results: Results) -> None:
    async def measure(case: str, work: Awaitable[None]) -> None:
        started = time.perf_counter()
        await work
        seconds = time.perf_counter() - started
        results.add("hawkbit", case, subject, "ms", seconds * 1000)

    await system.prepare()
    await _warm_up(system)
    for size in sizes:
        fleet, devices = f"fleet{size}", f"{size:,} devices"
        print(f"{subject}: adding {devices} …", flush=True)
        await system.add_devices(fleet, size)
        await measure(f"create a job for {devices}", system.create(fleet, size))
        await measure(f"list its {devices}, 500 per page", system.list_devices(size))
        await measure(f"cancel it, {devices}", system.cancel())
    await measure("list the jobs", system.list_jobs())
    for callers in _CALLERS:
        fleet = f"cycle{callers}"
        devices_of_fleet = await system.add_devices(fleet, _CYCLES)
        await system.create(fleet, _CYCLES)
        await measure(
            f"{_CYCLES:,} devices carry it out, {callers} at a time",
            _carry_out(system, devices_of_fleet, callers),
        )
        if (succeeded := await system.count_succeeded()) != _CYCLES:
            raise InvalidRun(f"{subject}: {succeeded} of {_CYCLES} devices have succeeded")


async def _warm_up(system: System) -> None:
    """Do the same work on small fleets, so that code is compiled and connections are open."""
    for number in range(_WARM_UPS):
        fleet = f"warm-up{number}"
        devices = await system.add_devices(fleet, _WARM_UP_DEVICES)
        await system.create(fleet, _WARM_UP_DEVICES)
        await system.list_devices(_WARM_UP_DEVICES)
        await system.list_jobs()
        await _carry_out(system, devices[: _WARM_UP_DEVICES // 2], 16)
        await system.cancel()


async def _carry_out(system: System, devices: Sequence[str], callers: int) -> None:
    waiting = iter(devices)

    async def caller() -> None:
        for device in waiting:
            await system.carry_out(device)

    await asyncio.gather(*(caller() for _ in range(callers)))


def render(results: Results) -> str:
    """Return the table as Markdown: seconds or milliseconds of each piece of work."""
    rows = []
    for case in dict.fromkeys(figure.case for figure in results):
        found = [results.find("hawkbit", case, subject) for subject in (SERVICE, HAWKBIT)]
        service, hawkbit = found
        factor = f"{format_number(service.times_better(hawkbit))}×" if service and hawkbit else ""
        rows.append([case, *(_format_duration(f.median) if f else "" for f in found), factor])
    head = ("work", "this service", "hawkBit", "factor")
    return table(head, rows)


def _format_duration(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{format_number(milliseconds)} ms"
    return f"{format_number(milliseconds / 1000)} s"


if __name__ == "__main__":
    run(
        "hawkbit",
        __doc__,
        _run,
        Option("url", "http://127.0.0.1:8080", "hawkBit's address"),
        Option("user", "admin", "user of the Management API"),
        Option("password", "admin", "password of the user"),
        Option("version", "unknown", "hawkBit's version, for the page"),
        Option("database", "unknown", "hawkBit's database, for the page"),
        Option("sizes", (1_000, 10_000, 100_000), "devices of a job"),
    )
