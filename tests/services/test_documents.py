"""document_params: size, nesting, numbers and text."""

import json
import math
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from jobs_grpc.services.struct_json import document_from_json, from_json, to_json
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error, invalid_fields
from tests.support.scale import examples
from tests.support.server import Server
from tests.support.waiting import TIMEOUT
from tests.support.world import World

# The default of JOBS_MAX_DOCUMENT_BYTES.
MAX_BYTES = 32 * 1024

# gRPC clients reject larger HTTP/2 trailers.
MAX_TRAILER_BYTES = 16 * 1024


def document(**fields: Any) -> Struct:
    """A Struct. Values may be Value messages, for values that JSON cannot express."""
    struct = Struct()
    for key, value in fields.items():
        if isinstance(value, Value):
            struct.fields[key].CopyFrom(value)
        else:
            struct.update({key: value})
    return struct


async def no_pause() -> None:
    """Converts without a pause."""


def encoded_field(number: int, payload: bytes) -> bytes:
    """A serialized protobuf field that contains a message."""
    size, length = len(payload), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + payload


def nested_request(lists: int, objects: int) -> bytes:
    """A serialized CreateJobRequest of the job "jLISTS" with a document {"k": {"k": … [[…null…]]}}.

    Its target is all devices. It is encoded by hand because Python's protobuf does not serialize
    such deep nesting.
    """
    key, value = encoded_field(1, b"k"), b"\x08\x00"
    for _ in range(lists):
        value = encoded_field(6, encoded_field(1, value))
    for _ in range(objects):
        value = encoded_field(5, encoded_field(1, key + encoded_field(2, value)))
    params = encoded_field(1, key + encoded_field(2, value))
    return (
        encoded_field(1, f"j{lists}".encode())
        + encoded_field(2, b"reboot")
        + encoded_field(3, params)
        + b"\x30\x01"
    )


async def test_document_is_rejected_when_it_cannot_be_stored(operator: Operator) -> None:
    for params, field in (
        (document(a=math.nan), "document_params.a"),
        (document(a=math.inf), "document_params.a"),
        (document(a=-math.inf), "document_params.a"),
        (document(a={"b": [1, math.nan]}), "document_params.a.b[1]"),
        (document(a="\0"), "document_params.a"),
        (document(a=["valid", "in\0valid"]), "document_params.a[1]"),
        (document(**{"a\0": 1}), "document_params"),
        (document(a={"\0": 1}), "document_params.a"),
        (document(a=Value()), "document_params.a"),
        (document(a=Value(list_value=ListValue(values=[Value()]))), "document_params.a[0]"),
    ):
        call = operator.create(target_all=True, document_params=params)
        assert await invalid_fields(call) == [field]


async def test_document_is_rejected_when_it_is_larger_than_32_kib(world: World) -> None:
    """{"a":"…"} takes 8 bytes plus the text; an escaped character takes two."""
    await world.add_devices(1)
    for filler, width in (("x", 1), ("é", 2), ('"', 2), ("\n", 2), ("🚀", 4), ("\x7f", 1)):
        count, rest = divmod(MAX_BYTES - 8, width)
        largest = filler * count + "x" * rest

        created = await world.operator.create(target_all=True, document_params=document(a=largest))
        failure = await expect_error(
            "INVALID_FIELD",
            world.operator.create(target_all=True, document_params=document(a=largest + "x")),
        )
        assert {*failure.violations} == {"document_params"}

        assert (await world.operator.get(created.job_id)).document_params["a"] == largest
        assert failure.violations["document_params"] == (
            "document_params has 32769 bytes as JSON; the limit is 32768 (JOBS_MAX_DOCUMENT_BYTES)"
        )


async def test_document_size_limit_is_a_setting(world: World) -> None:
    await world.add_devices(1)
    async with world.on_another_server(JOBS_MAX_DOCUMENT_BYTES="1024") as limited:
        await limited.create(document_params=document(a="x" * 1016))
        too_large = limited.create("k", document_params=document(a="x" * 1017))
        failure = await expect_error("INVALID_FIELD", too_large)

    assert failure.violations["document_params"].endswith(
        "the limit is 1024 (JOBS_MAX_DOCUMENT_BYTES)"
    )


async def test_integers_are_stored_without_a_fraction_if_they_are_exact() -> None:
    numbers = [0.5, -3.0, 2.0**53, -(2.0**53), 2.0**53 + 2]

    converted = await to_json(document(a=numbers), "params", MAX_BYTES, no_pause)

    texts = "0.5,-3,9007199254740992,-9007199254740992,9007199254740994.0"
    assert converted == (f'{{"a":[{texts}]}}', [])


async def test_size_of_a_number_is_its_length_without_an_exponent() -> None:
    for number, digits in (
        *((0.5, 3), (1e22, 23), (1e300, 301), (1e-7, 9), (-1.5e-7, 11), (1e-300, 302)),
    ):
        size = len('{"a":}') + digits

        _, violations = await to_json(document(a=number), "params", size, no_pause)
        _, (violation,) = await to_json(document(a=number), "params", size - 1, no_pause)

        assert violations == []
        assert f"has {size} bytes" in violation.description


