"""`python -m bench`: this service, the document's design and the limits, side by side.

Writes bench/results/latest.json and, from it, the figures of docs/performance.md.
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
from bench.calls import Void
from bench.environment import Environment, described, environment
from bench.h2load import h2load_version
from bench.measure import FULL, QUICK, Measured, Results, Scale
from bench.workloads import calls, concurrency, growth, layers, memory, reports, updates

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "bench" / "results" / "latest.json"
_SOAK = _RESULTS.with_name("soak.json")
_PAGE = _ROOT / "docs" / "performance.md"

Workload = Callable[[Environment, Scale, Results], Awaitable[None]]

_WORKLOADS: dict[str, Workload] = {
    "growth": growth.run,
    "calls": calls.run,
    "layers": layers.run,
    "reports": reports.run,
    "updates": updates.run,
    "concurrency": concurrency.run,
    "memory": memory.run,
}


def main() -> None:
    """Measure, or only render what was measured."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="that it works, in seconds")
    parser.add_argument("--only", choices=_WORKLOADS, nargs="+", help="some of the workloads")
    parser.add_argument("--render", action="store_true", help="the page, from the last results")
    parser.add_argument("--soak", type=int, metavar="MINUTES", help="memory under load, instead")
    args = parser.parse_args()

    if not args.render:
        scale = QUICK if args.quick else FULL
        workloads = {name: _WORKLOADS[name] for name in args.only or _WORKLOADS}
        if args.soak:
            workloads = {"soak": functools.partial(memory.soak, minutes=args.soak)}
        try:
            results, machine = asyncio.run(_measure(scale, workloads, h2load_version()))
        except KeyboardInterrupt:
            sys.exit(130)
        print(report.rendered(results, machine, with_targets=not args.quick))
        if args.quick or args.only:
            return
        _save(_SOAK if args.soak else _RESULTS, results, machine)
    results, machine = _load(_RESULTS)
    if _SOAK.exists():
        results += _load(_SOAK)[0]
    report.replace_figures(_PAGE, report.rendered(results, machine))
    plots.plot(results, _PAGE.parent / "performance")


async def _measure(
    scale: Scale, workloads: dict[str, Workload], h2load: str
) -> tuple[Results, dict[str, str]]:
    results = Results()
    async with environment() as env:
        for name, run in workloads.items():
            print(f"{name} …", flush=True)
            started = time.monotonic()
            try:
                await run(env, scale, results)
            except Void as e:
                sys.exit(f"void: {e}")
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return results, await described(env, {"h2load": h2load, **ghz.versions(env.folder)})


def _save(path: Path, results: Results, machine: dict[str, str]) -> None:
    path.parent.mkdir(exist_ok=True)
    figures = [asdict(measured) for measured in results]
    path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")


def _load(path: Path) -> tuple[Results, dict[str, str]]:
    saved = json.loads(path.read_text())
    return Results(Measured(**figure) for figure in saved["figures"]), saved["machine"]


if __name__ == "__main__":
    main()
