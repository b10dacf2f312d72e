"""Measure how calls per second scale from one to four workers, each limited to a part of a core.

Run by `make bench-workers`. PostgreSQL and the load generator need cores as well, so on a small
machine no core is left for a second worker. cpulimit therefore limits each worker to a fifth of a
core: all workers together use less than one core, and the rates show how the workers scale.
"""

import argparse
import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.environment import Environment
from bench.figures import SERVICE, Results
from bench.h2load import h2load_version, run_load
from bench.page import table
from bench.peers import peers
from bench.process import Server
from bench.requests import Call
from bench.run import InvalidRun, Option, run
from bench.workloads.throughput import (
    SIZE_TOLERANCE,
    TEN,
    THOUSAND,
    create_job_calls,
    get_job_call,
    insert_jobs_to_read,
)

# Percent of a core per worker.
_PERCENT_OF_CORE = 20

# Many clients, so that the kernel gives each worker some. It spreads them unevenly: see
# rate_of_first_half.
_CLIENTS = 64


async def _measure(args: argparse.Namespace) -> str:
    h2load_version()
    if shutil.which("cpulimit") is None:
        raise InvalidRun("cpulimit is needed: apt-get install cpulimit")
    numbers = range(1, args.workers + 1)
    results = Results()
    async with peers() as env:
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
        return await env.report(_table(results))


def _table(results: Results) -> str:
    """Return a table with a row for each call and a column for each number of workers."""
    numbers = list(dict.fromkeys(figure.case for figure in results))
    head = [f"workers, each with {_PERCENT_OF_CORE} % of a core", *numbers]
    rows = []
    for name in dict.fromkeys(figure.workload for figure in results):
        rates = [figure.median for figure in results if figure.workload == name]
        rows.append([name, *(f"{rate:,.0f}/s, {rate / rates[0]:.1f}×" for rate in rates)])
    return table(head, rows)


def _calls(server: Server) -> dict[str, Call]:
    create, _ = create_job_calls(server, server)
    return {
        "CreateJob, one device": create,
        "GetJob, 10 executions": get_job_call(server, TEN),
        "GetJob, 1,000 executions": get_job_call(server, THOUSAND),
    }


@asynccontextmanager
async def _server_with_cpu_limit(env: Environment, workers: int) -> AsyncIterator[Server]:
    """Run a server whose processes may use `_PERCENT_OF_CORE` percent of a core each."""
    async with env.server(workers=workers) as server:
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
    run(
        "workers",
        __doc__,
        _measure,
        Option("workers", 4, "measure 1 to this many workers", quick=2),
        Option("seconds", 5.0, "seconds per run", quick=1),
        Option("runs", 3, "runs per number of workers", quick=1),
    )
