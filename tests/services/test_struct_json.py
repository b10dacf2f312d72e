"""What document_params must be."""

import math
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT

# The default of JOBS_MAX_DOCUMENT_BYTES.
MAX_BYTES = 32 * 1024

# HTTP/2 trailers beyond it are refused by gRPC clients.
MAX_TRAILERS = 16 * 1024


def document(**fields: Any) -> Struct:
    """A document; values may be Value messages, which JSON could not say."""
    struct = Struct()
    for key, value in fields.items():
        if isinstance(value, Value):
            struct.fields[key].CopyFrom(value)
        else:
            struct.update({key: value})
    return struct


def part(number: int, payload: bytes) -> bytes:
    """A protobuf field that holds a message."""
    size, length = len(payload), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + payload


def nested(lists: int, objects: int) -> bytes:
    """A CreateJobRequest for all devices, with a document {"k": {"k": … [[…null…]]}}.

    Written by hand: Python's protobuf does not write more than a server would read.
    """
    key, value = part(1, b"k"), b"\x08\x00"
    for _ in range(lists):
        value = part(6, part(1, value))
    for _ in range(objects):
        value = part(5, part(1, key + part(2, value)))
    params = part(1, key + part(2, value))
    return part(1, b"j") + part(2, b"reboot") + part(3, params) + b"\x30\x01"


@pytest.mark.parametrize(
    ("params", "at_fault"),
    [
        (document(a=math.nan), "document_params.a"),
        (document(a=math.inf), "document_params.a"),
        (document(a=-math.inf), "document_params.a"),
        (document(a={"b": [1, math.nan]}), "document_params.a.b[1]"),
        (document(a="\0"), "document_params.a"),
        (document(a=["fine", "not\0fine"]), "document_params.a[1]"),
        (document(**{"a\0": 1}), "document_params"),
        (document(a={"\0": 1}), "document_params.a"),
        (document(a=Value()), "document_params.a"),
        (document(a=Value(list_value=ListValue(values=[Value()]))), "document_params.a[0]"),
    ],
)
async def test_what_can_not_be_stored_is_refused(
    operator: Operator, params: Struct, at_fault: str
) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(target_all=True, document_params=params)

    assert set(failure.violations) == {at_fault}


@pytest.mark.parametrize(
    "filler",
    ["x", "é", '"', "\n", "🚀", "\x7f"],
    ids=["x", "é", "quote", "newline", "🚀", "delete"],
)
async def test_the_largest_document_is_exactly_32_kib(
    database: Database, operator: Operator, filler: str
) -> None:
    """{"a":"…"} is 8 bytes, and what is between them; JSON escapes take two."""
    await database.add_devices(operator.tenant, 1)
    width = {'"': 2, "\n": 2}.get(filler, len(filler.encode()))
    count, rest = divmod(MAX_BYTES - 8, width)
    largest = filler * count + "x" * rest

    await operator.create(job_id="j", target_all=True, document_params=document(a=largest))
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(target_all=True, document_params=document(a=largest + "x"))

    assert (await operator.get("j")).document_params["a"] == largest
    assert failure.violations == {
        "document_params": "document_params has 32769 bytes as JSON; the limit is 32768"
    }


async def test_the_size_that_is_allowed_can_be_set(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, 1)
    async with running_server(database.request_dsn, JOBS_MAX_DOCUMENT_BYTES="1024") as server:
        operator = server.operator(tenant)

        await operator.create(target_all=True, document_params=document(a="x" * 1016))
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
            await operator.create(target_all=True, document_params=document(a="x" * 1017))

    assert failure.violations["document_params"].endswith("the limit is 1024")


async def test_numbers_count_as_they_are_written_out(
    database: Database, operator: Operator
) -> None:
    """1e300 has 301 digits, and 1e-300 has 302 characters."""
    await database.add_devices(operator.tenant, 1)

    for number in (1e300, -1e300, 1e-300):
        fits, exceeds = [number] * 100, [number] * 110
        await operator.create(target_all=True, document_params=document(a=fits))
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
            await operator.create(target_all=True, document_params=document(a=exceeds))
        assert set(failure.violations) == {"document_params"}


async def test_a_document_of_megabytes_is_refused(operator: Operator) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(target_all=True, document_params=document(a="x" * 3_000_000))

    assert set(failure.violations) == {"document_params"}


@pytest.mark.parametrize(
    "key",
    ["x" * 100_000, "🚀" * 20_000, "a\r\nb: c", "\x1b[31mred", "a\u2028b\x85c", "%00%0a", "a.b[0]"],
    ids=lambda key: ascii(key[:9]),
)
async def test_a_hostile_key_leaves_the_answer_short_and_on_one_line(
    operator: Operator, key: str
) -> None:
    params = document(**{key: {key: [math.nan]}})

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await operator.create(target_all=True, document_params=params)

    message, trailers = raised.value.details() or "", raised.value.trailing_metadata()
    assert raised.value.code() == StatusCode.INVALID_ARGUMENT
    assert message.isprintable()
    assert len(message) < 500
    assert sum(len(k) + len(v) for k, v in trailers or ()) + 12 * len(message) < MAX_TRAILERS


async def test_at_most_twenty_violations_are_told(operator: Operator) -> None:
    params = document(**{f"key{number}": math.nan for number in range(100)})

    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(job_id="/", document_params=params)

    assert 3 <= len(failure.violations) <= 20
    assert {"job_id", "target"} < set(failure.violations)


@pytest.mark.parametrize(("lists", "objects"), [(1000, 0), (0, 1000), (49, 0), (0, 33)])
async def test_a_document_nested_too_deeply_is_malformed(
    server: Server, operator: Operator, lists: int, objects: int
) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = server.channel.unary_unary(
        "/fleet.jobs.v1.JobService/CreateJob"
    )

    with expect_failure(StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"):
        await call(nested(lists, objects), metadata=operator.metadata, timeout=TIMEOUT)


@pytest.mark.parametrize(("lists", "objects"), [(20, 0), (0, 20), (10, 10), (48, 0), (0, 32)])
async def test_a_document_of_more_than_20_levels_is_refused(
    server: Server, operator: Operator, lists: int, objects: int
) -> None:
    """What protobuf would take, up to the last level that it would."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = server.channel.unary_unary(
        "/fleet.jobs.v1.JobService/CreateJob"
    )

    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await call(nested(lists, objects), metadata=operator.metadata, timeout=TIMEOUT)

    assert "is nested deeper than 20 levels" in failure.message


@pytest.mark.parametrize(("lists", "objects"), [(19, 0), (0, 19), (10, 9)])
async def test_a_document_of_20_levels_is_taken_and_read(
    database: Database, server: Server, operator: Operator, lists: int, objects: int
) -> None:
    await database.add_devices(operator.tenant, 1)
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = server.channel.unary_unary(
        "/fleet.jobs.v1.JobService/CreateJob"
    )
    await call(nested(lists, objects), metadata=operator.metadata, timeout=TIMEOUT)

    assert len((await operator.list()).jobs) == 1
    assert "k" in (await operator.get("j")).document_params.fields


async def test_a_document_far_beyond_the_limit_is_refused_unread(operator: Operator) -> None:
    """Walking through it, with its path at hand, would hold up everybody for half a minute."""
    params = Struct()
    values = params.fields["k" * 2_000_000].list_value.values
    values.extend([Value(null_value=NullValue.NULL_VALUE)] * 490_000)

    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(target_all=True, document_params=params)

    assert failure.message == "document_params is larger than 32768 bytes as JSON"
