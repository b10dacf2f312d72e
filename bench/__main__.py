"""Compare this service with the FastAPI service and the baselines.

`python -m bench` writes bench/results/latest.json and, from it, the figures of
docs/performance.md.
"""

import argparse
import asyncio
import functools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

from bench import ghz, plots, report
from bench.environment import Environment, describe_machine, environment
from bench.figures import FULL, QUICK, Figure, Results, Scale
from bench.h2load import h2load_version
from bench.requests import InvalidRun
from bench.workloads import concurrency, cpu, growth, memory, reports, throughput, updates

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "bench" / "results" / "latest.json"
_SOAK = _RESULTS.with_name("soak.json")
_PAGE = _ROOT / "docs" / "performance.md"

Workload = Callable[[Environment, Scale, Results], Awaitable[None]]

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
    parser.add_argument(
        "--soak", type=int, metavar="MINUTES", help="measure only memory, under load"
    )
    args = parser.parse_args()

    if not args.render:
        scale = QUICK if args.quick else FULL
        workloads = {name: _WORKLOADS[name] for name in args.only or _WORKLOADS}
        if args.soak:
            workloads = {"soak": functools.partial(memory.soak, minutes=args.soak)}
        try:
            results, machine = asyncio.run(_run(scale, workloads, h2load_version()))
        except KeyboardInterrupt:
            sys.exit(130)
        print(report.render(results, machine, with_targets=not args.quick))
        if args.quick or args.only:
            return
        _save(_SOAK if args.soak else _RESULTS, results, machine)
    results, machine = _load(_RESULTS)
    if _SOAK.exists():
        results += _load(_SOAK)[0]
    report.replace_figures(_PAGE, report.render(results, machine))
    plots.plot(results, _PAGE.parent / "performance")


async def _run(
    scale: Scale, workloads: dict[str, Workload], h2load: str
) -> tuple[Results, dict[str, str]]:
    results = Results()
    async with environment() as env:
        for name, workload in workloads.items():
            print(f"{name} …", flush=True)
            started = time.monotonic()
            try:
                await workload(env, scale, results)
            except InvalidRun as e:
                sys.exit(f"invalid run: {e}")
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return results, await describe_machine(env, {"h2load": h2load, **ghz.versions(env.folder)})


def _save(path: Path, results: Results, machine: dict[str, str]) -> None:
    path.parent.mkdir(exist_ok=True)
    figures = [asdict(figure) for figure in results]
    path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")


def _load(path: Path) -> tuple[Results, dict[str, str]]:
    saved = json.loads(path.read_text())
    return Results(Figure(**figure) for figure in saved["figures"]), saved["machine"]


if __name__ == "__main__":
    main()
