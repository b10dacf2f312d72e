"""Prints lists of messages as tables, JSON or CSV, with the columns that the user chooses."""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TextIO, TypeVar

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli import arguments
from jobs_grpc.cli.fields import forward
from jobs_grpc.cli.formatting import format_age, format_labels, format_time
from jobs_grpc.cli.output import message_dict, print_json, print_note, struct_json
from jobs_grpc.cli.tables import Column, print_table
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


def _value(column: Column[M], message: M) -> object:
    """Return the value of a message in a column; None if the field is unset or empty."""
    if column.read:
        return column.read(message)
    name, field = column.name, message.DESCRIPTOR.fields_by_name[column.name]
    value = getattr(message, name)
    if field.has_presence:
        return value if message.HasField(name) else None
    if not field.is_repeated:
        return None if value == "" else value
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    return (dict(sorted(value.items())) if is_map else list(value)) or None


@dataclass(frozen=True)
class Listing(Generic[M]):
    """The columns of a list that a command prints."""

    noun: str
    """Plural noun for the items; also their field name in JSON."""
    columns: Sequence[Column[M]]
    first_page_word: str = "first"
    """Word for the first page in notes: "first" or "newest"."""

    def add_options(self, parser: argparse.ArgumentParser, limit: int = 0) -> None:
        """Add --columns and --raw, and the options for pages if there is a default limit.

        `forwarded` returns the limit and the page token.
        """
        names = [column.name for column in self.columns]
        columns_help = f"columns to show, in this order: {', '.join(names)}"
        option: Any = parser.add_argument(
            "--columns", type=self._parse_names, metavar="NAME,…", help=columns_help
        )
        option.completer = lambda prefix, **_: [
            prefix.rpartition(",")[0] + "," * ("," in prefix) + name for name in names
        ]
        raw_help = (
            "in CSV, keep = + - @ at the start of a cell or after a separator unchanged; without "
            "it they get a leading ', so that no spreadsheet runs them as formulas"
        )
        arguments.add_options(parser, {"--raw": raw_help})
        if not limit:
            return
        size = parser.add_mutually_exclusive_group()
        arguments.add_limit(size, limit, self.noun)
        arguments.add_constant(size, "--all", "limit", None, f"show all {self.noun}")
        page_help = (
            "continue with the next_page_token of an earlier call with the same filters (printed "
            "by the formats json and jsonl)"
        )
        arguments.add_options(parser, {"--page-token TOKEN": page_help}, default="")
        forward(parser, Message, "limit", "page_token")

    def _parse_names(self, value: str) -> list[str]:
        known = [column.name for column in self.columns]
        by_alias = {column.heading.lower(): column.name for column in self.columns}
        names = [by_alias.get(name, name) for name in map(str.strip, value.lower().split(","))]
        if unknown := [name for name in names if name not in known]:
            text = f"no column {unknown[0]!r}; the columns are {', '.join(known)}"
            raise argparse.ArgumentTypeError(text)
        return names

    def chosen_columns(self, args: argparse.Namespace) -> list[Column[M]]:
        if args.columns:
            by_name = {column.name: column for column in self.columns}
            return [by_name[name] for name in args.columns]
        return [c for c in self.columns if args.output != "table" or not c.wide]

    def print_items(
        self,
        args: argparse.Namespace,
        items: Sequence[M],
        parent: Mapping[str, object] | None = None,
        **others: object,
    ) -> None:
        """Print items. In JSON, they are a field of an object, between `parent` and `others`."""
        if args.output == "json":
            rows = [self.json_row(args, item) for item in items]
            print_json({**(parent or {}), self.noun: rows, **others})
        elif args.output in ("csv", "jsonl"):
            RowWriter(args, self, sys.stdout).write(items)
        else:
            shown = self.chosen_columns(args)
            if args.columns:  # The user has named them, so none is dropped.
                shown = [replace(column, drop_order=0) for column in shown]
            cells = (
                [_text((c.text or partial(_value, c))(item), args.utc) for c in shown]
                for item in items
            )
            print_table(shown, cells, fit=args.output != "wide")
            if not items:
                print_note(f"no {self.noun}")

    async def print_pages(
        self,
        args: argparse.Namespace,
        pager: Pager[M],
        parent: Mapping[str, object] | None = None,
        *,
        next_page: str = "next_page_token",
        reverse: bool = False,
    ) -> None:
        """Print the items of a pager, and how to see those that follow.

        `next_page` is the field with the token of the next page in JSON. With `reverse`, the last
        item of the pager is printed first.
        """
        count = 0
        if args.output in ("csv", "jsonl") and not reverse:
            writer = RowWriter(args, self, sys.stdout)
            async for page in pager.pages():
                writer.write(page)
                count += len(page)
        else:
            items = [item async for item in pager]
            count = len(items)
            if reverse:
                items.reverse()
            self.print_items(args, items, parent, **{next_page: pager.next_page_token})
        if not pager.next_page_token or args.output == "json":
            return
        if args.output == "jsonl":
            sys.stdout.flush()
            print_json({next_page: pager.next_page_token}, indent=None, file=sys.stderr)
        else:
            which = "the next" if args.page_token else f"the {self.first_page_word}"
            number = self.noun.removesuffix("s") if count == 1 else f"{count:,} {self.noun}"
            print_note(f"{which} {number}; --all shows the rest")

    def json_row(self, args: argparse.Namespace, item: M) -> dict[str, object]:
        """Return an item as a JSON object: the message, or the columns that the user chooses."""
        if not args.columns:
            return message_dict(item)
        return {c.name: _json_value(_value(c, item)) for c in self.chosen_columns(args)}


class RowWriter(Generic[M]):
    """Writes items as CSV with a header, or as JSON Lines."""

    def __init__(self, args: argparse.Namespace, listing: Listing[M], file: TextIO) -> None:
        self._args = args
        self._listing = listing
        self._columns = listing.chosen_columns(args)
        self._file = file
        # A terminal must not interpret what a device has sent; a file gets it unchanged.
        self._escape = escape_unprintable if file.isatty() else lambda text: text
        self._csv = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        self._has_header = False

    def write(self, items: Iterable[M]) -> None:
        """Write items. The header comes with the first ones, after the first call has succeeded."""
        if self._args.output != "csv":
            for item in items:
                row = self._listing.json_row(self._args, item)
                print_json(row, indent=None, file=self._file)
            return
        if not self._has_header:
            self._csv.writerow([column.name for column in self._columns])
            self._has_header = True
        for item in items:
            cells = [_csv_text(_value(column, item)) for column in self._columns]
            if not self._args.raw:
                cells = [_FORMULA_START.sub("'", cell) for cell in cells]
            self._csv.writerow(map(self._escape, cells))


def _text(value: object, utc: bool) -> str:
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
