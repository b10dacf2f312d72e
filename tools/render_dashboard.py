"""Draw the panels of the Grafana dashboard with data of a Prometheus, for the documentation.

    python -m tools.render_dashboard http://127.0.0.1:9090 OUT.png --minutes 5

Runs the queries of deploy/grafana/jobs-grpc.json and plots their series. Needs matplotlib, so use
the environment of the benchmarks (.venv-bench).
"""

import argparse
import json
import math
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from tools.check_deploy import with_values

_DASHBOARD = Path(__file__).parents[1] / "deploy" / "grafana" / "jobs-grpc.json"
_COLUMNS = 3
_POINTS = 150
_SCALES = {"percentunit": (100, "%"), "bytes": (1 / 2**20, "MiB"), "s": (1000, "ms")}


def main() -> None:
    """Draw the panels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus", help="the URL of Prometheus")
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    args = parser.parse_args()
    panels = json.loads(_DASHBOARD.read_text(encoding="utf-8"))["panels"]
    panels = [panel for panel in panels if panel["type"] != "row"]
    end = time.time()
    start = end - 60 * args.minutes
    drawn = [(panel, _read(args.prometheus, panel, start, end)) for panel in panels]
    # Panels without data, such as the keys of a server without tokens, would be empty.
    drawn = [(panel, series) for panel, series in drawn if series]
    rows = -(-len(drawn) // _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(15, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(drawn) :]:
        axis.axis("off")
    for axis, (panel, series) in zip(axes.flat, drawn, strict=False):
        _draw(axis, panel, series, start)
    figure.tight_layout()
    figure.savefig(args.output, dpi=80)


def _read(url: str, panel: dict[str, Any], start: float, end: float) -> dict[str, Any]:
    """Return the points of each series by its legend."""
    series = {}
    for target in panel["targets"]:
        parameters = {
            "query": with_values(target["expr"]),
            "start": start,
            "end": end,
            "step": (end - start) / _POINTS,
        }
        query = f"{url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(query, timeout=30) as response:  # noqa: S310
            results = json.load(response)["data"]["result"]
        for result in results:
            legend = target["legendFormat"]
            for label, value in result["metric"].items():
                legend = legend.replace(f"{{{{{label}}}}}", value)
            # A quantile without observations is NaN.
            points = [(float(at), float(value)) for at, value in result["values"]]
            points = [(at, value) for at, value in points if not math.isnan(value)]
            if points:
                series[legend.replace("{{worker}}", "").strip()] = points
    return series


def _draw(axis: Any, panel: dict[str, Any], series: dict[str, Any], start: float) -> None:
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    factor, shown = _SCALES.get(unit, (1, ""))
    for legend, values in series.items():
        seconds = [point - start for point, _ in values]
        axis.plot(seconds, [value * factor for _, value in values], label=legend, lw=1.2)
    axis.set_title(f"{panel['title']}{f' ({shown})' if shown else ''}", fontsize=10)
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    if any(series):
        axis.legend(fontsize=6, loc="upper left")


if __name__ == "__main__":
    main()
