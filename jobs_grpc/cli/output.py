"""Prints responses, notes and progress."""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from jobs_grpc.text import escape_unprintable, escape_unprintable_json

T = TypeVar("T")

# The numbers of a Struct are doubles, which are exact for integers up to this one.
MAX_EXACT_INTEGER = 2**53


def print_note(text: str) -> None:
    """Print a line that is not part of the output to stderr."""
    sys.stdout.flush()
    print(escape_unprintable(text), file=sys.stderr)


def struct_json(message: Message) -> str:
    """Return a Struct as one line of JSON."""
    return json.dumps(_restore_integers(json_format.MessageToDict(message)), ensure_ascii=False)


def print_json(message: Message, indent: int | None = 2) -> None:
    """Print a message as JSON with the contract's field names, on one line if `indent` is None."""
    fields = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    # For characters outside its encoding, the stream writes Python escapes, which are not JSON.
    ascii_only = sys.stdout.encoding != "utf-8"
    text = json.dumps(_restore_integers(fields), ensure_ascii=ascii_only, indent=indent)
    print("\n".join(map(escape_unprintable_json, text.split("\n"))), flush=not indent)


def _restore_integers(value: Any) -> Any:
    """Replace 5.0 with 5: protobuf's JSON makes every number of a Struct a float."""
    match value:
        case dict():
            return {key: _restore_integers(item) for key, item in value.items()}
        case list():
            return [_restore_integers(item) for item in value]
        case float() if value.is_integer() and abs(value) <= MAX_EXACT_INTEGER:
            return int(value)
    return value


def byte_progress(items: Iterable[T], file: TextIO, size: int | None) -> Iterator[T]:
    """Yield the items. On a terminal, show how much of `file` has been read."""
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


@contextmanager
def progress_line() -> Iterator[Callable[[str], None] | None]:
    """Yield a function that replaces the line on the terminal; None without a terminal.

    Clears the line when the block ends.
    """
    if not (sys.stderr and sys.stderr.isatty()):
        yield None
        return
    clear = "\r\x1b[K"

    def show(text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(clear + escape_unprintable(text)[:width], end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print(clear, end="", file=sys.stderr, flush=True)
