"""The report of a year."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from bench.page import table, wrap
from bench.samples import SIZES, Column, Goals, Sample, by_sample, comparison, latency
from bench.year.ledger import Ledger
from bench.year.scale import STEP_HOURS, Scale

GOALS = Goals(sizes=1.10, others=1.10, p99=1.5)

# The p99 of a few calls is shown for each month.
_COLUMNS: Mapping[str, Column] = {
    "executions": lambda sample: f"{sample.executions:,}",
    "seconds": lambda sample: f"{sample.seconds:.0f}",
    **SIZES,
    "create p99, ms": latency("CreateJob", 99),
    "batch p99, ms": latency("ReportExecutions", 99),
    "start p99, ms": latency("StartNextExecution", 99),
}


def render(samples: Sequence[Sample], ledger: Ledger, scale: Scale) -> list[str]:
    """Return the figures as parts of a page."""
    passed = "all months"
    if len(scale.months) < 12:
        passed = f"the months {', '.join(map(str, scale.months))}"
    size = (
        f"{scale.tenants} tenants with {scale.devices:,} devices each, {passed},"
        f" in steps of {STEP_HOURS} hours."
    )
    done = ([name, f"{count:,}"] for name, count in sorted(ledger.done.items()))
    return [
        *(wrap(size), by_sample("month", samples, _COLUMNS)),
        *(comparison("month", samples, GOALS), table(["what happened", "count"], done)),
        "\n".join(_problems(ledger.problems, ledger.examples)),
    ]


def _problems(problems: Counter[str], examples: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if not problems:
        yield "The recounts found no difference."
        return
    for kind, count in problems.most_common():
        yield f"- {count:,} × {kind}, such as {examples[kind][0]}"
