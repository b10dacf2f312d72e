"""What the commands print: tables for terminals, plain lines for pipes, bars for waiting."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO, TypeAlias, TypeVar

if TYPE_CHECKING:
    import argparse

    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

T = TypeVar("T")


def printable(text: str) -> str:
    """The text on one line, with what could steer a terminal or reorder the line escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on a terminal; elsewhere, or without rich, tab-separated lines with a header."""
    cells = ([printable(cell) for cell in row] for row in rows)
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass
        else:
            table = Table(box=None, header_style="bold", pad_edge=False)
            for column in columns:
                table.add_column(
                    column,
                    justify="right" if column in _NUMBERS else "left",
                    no_wrap=column == "STATUS",
                    overflow="fold",
                )
            for row in cells:
                table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
            Console().print(table)
            return
    print("\t".join(columns))
    for row in cells:
        print("\t".join(row))


def byte_progress(items: Iterable[T], file: TextIO, size: int | None) -> Iterator[T]:
    """The items, with a bar on a terminal that shows how much of `file` they have used up."""
    if size is None or not sys.stderr.isatty():
        yield from items
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    except ImportError:
        yield from items
        return
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=size)
        for item in items:
            progress.update(task, completed=file.buffer.tell())
            yield item
        progress.update(task, completed=size)


_NUMBERS = frozenset({"DEVICES", "DONE", "FAILED", "ATTEMPT"})

_STYLES = {
    "IN_PROGRESS": "cyan",
    "COMPLETED": "green",
    "SUCCEEDED": "green",
    "CANCELED": "yellow",
    "REJECTED": "yellow",
    "FAILED": "red",
    "TIMED_OUT": "red",
}
