"""Converts JSON objects to the messages of the contract."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct


def struct(document: Mapping[str, Any] | None) -> Struct | None:
    """Convert a JSON object; None stays None, which leaves a field unset."""
    if document is None:
        return None
    result = Struct()
    result.update(document)
    return result
