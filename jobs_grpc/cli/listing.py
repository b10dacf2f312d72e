"""Prints lists of messages as tables, JSON or CSV, with the columns that the user chooses."""

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TextIO, TypeVar

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli import arguments
from jobs_grpc.cli.formatting import format_age, format_labels, format_time
from jobs_grpc.cli.output import message_dict, print_json, print_note, struct_json
from jobs_grpc.cli.tables import TableColumn, print_table
from jobs_grpc.client import Pager
from jobs_grpc.text import escape_unprintable

M = TypeVar("M", bound=Message)

FORMATS = ("table", "wide", "json", "jsonl", "csv")

# Where a spreadsheet could see the start of a formula; devices choose some of the values. It may
# split cells at other separators than the comma, also within quotes, skip spaces, and read
# full-width and small forms as "=", "+", "-" and "@". A tab or a line break at the start can be
# removed by its import. After a separator and a space, a negative number, as in JSON, is not one.
_FORMULA_START = re.compile(
    r"^(?=[\t\r\n]|\s*[{0}])"
    r"|(?<=[,;|\t\r\n])(?=[^\S\t\r\n]*[{0}])(?!\s+{1}(?:[,;|\]}}]|\Z))".format(
        r"=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b",
        r"-\d[\d.]*(?:e[+-]?\d+)?",
    )
)


@dataclass(frozen=True)
class Column(Generic[M]):
    """A column of a listing."""

    name: str
    """Its name in --columns, CSV and JSON: that of the field in the contract."""
    title: str
    read: Callable[[M], object] | None = None
    """Returns a str, an int, a Timestamp, a Struct, a list or dict of str, or None: no value.
    Without it, the value is that of the field with the name of the column."""
    drop_order: int = 0
    """If the terminal is narrow, the column with the highest value is dropped first; 0: never."""
    min_width: int | None = None
    """Cells may be shortened to this many characters; None: never."""
    wraps: bool = False
    """Whether long cells wrap instead of being cut."""
    wide: bool = False
    """Shown by `-o wide` and --columns only."""
    is_number: bool = False
    text: Callable[[M], object] | None = None
    """Returns what tables show in place of the value."""

    def value(self, item: M) -> object:
        """Return the value of an item; None if it has none."""
        return self.read(item) if self.read else _field_value(item, self.name)


def _field_value(message: Message, name: str) -> object:
    """Return a field as a value of a column; None if it is unset or empty."""
    value = getattr(message, name)
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.has_presence:
        return value if message.HasField(name) else None
    if not field.is_repeated:
        return None if value == "" else value
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    return (dict(sorted(value.items())) if is_map else list(value)) or None


def add_listing_options(
    parser: argparse.ArgumentParser,
    columns: Sequence[Column[M]],
    *,
    limit: int = 0,
    noun: str = "",
) -> None:
    """Add --columns and --raw, and --limit, --all and --page-token if there is a default limit."""
    names = [column.name for column in columns]
    option: Any = parser.add_argument(
        "--columns",
        type=_column_names(columns),
        metavar="NAME,…",
        help=f"columns to show, in this order: {', '.join(names)}",
    )
    option.completer = lambda prefix, **_: [
        prefix.rpartition(",")[0] + "," * ("," in prefix) + name for name in names
    ]
    parser.add_argument(
        "--raw",
        action="store_true",
        help="in CSV, keep = + - @ at the start of a cell or after a separator unchanged; without"
        " it they get a leading ', so that no spreadsheet runs them as formulas",
    )
    if limit:
        size = parser.add_mutually_exclusive_group()
        arguments.add_limit(size, limit, noun)
        size.add_argument(
            "--all", dest="limit", action="store_const", const=None, help=f"show all {noun}"
        )
        page_help = (
            "continue with the next_page_token of an earlier call with the same filters, which "
            "the formats json and jsonl print"
        )
        arguments.add_options(parser, {"--page-token TOKEN": page_help}, default="")


def _column_names(columns: Sequence[Column[M]]) -> Callable[[str], list[str]]:
    by_alias = {column.title.lower(): column.name for column in columns}
    by_alias |= {column.name: column.name for column in columns}

    def parse(value: str) -> list[str]:
        names = [name.strip().lower() for name in value.split(",")]
        if unknown := [name for name in names if name not in by_alias]:
            known = ", ".join(column.name for column in columns)
            raise argparse.ArgumentTypeError(f"no column {unknown[0]!r}; the columns are {known}")
        return [by_alias[name] for name in names]

    return parse


