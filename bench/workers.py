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

from bench import page
from bench.environment import Environment, Server, environment
from bench.figures import SERVICE, Results
from bench.h2load import h2load_version, run_load
from bench.machine import describe_machine
from bench.requests import Call
from bench.run import InvalidRun
from bench.workloads.throughput import (
    SIZE_TOLERANCE,
    TEN,
    THOUSAND,
    create_job_calls,
    get_job_calls,
    insert_jobs_to_read,
)

# Percent of a core per worker.
_PERCENT_OF_CORE = 20

# Many clients, so that the kernel gives each worker some. It spreads them unevenly: see
# rate_of_first_half.
_CLIENTS = 64


def main() -> None:
    """Measure and print a table; with --page, keep it."""
    parser = argparse.ArgumentParser(prog="bench.workers", description=__doc__)
    parser.add_argument(
        "--max-workers", type=int, default=4, help="measure 1 to this many workers [4]"
    )
    parser.add_argument("--seconds", type=float, default=5, help="seconds per run [5]")
    parser.add_argument("--runs", type=int, default=3, help="runs per number of workers [3]")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: check that the benchmark works"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the table to bench/results/workers.md"
    )
    args = parser.parse_args()
    if args.quick:
        args.max_workers, args.seconds, args.runs = 2, 1, 1
    h2load_version()
    if shutil.which("cpulimit") is None:
        sys.exit("cpulimit is needed: apt-get install cpulimit")
    try:
        results, machine = asyncio.run(_measure(args))
    except InvalidRun as e:
        sys.exit(f"invalid run: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
    text = _render(results, machine)
    print(f"\n{text}")
    if args.page:
        page.replace_figures(page.RESULTS / "workers.md", text)


async def _measure(args: argparse.Namespace) -> tuple[Results, dict[str, str]]:
    numbers = range(1, args.max_workers + 1)
    results = Results()
    async with environment() as env:
        await env.clear()
        await insert_jobs_to_read(env)
        await env.vacuum()
        for _ in range(args.runs):
            for workers in numbers:
                async with _server_with_cpu_limit(env, workers) as server:
                    for name, call in _calls(server).items():
                        load = await run_load(
                            call,
                            seconds=args.seconds,
                            clients=_CLIENTS,
                            size_tolerance=SIZE_TOLERANCE,
                        )
                        results.add(name, f"{workers}", SERVICE, "/s", load.rate_of_first_half)
        machine = await describe_machine(env.service)
    return results, machine


def _render(results: Results, machine: dict[str, str]) -> str:
    """Return a table with a row for each call and a column for each number of workers."""
    numbers = list(dict.fromkeys(figure.case for figure in results))
    head = [f"workers, each with {_PERCENT_OF_CORE} % of a core", *numbers]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in dict.fromkeys(figure.workload for figure in results):
        rates = [figure.median for figure in results if figure.workload == name]
        cells = [name, *(f"{rate:,.0f}/s, {rate / rates[0]:.1f}×" for rate in rates)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n\n".join([page.describe(machine), "\n".join(lines)])


def _calls(server: Server) -> dict[str, Call]:
    create, _ = create_job_calls(server, server)
    ten, _ = get_job_calls(server, server, TEN)
    thousand, _ = get_job_calls(server, server, THOUSAND)
    return {
        "CreateJob, one device": create,
        "GetJob, 10 executions": ten,
        "GetJob, 1,000 executions": thousand,
    }


@asynccontextmanager
async def _server_with_cpu_limit(env: Environment, workers: int) -> AsyncIterator[Server]:
    """Run a server whose processes may use `_PERCENT_OF_CORE` percent of a core each."""
    async with env.service_server(workers) as server:
        limits = [
            await asyncio.create_subprocess_exec(
                *("cpulimit", f"--limit={_PERCENT_OF_CORE}", f"--pid={process.pid}"),
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
