"""What the commands print: texts, JSON, notes, and a bar for waiting."""

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    import argparse

    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

T = TypeVar("T")

# The numbers of a Struct are doubles: beyond it they no longer tell neighbours apart.
MAX_EXACT_INTEGER = 2**53


def printable(text: str) -> str:
    """The text on one line, with what could steer a terminal or reorder the line escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


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


def time_text(moment: Timestamp) -> str:
    """A moment in UTC, to the second."""
    return datetime.fromtimestamp(moment.seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def expiry_text(message: Message) -> str:
    """The expires_at of a job, or of an answer about one."""
    if not message.HasField("expires_at"):
        return "never"
    moment: Timestamp = message.expires_at  # type: ignore[attr-defined]
    return time_text(moment)


def devices_text(count: int) -> str:
    """So many devices."""
    return f"{count} device" if count == 1 else f"{count} devices"


def as_json(message: Message) -> str:
    """A Struct as JSON in one line."""
    return json.dumps(_whole(json_format.MessageToDict(message)), ensure_ascii=False)


def print_json(message: Message, indent: int | None = 2) -> None:
    """Print an answer as JSON, with the contract's field names; in one line without an indent."""
    fields = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    # Escapes of our own would not be JSON's.
    ascii_only = sys.stdout.encoding != "utf-8"
    text = json.dumps(_whole(fields), ensure_ascii=ascii_only, indent=indent)
    print(text, flush=not indent)


def _whole(value: Any) -> Any:
    """The same with 5 for 5.0: protobuf's JSON makes every number of a Struct a float."""
    match value:
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case float() if value.is_integer() and abs(value) <= MAX_EXACT_INTEGER:
            return int(value)
    return value


def note(text: str) -> None:
    """Tell a person something that is not part of the output."""
    sys.stdout.flush()
    print(text, file=sys.stderr)
