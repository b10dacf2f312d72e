"""The table of attacks: what each reached, and whether it is within the bounds."""

import math
import statistics
from collections.abc import Sequence

from bench.figures import Results
from bench.hostile.attacks import ATTACKS
from bench.other_tenant_calls import Call
from bench.page import describe, table, wrap

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
    p99 = max(milliseconds)
    if len(milliseconds) > 1:
        p99 = statistics.quantiles(milliseconds, n=100, method="inclusive")[98]
    errors = [error for _, _, error in calls if error]
    results.add(WORKLOAD, name, "p50", "ms", statistics.median(milliseconds))
    results.add(WORKLOAD, name, "p99", "ms", p99)
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
    missed = [
        subject
        for subject, bound in bounds
        if (value := _value(results, name, subject)) is None or value > bound
    ]
    return f"missed: {', '.join(missed)}" if missed else "met"


def render(results: Results, machine: dict[str, str]) -> str:
    """Return the table and the list of attacks as Markdown."""
    names = list(dict.fromkeys(figure.case for figure in results))
    rows = [[f"`{name}`", *_cells(results, name), verdict(results, name)] for name in names]
    head = ("attack", "gateway + server", "log, POSTs", "p50 / p99", "errors", "bounds")
    attacks = [wrap(f"- `{name}`: {ATTACKS[name].description}.", "  ") for name in names]
    return "\n\n".join([describe(machine), table(head, rows), "\n".join(attacks)])


def _cells(results: Results, name: str) -> list[str]:
    server, gateway = _value(results, name, "server"), _value(results, name, "gateway")
    p50, p99 = _value(results, name, "p50"), _value(results, name, "p99")
    errors, calls = _value(results, name, "errors"), _value(results, name, "calls")
    if server is None or p50 is None or p99 is None or errors is None or calls is None:
        return ["", "", "", ""]
    log = f"{_value(results, name, 'log') or 0:,.0f} kB/s"
    memory = f"{server:,.0f} MiB"
    if gateway is not None:
        memory = f"{gateway:,.0f} + {memory}"
    if posts := _value(results, name, "posts"):
        log += f", {posts:,.0f} POST/s"
    if wait := _value(results, name, "new webhook"):
        log += f", new webhook {wait:,.1f} s"
    return [memory, log, f"{p50:,.1f} / {p99:,.1f} ms", f"{errors:,.0f} of {calls:,.0f}"]


def summarize(results: Results, name: str) -> str:
    """Return the figures of an attack as one line."""
    memory, log, latency, errors = _cells(results, name)
    bounds = verdict(results, name)
    return f"{memory}; log {log}; p50 / p99 {latency}; errors {errors}; bounds {bounds}"


def _value(results: Results, name: str, subject: str) -> float | None:
    figure = results.find(WORKLOAD, name, subject)
    return figure.median if figure else None
