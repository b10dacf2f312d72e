"""Converts google.protobuf.Struct to the JSON that is stored in the database, and back."""

import functools
import json
import math
import struct
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from jobs_grpc.contract.document_depth import MAX_DOCUMENT_LEVELS
from jobs_grpc.errors import Violation
from jobs_grpc.limits.fair_slots import YieldNow
from jobs_grpc.services.wire_format import varint

# The setting that limits the size.
_SETTING = "JOBS_MAX_DOCUMENT_BYTES"

# Above 2^53 a double cannot represent every integer.
_MAX_EXACT_INTEGER = 2**53

# A byte of compact JSON takes at most 5.5 bytes in protobuf ("1," takes 11); 8 leaves a margin. A
# Struct that exceeds this ratio exceeds the limit as JSON, so it is rejected without conversion.
_MAX_PROTOBUF_RATIO = 8

# Documents that are kept in wire format, with at most 0.4 MiB each by default.
_CACHED_DOCUMENTS = 16

# Values that are converted between two calls of yield_now: about 150 us. New calls are accepted in
# between, a few in each iteration of the event loop.
_VALUES_PER_YIELD = 100

# Maximum length of the path in an error message, in characters.
_MAX_PATH_LENGTH = 120


_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_encode_double = struct.Struct("<d").pack


class _InvalidValue(Exception):
    """The value at a path cannot be stored."""

    def __init__(self, problem: str, keys: Iterable[str | int]) -> None:
        """`keys`: the name or index of the value in each enclosing level, from the outside."""
        super().__init__(problem)
        self.problem = problem
        self._keys = keys

    def path(self, field: str) -> str:
        """The path, shortened and with unprintable characters escaped, as callers choose keys."""
        path = field + "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in self._keys)
        if len(path) > _MAX_PATH_LENGTH:
            path = path[:_MAX_PATH_LENGTH] + "…"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)


class _TooManyValues(Exception):
    """A document has more values than fit its maximum size."""


