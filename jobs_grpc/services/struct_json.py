"""Converts google.protobuf.Struct to the JSON that is stored in the database, and back."""

import functools
import json
import math
import struct
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from jobs_grpc.errors import Violation
from jobs_grpc.services.wire_format import varint

# The setting that limits the size.
_SETTING = "JOBS_MAX_DOCUMENT_BYTES"

# Above 2^53 a double cannot represent every integer.
_MAX_EXACT_INTEGER = 2**53

# Protobuf parsers allow 100 nested messages. One level of a Struct takes up to three of them,
# and a response nests the Struct deeper than the request does.
_MAX_DEPTH = 20

# A byte of compact JSON takes at most 5.5 bytes in protobuf ("1," takes 11); 8 leaves a margin. A
# Struct that exceeds this ratio exceeds the limit as JSON, so it is rejected without conversion.
_MAX_PROTOBUF_RATIO = 8

# Documents that are kept in wire format, with at most 0.4 MiB each by default.
_CACHED_DOCUMENTS = 16

# Maximum length of the path in an error message, in characters.
_MAX_PATH_LENGTH = 120


_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_encode_double = struct.Struct("<d").pack


class _InvalidValue(Exception):
    """A value cannot be stored. Each enclosing level adds its part of the path to the value."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self._path = ""

    def prepend(self, part: str) -> None:
        """Put the name or index of the enclosing level before the path."""
        self._path = part + self._path

    @property
    def path(self) -> str:
        """The path, shortened and with unprintable characters escaped, as callers choose keys."""
        path = self._path
        if len(path) > _MAX_PATH_LENGTH:
            path = path[:_MAX_PATH_LENGTH] + "…"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)


def to_json(struct: Struct, field: str, max_bytes: int) -> tuple[str, list[Violation]]:
    """Convert a Struct to compact JSON; if it cannot be stored, return the violation instead.

    Integers up to 2^53 are written without a fraction. The size limit counts numbers as PostgreSQL
    prints them, without an exponent: "1e300" has 301 digits.
    """
    if struct.ByteSize() > max_bytes * _MAX_PROTOBUF_RATIO:
        problem = f"{field} has more than {max_bytes} bytes as JSON ({_SETTING})"
        return "", [Violation(field, problem)]
    try:
        value = _from_struct(struct, depth=1)
    except _InvalidValue as e:
        e.prepend(field)
        return "", [Violation(e.path, f"{e.path} {e.problem}")]
    text = _encode_json(value)
    size = len(text.encode()) + sum(_exponent_expansion(number) for number in _floats(value))
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


def _from_struct(struct: Struct, depth: int) -> dict[str, Any]:
    _check_depth(depth)
    result = {}
    for key, value in struct.fields.items():
        name = _from_text(key)
        try:
            result[name] = _from_value(value, depth)
        except _InvalidValue as e:
            e.prepend(f".{key}")
            raise
    return result


def _from_list(values: Iterable[Value], depth: int) -> list[Any]:
    _check_depth(depth)
    result = []
    for index, value in enumerate(values):
        try:
            result.append(_from_value(value, depth))
        except _InvalidValue as e:
            e.prepend(f"[{index}]")
            raise
    return result


def _from_value(value: Value, depth: int) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return _from_text(value.string_value)
        case "number_value":
            return _from_number(value.number_value)
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case "struct_value":
            return _from_struct(value.struct_value, depth + 1)
        case "list_value":
            return _from_list(value.list_value.values, depth + 1)
        case _:
            raise _InvalidValue("has no kind; set one of the fields of google.protobuf.Value")


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _InvalidValue(f"is nested deeper than {_MAX_DEPTH} levels")


def _from_text(text: str) -> str:
    if "\0" in text:
        raise _InvalidValue("contains the character U+0000, which cannot be stored")
    return text


def _from_number(number: float) -> int | float:
    if not math.isfinite(number):
        raise _InvalidValue("must be a finite number")
    if number.is_integer() and abs(number) <= _MAX_EXACT_INTEGER:
        return int(number)
    return number


def _floats(value: Any) -> Iterator[float]:
    """All floats in a JSON value."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, list):
        for item in value:
            yield from _floats(item)
    elif isinstance(value, float):
        yield value


def _exponent_expansion(number: float) -> int:
    """How many characters longer the number is without an exponent than in JSON."""
    short = repr(number)
    return len(format(Decimal(short), "f")) - len(short) if "e" in short else 0
