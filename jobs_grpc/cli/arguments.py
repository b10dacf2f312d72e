"""Types of arguments, and functions that add options of these types.

Each type rejects an invalid value with a message that says what is valid.
"""

import argparse
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.times import UNITS, parse_time
from jobs_grpc.config import parsers
from jobs_grpc.config.parsers import Parser
from jobs_grpc.contract.field_rules import rules_of

T = TypeVar("T")

# With a percentage, the first failures decide nothing: 1 of 1 finished devices is 100 percent.
MIN_FINISHED = 20

_MAX_SECONDS = 86400.0
_MAX_GATE_SECONDS = rules_of(pb.Gate, "bake_time").duration.lte.seconds
_ALLOW_EMPTY = ",allow-empty"
_STAGE_FIELDS = {"group": "group_id", "where": "selector"}


def field_range(message: type[Message], field: str) -> tuple[int, int]:
    """Return the lowest and the highest number that a field of the contract may have."""
    rules = rules_of(message, field).int32
    return rules.gte, rules.lte


def range_text(message: type[Message], field: str) -> str:
    return "{}–{}".format(*field_range(message, field))


def argument(parser: Callable[[str], T]) -> Callable[[str], T]:
    """Make an argument type of a parser: argparse drops the message of a plain ValueError."""

    def parse_argument(value: str) -> T:
        try:
            return parser(value)
        except ValueError as e:
            raise argparse.ArgumentTypeError(str(e)) from None

    return parse_argument


def _number_of(message: type[Message], field: str) -> Callable[[str], int]:
    return parsers.integer(*field_range(message, field))


def number_of(message: type[Message], field: str) -> Callable[[str], int]:
    return argument(_number_of(message, field))


def _number(value: str, low: float, high: float) -> float:
    number = float(value)
    if not low <= number <= high:
        raise ValueError
    return number


def _latency(value: str) -> tuple[float, float]:
    low, _, high = value.partition(":")
    minimum = _number(low, 0, _MAX_SECONDS)
    return minimum, _number(high or low, minimum, _MAX_SECONDS)


def _device_format(value: str) -> str:
    with suppress(LookupError, AttributeError):
        ids = {value.format(number) for number in (1, 2)}
        if len(ids) == 2 and value.isascii() and value.isprintable():
            return value
    raise ValueError


def _stage(value: str) -> pb.Stage:
    if value == "rest":
        return pb.Stage(remainder=True)
    prefix, separator, devices = value.removesuffix(_ALLOW_EMPTY).partition(":")
    if separator and devices and prefix in _STAGE_FIELDS:
        size: Any = {_STAGE_FIELDS[prefix]: parsers.utf8(devices)}
        return pb.Stage(allow_empty=value.endswith(_ALLOW_EMPTY), **size)
    if value.endswith("%"):
        return pb.Stage(percent=_number_of(pb.Stage, "percent")(value[:-1]))
    return pb.Stage(device_count=_number_of(pb.Stage, "device_count")(value))


def _threshold(value: str) -> pb.FailureCriterion:
    if value.endswith("%"):
        percent = _number_of(pb.FailureCriterion, "percent")(value[:-1])
        return pb.FailureCriterion(percent=percent, min_finished=MIN_FINISHED)
    return pb.FailureCriterion(count=_number_of(pb.FailureCriterion, "count")(value))


def _label(value: str) -> tuple[str, str]:
    key, separator, label_value = value.partition("=")
    if not key or not separator:
        raise ValueError
    return parsers.utf8(key), parsers.utf8(label_value)


def _bug(value: str) -> tuple[float, str]:
    share, _, code = value.partition(":")
    if not code or not code.isascii() or not code.isprintable():
        raise ValueError
    return _number(share, 0, 1), code


def _recovering(value: str) -> tuple[float, str, int]:
    bug, _, attempts = value.rpartition(":")
    rate, code = _bug(bug)
    return rate, code, parsers.integer(1, 9)(attempts)


def parse_duration(value: str) -> int:
    """Read a number of seconds with a unit, such as 10m. Raises ValueError without a message."""
    if not (unit := UNITS.get(value[-1:])):
        raise ValueError
    return round(_number(value[:-1], 0, _MAX_GATE_SECONDS / unit) * unit)


def _moment(value: str) -> datetime:
    if value[-1:] in UNITS:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(value))
    return parse_time(value)


