"""Prints responses, notes and progress in the format of --output."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from jobs_grpc.cli import arguments
from jobs_grpc.cli.formatting import CANCEL_CAUSES
from jobs_grpc.cli.parser import OUTPUT
from jobs_grpc.text import escape_unprintable, escape_unprintable_json

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

# The numbers of a Struct are doubles, which are exact for integers up to this one.
_MAX_EXACT_INTEGER = 2**53

TEXT_FORMATS = ("text", "json", "jsonl")

_FORMAT_HELP = {
    "text": "lines for people",
    "table": "a table for people, with the columns that fit the terminal",
    "wide": "with all columns",
    "json": "one JSON document",
    "jsonl": "a line of JSON for each item",
    "csv": "CSV with a header",
}


def add_output_options(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Add --output, --json and --utc. The first format is the default."""
    explained = "; ".join(f"{name}: {_FORMAT_HELP[name]}" for name in formats)
    json_name = "json" if "json" in formats else "jsonl"
    group = parser.add_argument_group(OUTPUT)
    help_text = f"{explained} (default: {formats[0]})"
    group.add_argument(
        "-o", "--output", choices=formats, default=formats[0], metavar="FORMAT", help=help_text
    )
    arguments.add_constant(group, "--json", "output", json_name, f"the same as -o {json_name}")
    arguments.add_options(group, {"--utc": "show times in UTC instead of relative to now"})


def wants_json(argv: Sequence[str]) -> bool:
    """Return whether the arguments, which may be invalid, ask for JSON."""
    formats = ("json", "jsonl")
    pairs = zip(argv, [*argv[1:], ""], strict=False)
    return any(
        arg == "--json"
        or (arg in ("-o", "--output") and value in formats)
        or arg in [prefix + name for prefix in ("-o", "--output=") for name in formats]
        for arg, value in pairs
    )


def print_lines(*lines: str) -> None:
    """Print lines of the output, with escapes for what a terminal would interpret."""
    print("\n".join(map(escape_unprintable, lines)))


def color_console() -> "Console | None":
    """Return a rich console, or None if stdout is not a terminal or rich is not installed."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False)


def print_note(*lines: str) -> None:
    """Print lines that are not part of the output to stderr."""
    sys.stdout.flush()
    for line in lines:
        print(escape_unprintable(line), file=sys.stderr)


def struct_json(message: Message) -> str:
    return json.dumps(_restore_integers(json_format.MessageToDict(message)), ensure_ascii=False)


def message_dict(message: Message) -> dict[str, Any]:
    """Return a message as a JSON object with the contract's field names.

    The status of an execution is that of format_status. An empty job_id or time_zone of an
    execution is left out.
    """
    fields = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    result: dict[str, Any] = _restore_integers(fields)
    for execution in (result, result.get("execution")):
        if isinstance(execution, dict) and "execution_number" in execution:
            if execution.get("end_cause") in CANCEL_CAUSES:
                execution["status"] = "CANCELED"
            for name in ("job_id", "time_zone"):
                if execution.get(name) == "":
                    del execution[name]
    return result


def print_message(message: Message, output: str) -> None:
    """Print a message as JSON: on one line if `output` is jsonl."""
    print_json(message_dict(message), indent=None if output == "jsonl" else 2)


def print_result(args: argparse.Namespace, message: Message, *lines: str) -> None:
    """Print the response of a call as --output says: the lines for people, or JSON."""
    if args.output == "text":
        print_lines(*lines)
    else:
        print_message(message, args.output)


def field_lines(fields: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield a line for each name and value. The names have at most `width` characters."""
    for name, value in fields:
        yield f"{name:<{width}} {value}"


def print_json(value: object, indent: int | None = 2, file: TextIO | None = None) -> None:
    """Print a value as JSON, on one line if `indent` is None."""
    file = file or sys.stdout
    # For characters outside its encoding, the stream writes Python escapes, which are not JSON.
    ascii_only = file.encoding.lower().replace("-", "") != "utf8"
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    lines = map(escape_unprintable_json, text.split("\n"))
    print("\n".join(lines), file=file)


def _restore_integers(value: Any) -> Any:
    """Replace 5.0 with 5: protobuf's JSON makes every number of a Struct a float."""
    match value:
        case dict():
            return {key: _restore_integers(item) for key, item in value.items()}
        case list():
            return [_restore_integers(item) for item in value]
        case float() if value.is_integer() and abs(value) <= _MAX_EXACT_INTEGER:
            return int(value)
    return value


@contextmanager
def progress_line() -> Iterator[Callable[[str], None] | None]:
    """Yield a function that replaces the line on the terminal; None without a terminal.

    Clears the line when the block ends.
    """
    if not sys.stderr.isatty():
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