@pytest.mark.parametrize("convert", [from_json, document_from_json])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"": "", "é": "é" * 200, "long" * 100: "\U0001f600" * 20_000},
        {"null": None, "yes": True, "no": False},
        {"numbers": [0, -1, 2**53, 10**300, 0.1, 1e-300]},
        {"lists": [[], [[]], [[[[1], "a"]]], ["b"] * 300], "structs": {"a": {"b": {}}, "c": [{}]}},
    ],
)
def test_stored_document_is_converted_to_the_struct_of_its_values(
    convert: Callable[[str], Struct], values: dict[str, Any]
) -> None:
    expected = Struct()
    expected.update(values)

    assert convert(json.dumps(values)) == expected


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("k" * 112, "params." + "k" * 112),
        ("k" * 113, "params." + "k" * 113),
        ("k" * 114, "params." + "k" * 113 + "…"),
        ("a\x1b\u2028é", r"params.a\x1b\u2028é"),
    ],
    ids=["shorter", "longest", "longer", "unprintable"],
)
async def test_path_of_a_violation_is_shortened_and_escaped(key: str, path: str) -> None:
    _, (violation,) = await to_json(document(**{key: math.nan}), "params", MAX_BYTES, no_pause)

    assert violation.field == path
    assert violation.description == f"{path} must be a finite number"


async def test_error_is_short_and_on_one_line_when_a_key_is_hostile(operator: Operator) -> None:
    for key in (
        *("x" * 100_000, "🚀" * 20_000, "a\r\nb: c", "\x1b[31mred", "a\u2028b\x85c"),
        *("%00%0a", "a.b[0]"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await operator.create(
                target_all=True, document_params=document(**{key: {key: [math.nan]}})
            )

        message, trailers = raised.value.details() or "", raised.value.trailing_metadata()
        assert raised.value.code() == StatusCode.INVALID_ARGUMENT
        assert message.isprintable()
        assert len(message) < 500
        size = sum(len(k) + len(v) for k, v in trailers or ()) + 12 * len(message)
        assert size < MAX_TRAILER_BYTES


async def test_error_has_at_most_twenty_violations(operator: Operator) -> None:
    params = document(**{f"key{number}": math.nan for number in range(100)})

    failure = await expect_error(
        "INVALID_FIELD", operator.create(job_id="/", document_params=params)
    )

    assert 3 <= len(failure.violations) <= 20
    assert {"job_id", "target"} < set(failure.violations)


Call = Callable[[int, int], Awaitable[object]]


@pytest.fixture
async def create_nested(database: Database, server: Server, operator: Operator) -> Call:
    """A function that creates the job "jLISTS" with a nested document."""
    await database.add_devices(operator.tenant, 1)
    call: Any = server.channel.unary_unary("/fleet.jobs.v1.JobService/CreateJob")
    return lambda lists, objects: call(
        nested_request(lists, objects), metadata=operator.metadata, timeout=TIMEOUT
    )


async def test_document_has_at_most_20_levels(create_nested: Call, operator: Operator) -> None:
    """Protobuf has a limit of its own, above which it does not read a request."""
    for lists, objects in ((1000, 0), (0, 1000), (49, 0), (0, 33)):
        failure = await expect_error("MALFORMED_REQUEST", create_nested(lists, objects))
        assert failure.message.endswith("a document in it is nested deeper than 20 levels")
    for lists, objects in ((20, 0), (0, 20), (10, 10), (48, 0), (0, 32)):
        failure = await expect_error("INVALID_FIELD", create_nested(lists, objects))
        assert "is nested deeper than 20 levels" in failure.message

    for lists, objects in ((19, 0), (0, 19), (10, 9)):
        await create_nested(lists, objects)
        assert "k" in (await operator.get(f"j{lists}")).document_params.fields


# JSON values whose numbers are exact as doubles.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    lambda values: st.lists(values) | st.dictionaries(st.text("aé🚀 .$", max_size=9), values),
    max_leaves=20,
)


@pytest.mark.slow
@examples(10, 3)
@given(values=st.dictionaries(st.text("abé🚀", max_size=9), JSON, max_size=5))
async def test_any_document_is_returned_as_sent(
    database: Database, server: Server, values: dict[str, Any]
) -> None:
    operator = server.operator(uuid.uuid4().hex)
    await database.add_devices(operator.tenant, 1)

    await operator.create(job_id="j", target_all=True, document_params=document(**values))

    job = await operator.get("j")
    assert MessageToDict(job.document_params) == values


class Pauses:
    """Counts the pauses of a conversion."""

    count = 0

    async def __call__(self) -> None:
        self.count += 1


async def test_conversion_pauses_after_each_hundred_values() -> None:
    pause = Pauses()

    await to_json(document(a=[[] for _ in range(1_000)]), "params", MAX_BYTES, pause)

    assert pause.count == 10


@pytest.mark.parametrize(
    ("lists", "pauses"),
    [([[[]] * 1_000] * 17, 16_018 // 100), ([[]] * 17_000, 0)],
    ids=["lists-of-lists", "one-list"],
)
async def test_conversion_stops_before_a_list_with_more_values_than_fit(
    lists: list[Any], pauses: int
) -> None:
    """n values take at least 2n + 1 bytes as JSON, as in [1,1]."""
    pause = Pauses()

    text, (violation,) = await to_json(document(a=lists), "params", MAX_BYTES, pause)

    assert violation.description == (
        "params has more than 32768 bytes as JSON (JOBS_MAX_DOCUMENT_BYTES)"
    )
    assert (text, pause.count) == ("", pauses)
