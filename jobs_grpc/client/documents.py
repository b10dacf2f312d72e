"""Converts JSON objects to the messages of the contract."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct

# Above 2^53 a double, the only number of a Struct, cannot represent every integer.
_MAX_EXACT_INTEGER = 2**53


def struct(document: Mapping[str, Any] | None) -> Struct | None:
    """Convert a JSON object; None stays None, which leaves a field unset."""
    if document is None:
        return None
    result = Struct()
    result.update(document)
    return result


def params_struct(params: Mapping[str, Any] | None) -> Struct | None:
    """Convert document_params. Raises ValueError for an integer that could lose digits."""
    if path := _large_integer(params):
        raise ValueError(
            f"document_params{path} is an integer beyond ±2^53 and would lose digits;"
            " send it as a string"
        )
    return struct(params)


def _large_integer(value: Any) -> str | None:
    """Return the path of the first integer beyond ±2^53, such as ".a[0]"; None: there is none."""
    items: Iterable[tuple[str, Any]] = ()
    match value:
        case int() if abs(value) > _MAX_EXACT_INTEGER:
            return ""
        case Mapping():
            items = ((f".{key}", member) for key, member in value.items())
        case list() | tuple():
            items = ((f"[{index}]", element) for index, element in enumerate(value))
    for key, item in items:
        if (path := _large_integer(item)) is not None:
            return key + path
    return None