async def to_json(
    struct: Struct, field: str, max_bytes: int, yield_now: YieldNow
) -> tuple[str, list[Violation]]:
    """Convert a Struct to compact JSON; if it cannot be stored, return the violation instead.

    Integers up to 2^53 are written without a fraction. The size limit counts numbers as PostgreSQL
    prints them, without an exponent: "1e300" has 301 digits. Calls `yield_now` at times, so that
    other calls run.
    """
    try:
        if struct.ByteSize() > max_bytes * _MAX_PROTOBUF_RATIO:
            raise _TooManyValues
        # JSON has a comma or a bracket for each value, and at least one character of the value.
        values, expansion = await _from_struct(struct, max_bytes // 2, yield_now)
    except _TooManyValues:
        problem = f"{field} has more than {max_bytes} bytes as JSON ({_SETTING})"
        return "", [Violation(field, problem)]
    except _InvalidValue as e:
        path = e.path(field)
        return "", [Violation(path, f"{path} {e.problem}")]
    text = _encode_json(values)
    size = len(text.encode()) + expansion
    if size > max_bytes:
        problem = f"{field} has {size} bytes as JSON; the limit is {max_bytes} ({_SETTING})"
        return "", [Violation(field, problem)]
    return text, []


def from_json(text: str) -> Struct:
    """Convert the output of to_json back to a Struct."""
    return Struct.FromString(to_wire_format(text))


def document_from_json(text: str) -> Struct:
    """The same as from_json, for document_params: all devices of a job get the same ones."""
    return Struct.FromString(document_to_wire_format(text))


def to_wire_format(text: str) -> bytes:
    """Convert the output of to_json to an encoded Struct.

    Struct.update takes six times as long for a document of nested lists.
    """
    return _encode_fields(json.loads(text))


document_to_wire_format = functools.lru_cache(maxsize=_CACHED_DOCUMENTS)(to_wire_format)
"""The same as to_wire_format, for document_params."""


def _encode_fields(values: dict[str, Any]) -> bytes:
    """The fields of a Struct: entries with a key (1) and a Value (2)."""
    parts: list[bytes] = []
    for name, value in values.items():
        key, encoded = name.encode(), _encode_value(value)
        entry = b"\x0a%b%b\x12%b%b" % (varint(len(key)), key, varint(len(encoded)), encoded)
        parts += (b"\x0a", varint(len(entry)), entry)
    return b"".join(parts)


def _encode_value(value: Any) -> bytes:
    """A Value: a field with the number of its kind."""
    match value:
        case str():
            text = value.encode()
            return b"\x1a%b%b" % (varint(len(text)), text)
        case list():
            elements: list[bytes] = []
            for element in map(_encode_value, value):
                elements += (b"\x0a", varint(len(element)), element)
            encoded = b"".join(elements)
            return b"\x32%b%b" % (varint(len(encoded)), encoded)
        case dict():
            encoded = _encode_fields(value)
            return b"\x2a%b%b" % (varint(len(encoded)), encoded)
        case None:
            return b"\x08\x00"
        case bool():
            return b"\x20\x01" if value else b"\x20\x00"
    return b"\x11" + _encode_double(value)


async def _from_struct(
    struct: Struct, max_values: int, yield_now: YieldNow
) -> tuple[dict[str, Any], int]:
    """The fields of a Struct, and how many characters longer its numbers are without exponents.

    Raises _InvalidValue, and _TooManyValues for more than `max_values`.
    """
    result: dict[str, Any] = {}
    # The levels that enclose the next value, with the values that are left of each, and the keys
    # of these levels.
    levels: list[tuple[Any, Iterator[tuple[Any, Value]]]] = [(result, iter(struct.fields.items()))]
    keys: list[str | int] = []
    count = expansion = 0
    while levels:
        level, values = levels[-1]
        for key, value in values:
            count += 1
            if count > max_values:
                raise _TooManyValues
            if count % _VALUES_PER_YIELD == 0:
                await yield_now()
            if isinstance(key, str):
                _check_text(key, keys)
            match value.WhichOneof("kind"):
                case "string_value":
                    _check_text(value.string_value, [*keys, key])
                    level[key] = value.string_value
                case "number_value":
                    number = value.number_value
                    if number.is_integer() and abs(number) <= _MAX_EXACT_INTEGER:
                        level[key] = int(number)
                        continue
                    if not math.isfinite(number):
                        raise _InvalidValue("must be a finite number", [*keys, key])
                    level[key] = number
                    expansion += _exponent_expansion(number)
                case "bool_value":
                    level[key] = value.bool_value
                case "null_value":
                    level[key] = None
                case "struct_value":
                    level[key] = {}
                    levels.append((level[key], iter(value.struct_value.fields.items())))
                    break
                case "list_value":
                    elements = value.list_value.values
                    # Before any of them is converted: an empty list takes four bytes of a request.
                    if count + len(elements) > max_values:
                        raise _TooManyValues
                    level[key] = [None] * len(elements)
                    levels.append((level[key], iter(enumerate(elements))))
                    break
                case _:
                    problem = "has no kind; set one of the fields of google.protobuf.Value"
                    raise _InvalidValue(problem, [*keys, key])
        else:
            levels.pop()
            del keys[-1:]
            continue
        keys.append(key)
        if len(levels) > MAX_DOCUMENT_LEVELS:
            raise _InvalidValue(f"is nested deeper than {MAX_DOCUMENT_LEVELS} levels", keys)
    return result, expansion


def _check_text(text: str, keys: Iterable[str | int]) -> None:
    if "\0" in text:
        raise _InvalidValue("contains the character U+0000, which cannot be stored", keys)


def _exponent_expansion(number: float) -> int:
    """How many characters longer the number is without an exponent than in JSON."""
    short = repr(number)
    return len(format(Decimal(short), "f")) - len(short) if "e" in short else 0
