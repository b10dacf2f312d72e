"""Compare this service with the FastAPI service and the baselines.

`python -m bench` writes bench/results/fastapi.jsonl and, from it, the tables of
bench/results/fastapi.md and the plots.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from bench import page, plots, report
from bench.figures import FULL, QUICK, Results, Scale, load, save
from bench.h2load import h2load_version
from bench.machine import describe_machine
from bench.peers import Peers, peers
from bench.run import InvalidRun
from bench.workloads import concurrency, cpu, growth, memory, reports, throughput, updates

_RESULTS = page.RESULTS / "fastapi.jsonl"

_PACKAGES = ("grpcio", "protobuf", "asyncpg", "fastapi", "uvicorn", "uvloop", "httptools")

Workload = Callable[[Peers, Scale, Results], Awaitable[None]]

_WORKLOADS: dict[str, Workload] = {
    "growth": growth.run,
    "throughput": throughput.run,
    "cpu": cpu.run,
    "reports": reports.run,
    "updates": updates.run,
    "concurrency": concurrency.run,
    "memory": memory.run,
}


def main() -> None:
    """Run the workloads, or only render the last results."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: check that the benchmark works"
    )
    parser.add_argument(
        "--only", choices=_WORKLOADS, nargs="+", help="run only these workloads and do not save"
    )
    parser.add_argument(
        "--render", action="store_true", help="rewrite the page from the last results"
    )
    args = parser.parse_args()

    if not args.render:
        scale = QUICK if args.quick else FULL
        workloads = {name: _WORKLOADS[name] for name in args.only or _WORKLOADS}
        try:
            results, machine = asyncio.run(_run(scale, workloads, h2load_version()))
        except KeyboardInterrupt:
            sys.exit(130)
        print(report.render(results, machine))
        if args.quick and workloads == _WORKLOADS:
            _check(results)
        if args.quick or args.only:
            return
        save(_RESULTS, results, machine)
    results, machine = load(_RESULTS)
    page.replace_figures(page.RESULTS / "fastapi.md", report.render(results, machine))
    plots.plot(results, page.RESULTS)


def _check(results: Results) -> None:
    """Exit with an error unless all workloads have figures, and none is zero."""
    missing = report.unmeasured(results)
    zero = {f"{figure.workload}, {figure.case}" for figure in results if min(figure.values) <= 0}
    if missing or zero:
        sys.exit(f"no figures: {', '.join([*missing, *sorted(zero)])}")


async def _run(
    scale: Scale, workloads: dict[str, Workload], h2load: str
) -> tuple[Results, dict[str, str]]:
    results = Results()
    async with peers() as env:
        for name, workload in workloads.items():
            print(f"{name} …", flush=True)
            started = time.monotonic()
            try:
                await workload(env, scale, results)
            except InvalidRun as e:
                sys.exit(f"invalid run: {e}")
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        machine = await describe_machine(env.owner, _PACKAGES)
        return results, machine | {"h2load": h2load}


if __name__ == "__main__":
    main()
