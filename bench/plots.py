"""Plots: milliseconds by number of devices, and calls per second by number of clients."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.figures import BASELINE, FASTAPI, SERVICE, Results

mpl.use("svg")

from matplotlib import pyplot as plt

# Make the output deterministic.
mpl.rcParams["svg.hashsalt"] = "bench"
mpl.rcParams["svg.fonttype"] = "none"

_STYLES = {
    SERVICE: ("this service", "#1f77b4", "o"),
    FASTAPI: ("the FastAPI service", "#d62728", "s"),
    BASELINE: ("bare SQL", "#7f7f7f", "^"),
}


def plot(results: Results, folder: Path) -> None:
    """Write growth.svg and clients.svg."""
    _plot_workloads(
        results, folder / "growth.svg", ("create", "list", "get", "cancel"), "devices", "ms"
    )
    names = ("create_by_clients", "get_by_clients", "list_by_clients")
    _plot_workloads(results, folder / "clients.svg", names, "clients", "calls per second")


def _plot_workloads(
    results: Results, path: Path, workloads: tuple[str, ...], x_label: str, y_label: str
) -> None:
    drawing, axes = plt.subplots(1, len(workloads), figsize=(3.2 * len(workloads), 3.2))
    for workload, axis in zip(workloads, axes, strict=True):
        for subject, (label, color, marker) in _STYLES.items():
            points = [
                figure
                for figure in results
                if (figure.workload, figure.subject) == (workload, subject)
            ]
            if points:
                axis.plot(
                    [_leading_number(figure.case) for figure in points],
                    [figure.median for figure in points],
                    label=label,
                    color=color,
                    marker=marker,
                    markersize=4,
                )
        _label_axis(axis, workload.partition("_")[0], x_label, y_label)
    handles, labels = axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    drawing.tight_layout(rect=(0, 0.08, 1, 1))
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def _label_axis(axis: Any, title: str, x_label: str, y_label: str) -> None:
    # Times differ by orders of magnitude; rates do not.
    axis.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log")
    if y_label == "ms":
        axis.set(yscale="log")
    else:
        axis.set(ylim=(0, None))
    axis.grid(visible=True, which="major", alpha=0.3)


def _leading_number(case: str) -> int:
    return int(case.split()[0].replace(",", ""))
