"""Measure how calls per second scale from one to four workers, each limited to a part of a core.

Run by `make bench-workers`. PostgreSQL and the load generator need cores as well, so on a small
machine no core is left for a second worker. cpulimit therefore limits each worker to a fifth of a
core: all workers together use less than one core, and the rates show how the workers scale.
"""

import argparse
import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.environment import Environment, Server, environment
from bench.figures import SERVICE, Results
from bench.h2load import h2load_version, run_load
from bench.requests import Call, InvalidRun
from bench.workloads.throughput import SIZE_TOLERANCE, TEN, THOUSAND, create_one, get, seed_read

# Percent of a core per worker.
_SHARE = 20

# Many clients, so that the kernel gives each worker some. It spreads them unevenly: see
# rate_of_first_half.
_CLIENTS = 64


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="bench.workers", description=__doc__)
    parser.add_argument(
        "--max-workers", type=int, default=4, help="measure 1 to this many workers [4]"
    )
    parser.add_argument("--seconds", type=float, default=5, help="seconds per run [5]")
    parser.add_argument("--runs", type=int, default=3, help="runs per number of workers [3]")
    args = parser.parse_args()
    h2load_version()
    if shutil.which("cpulimit") is None:
        sys.exit("cpulimit is needed: apt-get install cpulimit")
    try:
        asyncio.run(_measure(args))
    except InvalidRun as e:
        sys.exit(f"invalid run: {e}")
    except KeyboardInterrupt:
        sys.exit(130)


async def _measure(args: argparse.Namespace) -> None:
    numbers = range(1, args.max_workers + 1)
    results = Results()
    async with environment() as env:
        await env.clear()
        await seed_read(env)
        await env.vacuum()
        for _ in range(args.runs):
            for workers in numbers:
                async with _limited(env, workers) as server:
                    for name, call in _calls(server).items():
                        load = await run_load(
                            call,
                            seconds=args.seconds,
                            clients=_CLIENTS,
                            size_tolerance=SIZE_TOLERANCE,
                        )
                        results.add(name, f"{workers}", SERVICE, "/s", load.rate_of_first_half)
    print(f"\n| workers, each with {_SHARE} % of a core | " + " | ".join(map(str, numbers)) + " |")
    print("|---|" + "---|" * len(numbers))
    for name in dict.fromkeys(figure.workload for figure in results):
        rates = [figure.median for figure in results if figure.workload == name]
        cells = " | ".join(f"{rate:,.0f}/s, {rate / rates[0]:.1f}×" for rate in rates)
        print(f"| {name} | {cells} |")


def _calls(server: Server) -> dict[str, Call]:
    create, _ = create_one(server, server)
    ten, _ = get(server, server, TEN)
    thousand, _ = get(server, server, THOUSAND)
    return {
        "CreateJob, one device": create,
        "GetJob, 10 executions": ten,
        "GetJob, 1,000 executions": thousand,
    }


@asynccontextmanager
async def _limited(env: Environment, workers: int) -> AsyncIterator[Server]:
    """Run a server whose processes may use `_SHARE` percent of a core each."""
    async with env.service_server(workers) as server:
        limits = [
            await asyncio.create_subprocess_exec(
                *("cpulimit", f"--limit={_SHARE}", f"--pid={process.pid}"),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            for process in server.processes()
        ]
        try:
            yield server
            if any(limit.returncode is not None for limit in limits):
                raise InvalidRun("cpulimit ended before the run did")
        finally:
            # On SIGTERM, cpulimit resumes the process.
            for limit in limits:
                if limit.returncode is None:
                    limit.terminate()
                await limit.wait()


if __name__ == "__main__":
    main()
