"""Documents: google.protobuf.Struct on the wire, JSON in the database."""

import json
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from jobs_grpc.errors import Violation

# Beyond it, a double no longer tells neighbouring whole numbers apart.
_MAX_EXACT_INTEGER = 2**53

# Protobuf stops at 100 messages inside one another. A level of a document takes up to
# three, and an answer holds the document deeper than the request did.
_MAX_DEPTH = 20

# A byte of compact JSON is at most 5.5 bytes on the wire ("1," is 11). What is far beyond
# that is refused before it is walked through.
_MAX_WIRE_RATIO = 8

_MAX_PATH = 120


class _Invalid(Exception):
    """Raised where the fault is; the path to it is put together on the way out."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self._path = ""

    def inside(self, part: str) -> None:
        self._path = part + self._path

    @property
    def path(self) -> str:
        cut = self._path if len(self._path) <= _MAX_PATH else self._path[:_MAX_PATH] + "…"
        # Keys are the caller's: none may break the line or reach a terminal as it is.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def to_json(struct: Struct, field: str, max_bytes: int) -> tuple[str, list[Violation]]:
    """The document as compact JSON, or why it can't be stored.

    Whole numbers stay whole. The size counts numbers in full ("1e300" as 301 digits),
    as the database will write them out.
    """
    if struct.ByteSize() > max_bytes * _MAX_WIRE_RATIO:
        return "", [Violation(field, f"{field} is larger than {max_bytes} bytes as JSON")]
    try:
        value = _from_struct(struct, depth=1)
    except _Invalid as e:
        e.inside(field)
        return "", [Violation(e.path, f"{e.path} {e.problem}")]
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    size = len(text.encode()) + sum(_written_out(number) for number in _numbers(value))
    if size > max_bytes:
        problem = f"{field} has {size} bytes as JSON; at most {max_bytes} are allowed"
        return "", [Violation(field, problem)]
    return text, []


def from_json(text: str) -> Struct:
    """The inverse of to_json."""
    struct = Struct()
    struct.update(json.loads(text))
    return struct


def _from_struct(struct: Struct, depth: int) -> dict[str, Any]:
    _check_depth(depth)
    result = {}
    for key, value in struct.fields.items():
        name = _text(key)
        try:
            result[name] = _from_value(value, depth)
        except _Invalid as e:
            e.inside(f".{key}")
            raise
    return result


def _from_list(values: Iterable[Value], depth: int) -> list[Any]:
    _check_depth(depth)
    result = []
    for index, value in enumerate(values):
        try:
            result.append(_from_value(value, depth))
        except _Invalid as e:
            e.inside(f"[{index}]")
            raise
    return result


def _from_value(value: Value, depth: int) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return _text(value.string_value)
        case "number_value":
            return _number(value.number_value)
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case "struct_value":
            return _from_struct(value.struct_value, depth + 1)
        case "list_value":
            return _from_list(value.list_value.values, depth + 1)
        case _:
            raise _Invalid("has no value")


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _Invalid(f"is nested deeper than {_MAX_DEPTH} levels")


def _text(text: str) -> str:
    if "\0" in text:
        raise _Invalid("has the character U+0000, which can't be stored")
    return text


def _number(number: float) -> int | float:
    if not math.isfinite(number):
        raise _Invalid("is not a finite number, which JSON does not have")
    if number.is_integer() and abs(number) <= _MAX_EXACT_INTEGER:
        return int(number)
    return number


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield value


def _written_out(number: float) -> int:
    """How much longer the number is in full than in JSON's short form."""
    short = repr(number)
    return len(format(Decimal(short), "f")) - len(short) if "e" in short else 0
