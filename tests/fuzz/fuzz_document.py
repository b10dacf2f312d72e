"""Any Struct is stored as JSON, and read as a Struct with the same values, or is refused."""

import json
from collections.abc import Coroutine
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from tests.fuzz.engine import fuzz, instrumented

with instrumented():
    from jobs_grpc.services.struct_json import from_json, to_json

_MAX_BYTES = 4096


def _encoded(**fields: Any) -> bytes:
    struct = Struct()
    struct.update(fields)
    return struct.SerializeToString()


SEEDS = (
    b"",
    _encoded(a=None, b=True, c=[1, [2.5, -0.0], {}], d={"e": {"f": "ä🚀"}}),
    _encoded(a=2**53, b=-(2**53), c=1e300, d=5e-324, e=0.1),
    _encoded(a="\0", b=float("nan"), c=float("inf")),
    _encoded(a=[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]),
    _encoded(a="x" * 5000),
    # A value that is not set.
    b"\x0a\x05\x0a\x01a\x12\x00",
)


def check(data: bytes) -> None:
    """Convert the bytes as an encoded Struct."""
    try:
        struct = Struct.FromString(data)
    except DecodeError:
        return
    text, violations = _result_of(to_json(struct, "params", _MAX_BYTES, _no_pause))
    if violations:
        assert text == ""
        return
    again, violations = _result_of(to_json(from_json(text), "params", _MAX_BYTES, _no_pause))
    # The fields of a Struct have no order.
    assert (json.loads(again), violations) == (json.loads(text), [])


async def _no_pause() -> None:
    pass


def _result_of(conversion: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits. An event loop for each would take most of the time."""
    try:
        conversion.send(None)
    except StopIteration as e:
        return e.value
    raise AssertionError("the conversion waits")


if __name__ == "__main__":
    fuzz(check, SEEDS)
