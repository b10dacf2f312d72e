"""Prints tables for people: fitted to a terminal, aligned elsewhere."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jobs_grpc.cli.output import color_console, print_note
from jobs_grpc.text import escape_unprintable

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

_GAP = 2

STATUS_STYLES = {
    "IN_PROGRESS": "cyan",
    "PAUSED": "yellow",
    "SCHEDULED": "cyan",
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


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column of a table: where its values come from, and how it adapts to a narrow terminal."""

    name: str
    """Its name in --columns, CSV and JSON: that of the field in the contract."""
    title: str = ""
    """Its title in tables; by default, its name in upper case."""
    read: Callable[[T], object] | None = None
    """Returns a str, an int, a Timestamp, a Struct, a list or dict of str, or None: no value.
    Without it, the value is that of the field with the name of the column."""
    drop_order: int = 0
    """The column with the highest value is dropped first; 0: never dropped."""
    min_width: int | None = None
    """Cells may be shortened to this many characters; None: never."""
    wraps: bool = False
    """Whether long cells wrap instead of being cut."""
    wide: bool = False
    """Shown by `-o wide` and --columns only."""
    is_number: bool = False
    text: Callable[[T], object] | None = None
    """Returns what tables show in place of the value."""

    @property
    def heading(self) -> str:
        return self.title or self.name.upper()


def print_table(
    columns: Sequence[Column[Any]], rows: Iterable[Sequence[str]], *, fit: bool = True
) -> None:
    """Print a table. On a narrow terminal, drop columns if `fit`; otherwise its lines wrap."""
    cells = [[escape_unprintable(cell) for cell in row] for row in rows]
    if console := color_console():
        _print_in_color(console, columns, cells, fit=fit)
    else:
        _print_aligned(columns, cells)


def _print_aligned(columns: Sequence[Column[Any]], rows: list[list[str]]) -> None:
    header = [column.heading for column in columns]
    widths = [max(map(_cell_width, cells)) for cells in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        padded = [
            " " * space + cell if column.is_number else cell + " " * space
            for column, cell, width in zip(columns, row, widths, strict=True)
            for space in [width - _cell_width(cell)]
        ]
        print((" " * _GAP).join(padded).rstrip())


def _cell_width(text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        from rich.cells import cell_len
    except ImportError:
        return len(text)
    return cell_len(text)


def _print_in_color(
    console: "Console", columns: Sequence[Column[Any]], rows: list[list[str]], *, fit: bool
) -> None:
    from rich.table import Table
    from rich.text import Text

    header = [column.heading for column in columns]
    natural = [max(map(_cell_width, cells)) for cells in zip(header, *rows, strict=True)]
    if not fit:
        columns = [replace(column, drop_order=0) for column in columns]
    gap = _GAP
    widths = _fit_widths(columns, natural, console.width, gap)
    narrow = _fit_widths(columns, natural, console.width, 1)
    if len(narrow) > len(widths) or _total_width(widths, gap) > console.width:
        gap, widths = 1, narrow
    if not fit and _total_width(widths, gap) > console.width:
        columns = [c if c.wraps else replace(c, min_width=None) for c in columns]
        widths = _fit_widths(columns, natural, console.width, gap)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, gap, 0, 0))
    for index, width in widths.items():
        column = columns[index]
        table.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            width=width,
            no_wrap=not column.wraps,
            overflow="fold" if column.wraps else "ellipsis",
        )
    for row in rows:
        cells = [row[index] for index in widths]
        # The color of "REJECTED (device deleted)" is that of REJECTED.
        styles = [STATUS_STYLES.get(cell.partition(" (")[0], "") for cell in cells]
        table.add_row(*map(Text, cells, styles))
    # If columns that are never cut do not fit, the terminal wraps the lines.
    console.width = max(console.width, _total_width(widths, gap) + gap)
    console.print(table)
    hidden = [column.heading for index, column in enumerate(columns) if index not in widths]
    if hidden:
        print_note(f"hidden, because the terminal is narrow: {', '.join(hidden)} (see -o wide)")


def _total_width(widths: dict[int, int], gap: int) -> int:
    return sum(widths.values()) + gap * (len(widths) - 1)


def _fit_widths(
    columns: Sequence[Column[Any]], natural: Sequence[int], total_width: int, gap: int
) -> dict[int, int]:
    """Return the widths of the columns that fit, by index. `natural` shows every cell in full."""
    minimum = [
        width if column.min_width is None else min(width, column.min_width)
        for column, width in zip(columns, natural, strict=True)
    ]
    kept = list(range(len(columns)))
    while (spare := total_width + gap - sum(minimum[i] + gap for i in kept)) < 0:
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
