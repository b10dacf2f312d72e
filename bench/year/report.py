"""The report of a year."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from bench.page import describe, format_number, table, wrap
from bench.year.ledger import Ledger
from bench.year.samples import Sample
from bench.year.scale import STEP_HOURS, Scale

_MIB = 1 << 20

MAX_GROWTH = 1.10
"""Maximum growth of sizes and of rows read."""
MAX_SLOWER = 1.5
"""Maximum growth of the p99 of a call."""
# Smaller tables grow by a large part with one page.
_MIN_BYTES = _MIB
_FEW_ROWS = 20
# Fewer calls have no p99.
_MIN_CALLS = 300
# The calls whose p99 is shown for each month.
_SHOWN = {"CreateJob": "create", "ReportExecutions": "batch", "StartNextExecution": "start"}


def p99(seconds: Sequence[float]) -> float:
    """Return the 99th percentile, in milliseconds."""
    return 1000 * sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def compared_months(samples: Sequence[Sample]) -> tuple[Sample, Sample] | None:
    """Return the third and the last month. Before the third, the tables still grow."""
    return (samples[2], samples[-1]) if len(samples) > 3 else None


def missed_goals(samples: Sequence[Sample]) -> list[str]:
    """Return what is beyond the goals in the last month."""
    months = compared_months(samples)
    if months is None:
        return []
    return [
        f"{name}: {_times(before, after):.2f} times month {months[0].month}"
        for name, before, after, goal in _comparisons(*months)
        if after > before * goal
    ]


def _comparisons(first: Sample, last: Sample) -> Iterator[tuple[str, float, float, float]]:
    """Yield the name of a figure, its value in both months, and the maximum ratio of these."""
    for number, (all_of_them, kind) in enumerate((("tables", "table"), ("indexes", "indexes of"))):
        totals = [sum(sizes[number] for sizes in each.tables.values()) for each in (first, last)]
        yield f"{all_of_them}, MiB", *_in_mib(totals), MAX_GROWTH
        for name, sizes in first.tables.items():
            before, after = sizes[number], last.tables[name][number]
            if max(before, after) >= _MIN_BYTES:
                yield f"{kind} `{name}`, MiB", *_in_mib((before, after)), MAX_GROWTH
    for name, rows in first.rows.items():
        if max(rows, last.rows[name]) > _FEW_ROWS:
            yield f"rows that {name} reads", rows, last.rows[name], MAX_GROWTH
    for name, seconds in first.latencies.items():
        if min(len(seconds), len(last.latencies.get(name, ()))) >= _MIN_CALLS:
            yield f"p99 of {name}, ms", p99(seconds), p99(last.latencies[name]), MAX_SLOWER


def _times(before: float, after: float) -> float:
    return after / before if before else math.inf if after else 1.0


def _in_mib(values: Sequence[float]) -> tuple[float, float]:
    return values[0] / _MIB, values[1] / _MIB


def render(
    samples: Sequence[Sample], ledger: Ledger, machine: Mapping[str, str], scale: Scale
) -> str:
    """Return the figures as Markdown."""
    passed = "all months"
    if len(scale.months) < 12:
        passed = f"the months {', '.join(map(str, scale.months))}"
    size = (
        f"{scale.tenants} tenants with {scale.devices:,} devices each, {passed},"
        f" in steps of {STEP_HOURS} hours."
    )
    parts = [describe(machine), wrap(size), _months(samples)]
    if both := compared_months(samples):
        head = ("figure", *(f"month {sample.month}" for sample in both), "ratio", "goal")
        parts.append(table(head, map(_compared, _comparisons(*both))))
    done = ([name, f"{count:,}"] for name, count in sorted(ledger.done.items()))
    parts.append(table(["what happened", "count"], done))
    return "\n\n".join([*parts, "\n".join(_problems(ledger.problems, ledger.examples))])


def _months(samples: Sequence[Sample]) -> str:
    head = ("month", "executions", "seconds", "tables, MiB", "indexes, MiB")
    rows = []
    for sample in samples:
        sizes = (sum(each[number] for each in sample.tables.values()) / _MIB for number in (0, 1))
        latencies = (sample.latencies.get(name) for name in _SHOWN)
        rows.append(
            [
                *(f"{sample.month}", f"{sample.executions:,}", f"{sample.seconds:.0f}"),
                *map(format_number, sizes),
                *(format_number(p99(seconds)) if seconds else "–" for seconds in latencies),
            ]
        )
    return table([*head, *(f"{name} p99, ms" for name in _SHOWN.values())], rows)


def _compared(comparison: tuple[str, float, float, float]) -> list[str]:
    name, before, after, goal = comparison
    times = _times(before, after)
    missed = " missed" if times > goal else ""
    values = map(format_number, (before, after))
    return [name, *values, f"{times:.2f}", f"≤ {goal:.2f}{missed}"]


def _problems(problems: Counter[str], examples: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if not problems:
        yield "The recounts found no difference."
        return
    for kind, count in problems.most_common():
        yield f"- {count:,} × {kind}, such as {examples[kind][0]}"
