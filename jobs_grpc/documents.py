"""Documents: google.protobuf.Struct on the wire, JSON in the database."""

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from jobs_grpc.errors import Violation

# Beyond it, a double no longer tells neighbouring whole numbers apart.
_MAX_EXACT_INTEGER = 2**53

# Protobuf stops at 100 messages inside one another. A level of a document takes up to
# three, and an answer holds the document deeper than the request did.
_MAX_DEPTH = 20

_MAX_PATH = 120


class _Invalid(Exception):
    def __init__(self, path: str, problem: str) -> None:
        super().__init__(problem)
        shown = path if len(path) <= _MAX_PATH else path[:_MAX_PATH] + "…"
        # Keys are the caller's: none may break the line or reach a terminal as it is.
        self.path = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
        self.problem = problem


def to_json(struct: Struct, field: str, max_bytes: int) -> tuple[str, list[Violation]]:
    """The document as compact JSON, or why it can't be stored.

    Whole numbers stay whole. The size counts numbers in full ("1e300" as 301 digits),
    as the database will write them out.
    """
    try:
        value = _from_struct(struct, field)
    except _Invalid as e:
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


def _from_struct(struct: Struct, path: str, depth: int = 1) -> dict[str, Any]:
    _check_depth(path, depth)
    return {
        _text(key, path): _from_value(value, f"{path}.{key}", depth)
        for key, value in struct.fields.items()
    }


def _from_value(value: Value, path: str, depth: int) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return _text(value.string_value, path)
        case "number_value":
            return _number(value.number_value, path)
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case "struct_value":
            return _from_struct(value.struct_value, path, depth + 1)
        case "list_value":
            _check_depth(path, depth + 1)
            return [
                _from_value(item, f"{path}[{index}]", depth + 1)
                for index, item in enumerate(value.list_value.values)
            ]
        case _:
            raise _Invalid(path, "has no value")


def _check_depth(path: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _Invalid(path, f"is nested deeper than {_MAX_DEPTH} levels")


def _text(text: str, path: str) -> str:
    if "\0" in text:
        raise _Invalid(path, "has the character U+0000, which can't be stored")
    return text


def _number(number: float, path: str) -> int | float:
    if not math.isfinite(number):
        raise _Invalid(path, "is not a finite number, which JSON does not have")
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
