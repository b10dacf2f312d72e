"""Compare the service with a running Eclipse hawkBit update server, for the same work.

Start hawkBit first, with an empty database: bench/results/hawkbit.md says how. The service runs on
a PostgreSQL server of its own. Both are measured one after the other, by the same Python client.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Sequence

from bench import page
from bench.environment import environment
from bench.figures import SERVICE, Results
from bench.hawkbit.report import HAWKBIT, render
from bench.hawkbit.service import Service
from bench.hawkbit.update_server import UpdateServer
from bench.machine import describe_machine
from bench.run import InvalidRun

System = UpdateServer | Service

_CALLERS = (16, 64)
_CYCLES = 1000

_WARM_UPS = 3
_WARM_UP_DEVICES = 400


def main() -> None:
    """Measure and print a table; with --page, keep it."""
    parser = argparse.ArgumentParser(prog="bench.hawkbit", description=__doc__)
    parser.add_argument(
        "--url", default="http://127.0.0.1:8080", help="hawkBit's address [%(default)s]"
    )
    parser.add_argument("--user", default="admin", help="user of the Management API [%(default)s]")
    parser.add_argument("--password", default="admin", help="password of the user [%(default)s]")
    parser.add_argument("--version", default="unknown", help="hawkBit's version, for the page")
    parser.add_argument("--database", default="unknown", help="hawkBit's database, for the page")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="devices of a job"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the table to bench/results/hawkbit.md"
    )
    args = parser.parse_args()
    try:
        results, machine = asyncio.run(_run(args))
    except InvalidRun as e:
        sys.exit(f"invalid run: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
    text = render(results, machine)
    print(f"\n{text}")
    if args.page:
        page.replace_figures(page.RESULTS / "hawkbit.md", text)


async def _run(args: argparse.Namespace) -> tuple[Results, dict[str, str]]:
    results = Results()
    async with environment() as env:
        machine = await describe_machine(env.service)
        async with env.service_server() as server:
            await _measure(SERVICE, Service(server.address, env.service), args.sizes, results)
    hawkbit = UpdateServer(args.url, args.user, args.password)
    await _measure(HAWKBIT, hawkbit, args.sizes, results)
    return results, machine | {"hawkBit": args.version, "hawkBit's database": args.database}


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


if __name__ == "__main__":
    main()
