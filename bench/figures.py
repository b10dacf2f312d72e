"""The figures of a benchmark: its scale, the runs of each figure, and their median."""

import json
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.page import format_number, table
from bench.run import InvalidRun

# Subjects: what a figure measures.
SERVICE = "service"
METRICS = "metrics"  # the service with JOBS_METRICS_LISTEN
FASTAPI = "fastapi"
BASELINE = "baseline"  # bare SQL; for reads, the echo server
ECHO = "echo"  # the echo server, where BASELINE is bare SQL
MINIMAL = "minimal"  # grpc.aio, asyncpg and the statement, without the service
CONVERTING = "converting"  # the minimal server, which also converts rows to messages

LOWER_IS_BETTER = ("ms", "µs", "MiB", "bytes")


@dataclass(frozen=True)
class Scale:
    """How many runs, and how large."""

    runs: int
    seconds: float
    """Seconds of load per run."""
    job_sizes: tuple[int, ...]
    """Numbers of devices of a job, for growth; the largest is measured once."""
    client_counts: tuple[int, ...]
    listed_jobs: int
    executions_per_listed_job: int
    reports: int
    open_streams: int

    def runs_at(self, size: int) -> int:
        """Return how often jobs of this size are measured."""
        return 1 if size > 100_000 else self.runs


FULL = Scale(
    runs=3,
    seconds=2.0,
    job_sizes=(1_000, 10_000, 100_000, 1_000_000),
    client_counts=(1, 4, 16, 64),
    listed_jobs=200,
    executions_per_listed_job=10_000,
    reports=20_000,
    open_streams=1_000,
)

QUICK = Scale(
    runs=1,
    seconds=0.05,
    job_sizes=(100, 1_000),
    client_counts=(1, 4),
    listed_jobs=50,
    executions_per_listed_job=20,
    reports=320,
    open_streams=20,
)


@dataclass
class Figure:
    """The values of one subject in one case of a workload, one value per run."""

    workload: str
    case: str
    subject: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of the runs."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        """The median with its unit, and the range of several runs."""
        text = self.format(self.median)
        low, high = min(self.values), max(self.values)
        return f"{text} ({format_number(low)}–{format_number(high)})" if low < high else text

    def format(self, value: float) -> str:
        """Return a value with the unit."""
        separator = "" if self.unit == "/s" else " "
        return f"{format_number(value)}{separator}{self.unit}".rstrip()

    def times_better(self, other: "Figure") -> float:
        """Return the factor by which this figure is better than the other one."""
        if self.unit in LOWER_IS_BETTER:
            return other.median / self.median
        return self.median / other.median


class Results(list[Figure]):
    """All figures of a benchmark."""

    def add(self, workload: str, case: str, subject: str, unit: str, value: float) -> None:
        """Add the value of one run."""
        figure = self.find(workload, case, subject)
        if figure is None:
            figure = Figure(workload, case, subject, unit)
            self.append(figure)
        figure.values.append(value)
        print(f"  {workload}, {case}: {subject} {value:,.4g} {unit}".rstrip(), flush=True)

    def find(self, workload: str, case: str, subject: str) -> Figure | None:
        """Return a figure, or None if it was not measured."""
        key = workload, case, subject
        return next(
            (each for each in self if (each.workload, each.case, each.subject) == key), None
        )


@dataclass(frozen=True)
class Case:
    """Adds the figures of one case and subject."""

    results: Results
    name: str
    subject: str = SERVICE

    def add(self, workload: str, unit: str, value: float) -> None:
        """Add the value of one run."""
        self.results.add(workload, self.name, self.subject, unit, value)

    def add_percentiles(self, workload: str, unit: str, values: Sequence[float]) -> None:
        """Add p50 and p99 of a run. `workload` has "{}" in the place of these."""
        if not values:
            raise InvalidRun(f"{workload.format('p99')} has no values")
        for percent in (50, 99):
            self.add(workload.format(f"p{percent}"), unit, percentile(values, percent))


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of at least one value."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def save(path: Path, results: Results, machine: Mapping[str, str]) -> None:
    """Write the description of the machine and the figures as JSON, one in a line."""
    lines = (machine, *(asdict(figure) for figure in results))
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))


def load(path: Path) -> tuple[Results, dict[str, str]]:
    """Read the figures and the description of the machine."""
    machine, *figures = map(json.loads, path.read_text().splitlines())
    return Results(Figure(**figure) for figure in figures), machine


Measure = Callable[[], Awaitable[float]]


def tables_by_case(
    results: Results, goals: Mapping[str, float], subjects: Mapping[str, str] | None = None
) -> str:
    """Return a Markdown table for each case, with a row for each workload.

    `goals` are the largest values of workloads that are good enough, in the unit of the figure.
    `subjects` names the columns, of which the first has goals; by default, there is only SERVICE.
    """
    columns = subjects or {SERVICE: ""}
    tables = []
    for case in dict.fromkeys(figure.case for figure in results):
        rows = []
        for name in dict.fromkeys(figure.workload for figure in results if figure.case == case):
            found = [results.find(name, case, subject) for subject in columns]
            figure, goal = found[0], goals.get(name)
            cells = [name, *(str(each) if each else "–" for each in found), "", ""]
            if figure and goal is not None:
                verdict = "met" if figure.median <= goal else "missed"
                cells[-2:] = [f"≤ {goal:g} {figure.unit}".rstrip(), verdict]
            rows.append(cells)
        tables.append(table([case, *columns.values(), "goal", ""], rows))
    return "\n\n".join(tables)