def chosen_columns(args: argparse.Namespace, columns: Sequence[Column[M]]) -> list[Column[M]]:
    """Return the columns to show."""
    if args.columns:
        by_name = {column.name: column for column in columns}
        return [by_name[name] for name in args.columns]
    if args.output == "table":
        return [column for column in columns if not column.wide]
    return list(columns)


async def print_listing(
    args: argparse.Namespace,
    columns: Sequence[Column[M]],
    pager: Pager[M],
    *,
    key: str,
    noun: str,
    parent: Mapping[str, object] | None = None,
    order: str = "first",
    next_page: str = "next_page_token",
    reverse: bool = False,
) -> None:
    """Print the items of a pager, and how to see those that follow.

    `order` says which items come first, such as "newest". With `reverse`, the last item of the
    pager is printed first.

    In JSON, the items are the field `key` of an object with the fields of `parent`, and the token
    of the next page is the field `next_page`.
    """
    count = 0
    if args.output in ("csv", "jsonl") and not reverse:
        writer = RowWriter(args, columns, sys.stdout)
        async for page in pager.pages():
            writer.write(page)
            count += len(page)
    else:
        items = [item async for item in pager]
        count = len(items)
        if reverse:
            items.reverse()
        if args.output == "json":
            rows = [json_row(args, columns, item) for item in items]
            print_json({**(parent or {}), key: rows, next_page: pager.next_page_token})
            return
        print_rows(args, columns, items)
        if not items and args.output in ("table", "wide"):
            print_note(f"no {noun}")
    if pager.next_page_token and args.output == "jsonl":
        sys.stdout.flush()
        print_json({next_page: pager.next_page_token}, indent=None, file=sys.stderr)
    elif pager.next_page_token:
        which = "the next" if args.page_token else f"the {order}"
        number = noun.removesuffix("s") if count == 1 else f"{count:,} {noun}"
        print_note(f"{which} {number}; --all shows the rest")


def print_rows(args: argparse.Namespace, columns: Sequence[Column[M]], items: Iterable[M]) -> None:
    """Print items in the format table, wide, csv or jsonl."""
    if args.output in ("csv", "jsonl"):
        RowWriter(args, columns, sys.stdout).write(items)
        return
    shown = chosen_columns(args, columns)
    print_table(
        [
            # Columns that the user has named are not dropped.
            TableColumn(
                c.title, 0 if args.columns else c.drop_order, c.min_width, c.wraps, c.is_number
            )
            for c in shown
        ],
        ([_text((c.text or c.value)(item), args.utc) for c in shown] for item in items),
        fit=args.output != "wide",
    )


def json_row(args: argparse.Namespace, columns: Sequence[Column[M]], item: M) -> dict[str, object]:
    """Return an item as a JSON object: the message, or the columns that the user chooses."""
    if not args.columns:
        return message_dict(item)
    return {
        column.name: _json_value(column.value(item)) for column in chosen_columns(args, columns)
    }


class RowWriter(Generic[M]):
    """Writes items as CSV with a header, or as JSON Lines."""

    def __init__(
        self, args: argparse.Namespace, columns: Sequence[Column[M]], file: TextIO
    ) -> None:
        self._args = args
        self._all_columns = columns
        self._columns = chosen_columns(args, columns)
        self._file = file
        # A terminal must not interpret what a device has sent; a file gets it unchanged.
        self._escape = escape_unprintable if file.isatty() else lambda text: text
        self._csv = (
            csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
            if args.output == "csv"
            else None
        )
        self._has_header = False

    def write(self, items: Iterable[M]) -> None:
        """Write items. The header comes with the first ones, after the first call has succeeded."""
        if self._csv is None:
            for item in items:
                row = json_row(self._args, self._all_columns, item)
                print_json(row, indent=None, file=self._file)
            return
        if not self._has_header:
            self._csv.writerow([column.name for column in self._columns])
            self._has_header = True
        for item in items:
            cells = [_csv_text(column.value(item)) for column in self._columns]
            if not self._args.raw:
                cells = [_FORMULA_START.sub("'", cell) for cell in cells]
            self._csv.writerow(map(self._escape, cells))


def _text(value: object, utc: bool) -> str:
    """Format a value for people."""
    match value:
        case None:
            return "-"
        case int():
            return f"{value:,}"
        case Timestamp():
            return format_time(value) if utc else format_age(value)
        case Struct():
            return struct_json(value)
        case list():
            return " ".join(value)
        case dict():
            return format_labels(value)
    return str(value)


def _csv_text(value: object) -> str:
    match value:
        case None:
            return ""
        case Timestamp():
            return value.ToJsonString()
        case Struct():
            return struct_json(value)
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def _json_value(value: object) -> Any:
    match value:
        case Timestamp():
            return value.ToJsonString()
        case Struct():
            return message_dict(value)
    return value
