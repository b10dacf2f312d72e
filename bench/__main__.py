"""Compare this service with the FastAPI service and the baselines.

`make bench ARGS=--page` writes bench/results/fastapi.jsonl, and from it the tables of
bench/results/fastapi.md.
"""

import argparse
import time
from collections.abc import Awaitable, Callable, Sequence

from bench import report
from bench.figures import FULL, QUICK, Results, Scale, load, save
from bench.h2load import h2load_version
from bench.machine import describe_machine
from bench.page import RESULTS
from bench.peers import peers
from bench.run import InvalidRun, Option, Report, run
from bench.workloads import (
    Bench,
    concurrency,
    cpu,
    growth,
    memory,
    reports,
    throughput,
    updates,
)

_RESULTS = RESULTS / "fastapi.jsonl"

_PACKAGES = ("grpcio", "protobuf", "asyncpg", "fastapi", "uvicorn", "uvloop", "httptools")

Workload = Callable[[Bench], Awaitable[None]]

_WORKLOADS: dict[str, Workload] = {
    "growth": growth.run,
    "throughput": throughput.run,
    "cpu": cpu.run,
    "reports": reports.run,
    "updates": updates.run,
    "concurrency": concurrency.run,
    "memory": memory.run,
}


async def _measure(args: argparse.Namespace) -> Report:
    """Run the workloads, or with --render, take the figures of the last page."""
    if args.page and args.only:
        raise InvalidRun("the page has the figures of all workloads")
    problems: Sequence[str] = ()
    if args.render:
        results, machine = load(_RESULTS)
    else:
        names = args.only or tuple(_WORKLOADS)
        results, machine = await _run(QUICK if args.quick else FULL, names)
        problems = () if args.only else _problems(results)
    if args.page:
        save(_RESULTS, results, machine)
    return Report(report.render(results, machine), problems)


def _problems(results: Results) -> list[str]:
    """Return the workloads without figures, and the figures that are zero."""
    zero = {f"{figure.workload}, {figure.case}" for figure in results if min(figure.values) <= 0}
    return [f"no figures of {name}" for name in [*report.unmeasured(results), *sorted(zero)]]


async def _run(scale: Scale, names: Sequence[str]) -> tuple[Results, dict[str, str]]:
    results, h2load = Results(), h2load_version()
    async with peers() as env:
        for name in names:
            print(f"{name} …", flush=True)
            started = time.monotonic()
            await _WORKLOADS[name](Bench(env, scale, results))
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return results, await describe_machine(env.owner, _PACKAGES) | {"h2load": h2load}


if __name__ == "__main__":
    run(
        "fastapi",
        __doc__,
        _measure,
        Option("only", (), f"run only some of {', '.join(_WORKLOADS)}"),
        Option("render", False, "use the figures of bench/results/fastapi.jsonl"),
    )
