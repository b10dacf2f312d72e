"""Prints tables: fitted to a terminal, tab-separated elsewhere."""

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jobs_grpc.text import escape_unprintable

_GAP = 2

_STATUS_STYLES = {
    "IN_PROGRESS": "cyan",
    "PAUSED": "yellow",
    "COMPLETED": "green",
    "SUCCEEDED": "green",
    "CANCELED": "yellow",
    "REJECTED": "yellow",
    "FAILED": "red",
    "TIMED_OUT": "red",
    "OK": "green",
    "WARNING": "yellow",
    "ERROR": "red",
}


class Column(NamedTuple):
    """A column, and how it adapts to a terminal that is too narrow for all columns."""

    name: str
    drop_order: int = 0
    """The column with the highest value is dropped first; 0: never dropped."""
    min_width: int | None = None
    """Cells may be shortened to this many characters; None: never."""
    wraps: bool = False
    """Whether long cells wrap instead of being cut."""
    is_number: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on a terminal; elsewhere, or without rich, tab-separated lines."""
    cells = ([escape_unprintable(cell) for cell in row] for row in rows)
    if sys.stdout.isatty():
        try:
            import rich  # noqa: F401
        except ImportError:
            pass
        else:
            _print_fitted(columns, list(cells))
            return
    print("\t".join(_header(columns)))
    for row in cells:
        print("\t".join(row))


def _print_fitted(columns: Sequence[Column], rows: list[list[str]]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    natural = [max(map(cell_len, cells)) for cells in zip(_header(columns), *rows, strict=True)]
    console = Console()
    widths = _fit_widths(columns, natural, console.width)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for index, width in widths.items():
        column = columns[index]
        table.add_column(
            column.name,
            justify="right" if column.is_number else "left",
            width=width,
            no_wrap=not column.wraps,
            overflow="fold" if column.wraps else "ellipsis",
        )
    for row in rows:
        cells = [row[index] for index in widths]
        table.add_row(*(Text(cell, style=_STATUS_STYLES.get(cell, "")) for cell in cells))
    # If columns that are never cut do not fit, the terminal wraps the lines.
    console.width = max(console.width, sum(widths.values()) + _GAP * len(widths))
    console.print(table)


def _header(columns: Sequence[Column]) -> list[str]:
    return [column.name for column in columns]


def _fit_widths(
    columns: Sequence[Column], natural: Sequence[int], total_width: int
) -> dict[int, int]:
    """Return the widths of the columns that fit, by their index.

    `natural` are the widths that show every cell in full.
    """
    minimum = [
        width if column.min_width is None else min(width, column.min_width)
        for column, width in zip(columns, natural, strict=True)
    ]
    kept = list(range(len(columns)))
    while (spare := total_width + _GAP - sum(minimum[i] + _GAP for i in kept)) < 0:
        candidate = max(kept, key=lambda i: columns[i].drop_order)
        if not columns[candidate].drop_order:
            break
        kept.remove(candidate)
    widths = {i: minimum[i] for i in kept}
    # Columns that need the least extra width get it first.
    for i in sorted(kept, key=lambda i: natural[i] - minimum[i]):
        widths[i] += min(natural[i] - minimum[i], max(0, spare))
        spare -= widths[i] - minimum[i]
    return widths
