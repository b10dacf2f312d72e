"""Measurements: alternating runs, medians, and what they are to reach."""

import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

SERVICE, DOCUMENT, LIMIT = "service", "document", "limit"
# Where LIMIT is of the database: the limit of the transport.
ECHO = "echo"
# Transport, driver and database, and nothing of ours in between; and with rows made messages.
PARTS = "parts"
MAPPED = "mapped"

LOWER_IS_BETTER = ("ms", "µs", "MiB", "bytes")


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    runs: int
    seconds: float
    """Of load a run."""
    sizes: tuple[int, ...]
    """Devices of a job, for growth; the largest is measured once."""
    clients: tuple[int, ...]
    listed: tuple[int, int]
    """Jobs, and executions of each, for ListJobs."""
    reports: int
    streams: int
    canceled: int
    """Jobs, one after another, by any number of clients."""

    def runs_at(self, size: int) -> int:
        """How often to measure jobs of a size."""
        return 1 if size > 100_000 else self.runs


FULL = Scale(
    runs=3,
    seconds=2.0,
    sizes=(1_000, 10_000, 100_000, 1_000_000),
    clients=(1, 4, 16, 64),
    listed=(200, 10_000),
    reports=20_000,
    streams=1_000,
    canceled=3_000,
)

QUICK = Scale(
    runs=1,
    seconds=0.05,
    sizes=(100, 1_000),
    clients=(1, 4),
    listed=(50, 20),
    reports=320,
    streams=20,
    canceled=20,
)


@dataclass
class Measured:
    """One figure, run by run: of a subject, doing a workload, in a case of it."""

    workload: str
    case: str
    subject: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of the runs."""
        return statistics.median(self.values)

    def times_better(self, other: "Measured") -> float:
        """By which factor this is better."""
        if self.unit in LOWER_IS_BETTER:
            return other.median / self.median
        return self.median / other.median


class Results(list[Measured]):
    """All that was measured."""

    def add(self, workload: str, case: str, subject: str, unit: str, value: float) -> None:
        """One run's figure."""
        found = self.find(workload, case, subject)
        if found is None:
            found = Measured(workload, case, subject, unit)
            self.append(found)
        found.values.append(value)
        print(f"  {workload}, {case}: {subject} {value:,.4g} {unit}", flush=True)

    def find(self, workload: str, case: str, subject: str) -> Measured | None:
        """What was measured, if it was."""
        for each in self:
            if (each.workload, each.case, each.subject) == (workload, case, subject):
                return each
        return None


Measurement = Callable[[], Awaitable[float]]


async def alternate(
    results: Results,
    workload: str,
    case: str,
    unit: str,
    runs: int,
    subjects: Mapping[str, Measurement],
) -> None:
    """Measure the subjects in turn, `runs` times over, so that what drifts drifts for all."""
    for _ in range(runs):
        for subject, measure in subjects.items():
            results.add(workload, case, subject, unit, await measure())