text = argument(parsers.utf8)
new_expiry_hours = argument(parsers.integer(1, 366 * 24))
server_address = argument(parsers.server_address)
worker_count = argument(parsers.worker_count)
position = argument(parsers.integer(0, 2**53 - 1))
row_limit = argument(parsers.integer(1, 2**31 - 1))
seconds = argument(parsers.seconds(0.001, _MAX_SECONDS))
stage = argument(
    Parser("a whole number such as 1% or 50, group:NAME, where:SELECTOR or rest", _stage)
)
time = argument(parse_time)
label = argument(Parser("KEY=VALUE, such as team=pumps", _label))
failure_statuses = [
    pb.JobExecution.Status.Name(status)
    for status in getattr(rules_of(pb.FailureCriterion, "statuses").repeated.items.enum, "in")
]
threshold = argument(Parser("a whole number such as 50, or 1% to 100%", _threshold))
duration = argument(
    Parser(
        "a time up to 30d, such as 90s, 10m, 24h or 7d",
        lambda value: Duration(seconds=parse_duration(value)),
    )
)
moment = argument(
    Parser("a time such as 2030-01-31T12:00:00Z (local time without Z), or 24h or 7d ago", _moment)
)
device_count = argument(parsers.integer(1, 100_000))
rate = argument(Parser("a number from 0 to 1", lambda value: _number(value, 0, 1)))
bug = argument(Parser("RATE:CODE, such as 0.08:FLASH", _bug))
recovering = argument(Parser("RATE:CODE:ATTEMPTS, such as 0.3:NETWORK:2", _recovering))
latency = argument(Parser("MIN:MAX seconds", _latency))
device_format = argument(Parser("printable ASCII with a field such as {:04}", _device_format))


def add_options(
    parser: "argparse._ActionsContainer",
    helps: Mapping[str, str],
    *,
    default: str | None = None,
    **types: Callable[[str], object],
) -> None:
    """Add options. `helps` maps a usage to its help.

    "--stage N" has a value, "--device ID ..." a list that can be repeated, "--force" is a flag.
    `types` maps names of values, such as N, to types. Others are texts with the `default`.
    """
    for usage, help_text in helps.items():
        option, _, metavar = usage.removesuffix(" ...").partition(" ")
        if not metavar:
            parser.add_argument(option, action="store_true", help=help_text)
            continue
        kind: dict[str, Any] = {"default": None if metavar in types else default}
        if usage.endswith(" ..."):
            kind = {"action": "extend", "nargs": "+", "default": []}
        value = types.get(metavar, text)
        parser.add_argument(option, type=value, metavar=metavar, help=help_text, **kind)


def add_repeated(
    parser: "argparse._ActionsContainer",
    usage: str,
    help_text: str,
    value: Callable[[str], object] = text,
    dest: str | None = None,
) -> None:
    """Add an option such as "--label KEY=VALUE" that can be repeated: a list of values."""
    option, metavar = usage.split(" ")
    kind: dict[str, Any] = {"dest": dest, "action": "append", "default": []}
    parser.add_argument(option, type=value, metavar=metavar, help=help_text, **kind)


def add_constant(
    parser: "argparse._ActionsContainer", option: str, dest: str, value: object, help_text: str
) -> None:
    """Add an option that sets `dest` to this value."""
    parser.add_argument(option, dest=dest, action="store_const", const=value, help=help_text)


def add_yes(
    parser: argparse.ArgumentParser, help_text: str = "skip the confirmation that a terminal shows"
) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help=help_text)


def add_labels(parser: "argparse._ActionsContainer", help_text: str) -> None:
    add_repeated(parser, "--label KEY=VALUE", help_text, label, "labels")


def read_labels(args: argparse.Namespace) -> dict[str, str]:
    """Return the labels of --label. Raises CliError if a key is given twice."""
    labels: dict[str, str] = {}
    for key, value in args.labels:
        if key in labels:
            raise InvalidInput(f"the label {key} is given twice")
        labels[key] = value
    return labels


def add_limit(parser: "argparse._ActionsContainer", limit: int, noun: str) -> None:
    """Add --limit, the maximum number of items of a list."""
    help_text = f"maximum number of {noun} (default: {limit})"
    parser.add_argument("--limit", type=row_limit, default=limit, metavar="N", help=help_text)
