"""Tables: for terminals of any width, and as plain lines for pipes."""

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jobs_grpc.cli.output import printable

_GAP = 2


class Column(NamedTuple):
    """A column, and how it gives way where a terminal is too narrow for all."""

    name: str
    leaves: int = 0
    """It is left out before those with less; 0: never."""
    least: int | None = None
    """It may be cut to so many characters; None: each cell is on one line, whole."""
    folds: bool = False
    """Rather than being cut, it goes on in the next line."""
    number: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """A table on a terminal; elsewhere, or without rich, tab-separated lines with a header."""
    cells = ([printable(cell) for cell in row] for row in rows)
    if sys.stdout.isatty():
        try:
            from rich.cells import cell_len
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass
        else:
            shown = list(cells)
            natural = [
                max(map(cell_len, each)) for each in zip(_header(columns), *shown, strict=True)
            ]
            console = Console()
            widths = _fitted(columns, natural, console.width)
            table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
            for index, width in widths.items():
                column = columns[index]
                table.add_column(
                    column.name,
                    justify="right" if column.number else "left",
                    width=width,
                    no_wrap=not column.folds,
                    overflow="fold" if column.folds else "ellipsis",
                )
            for row in shown:
                each = (row[index] for index in widths)
                table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in each))
            # What must be whole may be wider than the terminal, which then breaks the lines.
            console.width = max(console.width, sum(widths.values()) + _GAP * len(widths))
            console.print(table)
            return
    print("\t".join(_header(columns)))
    for row in cells:
        print("\t".join(row))


def _header(columns: Sequence[Column]) -> list[str]:
    return [column.name for column in columns]


def _fitted(columns: Sequence[Column], natural: Sequence[int], room: int) -> dict[int, int]:
    """The widths of those columns, by their index, for which there is room."""
    least = [
        width if column.least is None else min(width, column.least)
        for column, width in zip(columns, natural, strict=True)
    ]
    kept = list(range(len(columns)))
    while (spare := room + _GAP - sum(least[i] + _GAP for i in kept)) < 0:
        last = max(kept, key=lambda i: columns[i].leaves)
        if not columns[last].leaves:
            break
        kept.remove(last)
    widths = {i: least[i] for i in kept}
    # Those that lack little are whole first.
    for i in sorted(kept, key=lambda i: natural[i] - least[i]):
        widths[i] += min(natural[i] - least[i], max(0, spare))
        spare -= widths[i] - least[i]
    return widths


_STYLES = {
    "IN_PROGRESS": "cyan",
    "COMPLETED": "green",
    "SUCCEEDED": "green",
    "CANCELED": "yellow",
    "REJECTED": "yellow",
    "FAILED": "red",
    "TIMED_OUT": "red",
}
