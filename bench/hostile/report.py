"""The table of attacks: what each reached, and whether it is within the bounds."""

import math
from collections.abc import Sequence

from bench.figures import Results, percentile
from bench.hostile.attacks import ATTACKS
from bench.hostile.other_tenant import Call
from bench.page import table, wrap

WORKLOAD = "hostile"

# Bounds of the server's and the gateway's memory, of the log, and of the other tenant's calls.
MAX_SERVER_MIB = 256
MAX_GATEWAY_MIB = 512
MAX_LOG_KB_PER_SECOND = 500
MAX_P99_MS = 100
_WEBHOOK_BOUNDS = {
    # POSTs per second of a tenant to one host: 20 replays, and 16 restarts.
    "posts": 36,
    # Seconds: two turns of the slots for unproven webhooks, which the webhooks that hang hold for
    # 1.5 seconds.
    "new webhook": 3,
}


def add_calls(results: Results, name: str, calls: Sequence[Call]) -> None:
    """Add the other tenant's calls during an attack."""
    results.add(WORKLOAD, name, "calls", "calls", len(calls))
    if not calls:
        return
    milliseconds = [seconds * 1000 for _, seconds, _ in calls]
    errors = [error for _, _, error in calls if error]
    for percent in (50, 99):
        results.add(WORKLOAD, name, f"p{percent}", "ms", percentile(milliseconds, percent))
    results.add(WORKLOAD, name, "errors", "errors", len(errors))
    if errors:
        print(f"  first error: {errors[0]}")


def most_per_second(times: Sequence[float]) -> int:
    """Return the most times that are within a second."""
    return max(sum(t <= u < t + 1 for u in times) for t in times)


def verdict(results: Results, name: str) -> str:
    """Return "met", or the bounds that the attack exceeds or that have no figure.

    While the server is away, calls wait for it, so their latency has no bound.
    """
    attack = ATTACKS[name]
    bounds: list[tuple[str, float]] = [("server", MAX_SERVER_MIB)]
    if attack.on_gateway:
        bounds.append(("gateway", MAX_GATEWAY_MIB))
    bounds.append(("log", MAX_LOG_KB_PER_SECOND))
    if attack.webhook_figure:
        bounds.append((attack.webhook_figure, _WEBHOOK_BOUNDS[attack.webhook_figure]))
    bounds += [("errors", 0), ("p99", math.inf if attack.server_away else MAX_P99_MS)]
    values = _values(results, name)
    missed = [
        subject for subject, bound in bounds if subject not in values or values[subject] > bound
    ]
    return f"missed: {', '.join(missed)}" if missed else "met"


def render(results: Results) -> tuple[str, str]:
    """Return the table and the list of attacks as Markdown."""
    names = list(dict.fromkeys(figure.case for figure in results))
    rows = [[f"`{name}`", *_cells(results, name), verdict(results, name)] for name in names]
    head = ("attack", "gateway + server", "log, POSTs", "p50 / p99", "errors", "bounds")
    attacks = [wrap(f"- `{name}`: {ATTACKS[name].description}.", "  ") for name in names]
    return table(head, rows), "\n".join(attacks)


def _cells(results: Results, name: str) -> list[str]:
    values = _values(results, name)
    if not {"server", "log", "p50", "p99", "errors", "calls"} <= values.keys():
        return ["", "", "", ""]
    log, memory = f"{values['log']:,.0f} kB/s", f"{values['server']:,.0f} MiB"
    if "gateway" in values:
        memory = f"{values['gateway']:,.0f} + {memory}"
    if "posts" in values:
        log += f", {values['posts']:,.0f} POST/s"
    if "new webhook" in values:
        log += f", new webhook {values['new webhook']:,.1f} s"
    latency = f"{values['p50']:,.1f} / {values['p99']:,.1f} ms"
    return [memory, log, latency, f"{values['errors']:,.0f} of {values['calls']:,.0f}"]


def summarize(results: Results, name: str) -> str:
    """Return the figures of an attack as one line."""
    memory, log, latency, errors = _cells(results, name)
    bounds = verdict(results, name)
    return f"{memory}; log {log}; p50 / p99 {latency}; errors {errors}; bounds {bounds}"


def _values(results: Results, name: str) -> dict[str, float]:
    """Return the figures of an attack."""
    return {figure.subject: figure.median for figure in results if figure.case == name}
