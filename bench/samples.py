"""Samples of a long run, such as its minutes or months: what grows, and what gets slower."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import asyncpg

from bench.figures import percentile
from bench.page import format_number, table

MIB = 1 << 20

_SIZES = """
    SELECT c.relname AS table, pg_table_size(c.oid) AS bytes, pg_indexes_size(c.oid) AS index_bytes
    FROM pg_class c
    WHERE c.relkind = 'r' AND c.relnamespace = ANY ($1::text[]::regnamespace[])
    ORDER BY c.relname
"""
# One page is a large fraction of a smaller table.
_MIN_MIB = 1
# One row is a large fraction of a smaller figure, such as rows read.
_MIN_FIGURE = 20
# Fewer calls have no p99.
_MIN_CALLS = 300


@dataclass(frozen=True)
class Sample:
    """The figures of a part of a run."""

    number: float
    """Number of the minute or the month."""
    executions: int
    seconds: float
    """Wall-clock time."""
    tables: Mapping[str, tuple[int, int]]
    """Bytes of each table, and of its indexes."""
    latencies: Mapping[str, Sequence[float]]
    """The seconds of each call, by method."""
    others: Mapping[str, float] = field(default_factory=dict)
    """Other figures, by name."""

    def table_mib(self) -> float:
        """Return the MiB of all tables."""
        return sum(size for size, _ in self.tables.values()) / MIB

    def index_mib(self) -> float:
        """Return the MiB of all indexes."""
        return sum(size for _, size in self.tables.values()) / MIB


@dataclass(frozen=True)
class Goals:
    """How many times larger figures may become in a run; infinity: any number."""

    sizes: float = math.inf
    others: float = math.inf
    p99: float = math.inf


Column: TypeAlias = Callable[[Sample], str]


def latency(method: str, *percents: int) -> Column:
    """Return the column of percentiles of a call, in milliseconds."""

    def show(sample: Sample) -> str:
        found = sample.latencies.get(method)
        values = (1000 * percentile(found, percent) for percent in percents) if found else ()
        return "/".join(map(format_number, values)) or "–"

    return show


def other(name: str) -> Column:
    """Return the column of another figure."""
    return lambda sample: format_number(sample.others[name])


SIZES: Mapping[str, Column] = {
    "tables, MiB": lambda sample: format_number(sample.table_mib()),
    "indexes, MiB": lambda sample: format_number(sample.index_mib()),
}
"""The columns of sizes."""


async def table_sizes(owner: asyncpg.Connection, *schemas: str) -> dict[str, tuple[int, int]]:
    """Return the bytes of the tables of schemas, and of their indexes."""
    rows = await owner.fetch(_SIZES, schemas)
    return {row["table"]: (row["bytes"], row["index_bytes"]) for row in rows}


def by_sample(part: str, samples: Sequence[Sample], columns: Mapping[str, Column]) -> str:
    """Return a table with a row for each part of a run."""
    rows = ([f"{s.number:g}", *(show(s) for show in columns.values())] for s in samples)
    return table([part, *columns], rows)


def missed_goals(part: str, samples: Sequence[Sample], goals: Goals) -> list[str]:
    """Return what is beyond the goals in the last part of a run."""
    return [
        f"{name}: {_times(before, after):.2f} times {part} {samples[2].number:g}"
        for name, before, after, goal in _comparisons(samples, goals)
        if after > before * goal
    ]


def comparison(part: str, samples: Sequence[Sample], goals: Goals) -> str:
    """Return a table of the third and the last part. Before the third, tables still grow."""
    rows = []
    for name, before, after, goal in _comparisons(samples, goals):
        times = _times(before, after)
        wanted = "" if goal == math.inf else f"≤ {goal:.2f}{' missed' if times > goal else ''}"
        rows.append([name, *map(format_number, (before, after)), f"{times:.2f}", wanted])
    both = (f"{part} {sample.number:g}" for sample in (samples[2], samples[-1])) if rows else ()
    return table(["figure", *both, "ratio", "goal"], rows) if rows else ""


def _comparisons(
    samples: Sequence[Sample], goals: Goals
) -> Iterator[tuple[str, float, float, float]]:
    """Yield the name of a figure, both values, and the maximum ratio of these."""
    if len(samples) < 4:
        return
    first, last = samples[2], samples[-1]
    names = (("tables", "table", Sample.table_mib), ("indexes", "indexes of", Sample.index_mib))
    for kind, (of_all, of_one, mib) in enumerate(names):
        yield f"{of_all}, MiB", mib(first), mib(last), goals.sizes
        for name, sizes in first.tables.items():
            before, after = (size[kind] / MIB for size in (sizes, last.tables[name]))
            if max(before, after) >= _MIN_MIB:
                yield f"{of_one} `{name}`, MiB", before, after, goals.sizes
    for name, figure in first.others.items():
        if max(figure, last.others[name]) > _MIN_FIGURE:
            yield name, figure, last.others[name], goals.others
    for name, seconds in first.latencies.items():
        later = last.latencies.get(name, ())
        if min(len(seconds), len(later)) >= _MIN_CALLS:
            before, after = (1000 * percentile(times, 99) for times in (seconds, later))
            yield f"p99 of {name}, ms", before, after, goals.p99


def _times(before: float, after: float) -> float:
    return after / before if before else math.inf if after else 1.0
