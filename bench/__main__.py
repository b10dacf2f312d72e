"""`python -m bench`: this service, the document's design and the limits, side by side.

Writes bench/results/latest.json and, from it, the figures of docs/performance.md.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from bench import plots, report
from bench.calls import Void
from bench.environment import described, environment
from bench.h2load import h2load_version
from bench.measure import FULL, QUICK, Measured, Results, Scale
from bench.workloads import calls, concurrency, growth, memory, reports

_ROOT = Path(__file__).parents[1]
_RESULTS = _ROOT / "bench" / "results" / "latest.json"
_PAGE = _ROOT / "docs" / "performance.md"

_WORKLOADS = {
    "growth": growth.run,
    "calls": calls.run,
    "reports": reports.run,
    "concurrency": concurrency.run,
    "memory": memory.run,
}


def main() -> None:
    """Measure, or only render what was measured."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="that it works, in seconds")
    parser.add_argument("--only", choices=_WORKLOADS, nargs="+", help="some of the workloads")
    parser.add_argument("--render", action="store_true", help="the page, from the last results")
    args = parser.parse_args()

    if not args.render:
        results, machine = asyncio.run(
            _measure(QUICK if args.quick else FULL, args.only or list(_WORKLOADS), h2load_version())
        )
        print(report.rendered(results, machine))
        if args.quick or args.only:
            return
        _save(results, machine)
    results, machine = _load()
    report.replace_figures(_PAGE, report.rendered(results, machine))
    plots.plot(results, _PAGE.parent / "performance")


async def _measure(
    scale: Scale, workloads: list[str], h2load: str
) -> tuple[Results, dict[str, str]]:
    results = Results()
    async with environment() as env:
        for name in workloads:
            print(f"{name} …", flush=True)
            started = time.monotonic()
            try:
                await _WORKLOADS[name](env, scale, results)
            except Void as e:
                sys.exit(f"void: {e}")
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return results, await described(env, h2load)


def _save(results: Results, machine: dict[str, str]) -> None:
    _RESULTS.parent.mkdir(exist_ok=True)
    figures = [asdict(measured) for measured in results]
    _RESULTS.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")


def _load() -> tuple[Results, dict[str, str]]:
    saved = json.loads(_RESULTS.read_text())
    return Results(Measured(**figure) for figure in saved["figures"]), saved["machine"]


if __name__ == "__main__":
    main()
