"""Properties of generated requests: accepted if and only if valid, and stored as sent."""

import math
import re
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode
from hypothesis import event, given
from hypothesis import strategies as st

from tests.support.database import Database
from tests.support.failures import Failure
from tests.support.scale import examples
from tests.support.server import Server

INT32 = st.integers(-(2**31), 2**31 - 1)

JOB_IDS = st.one_of(st.just(""), st.from_regex(r"[\w.:-]{1,128}", fullmatch=True), st.text())

VALID_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=100)
IDS = st.sampled_from(["target_device_id", "target_group_id"])


def documents(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> Any:
    """Documents with these leaf values and keys."""
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
        max_leaves=8,
    )
    return st.dictionaries(keys, values, max_size=5)


# The parts of a CreateJobRequest: valid ones, and arbitrary ones.
VALID: dict[str, st.SearchStrategy[Any]] = {
    "job_id": st.one_of(st.just(""), st.text("aZ09._:-", max_size=128)),
    "document_type": VALID_TEXT,
    "target": st.one_of(st.just(("target_all", True)), st.tuples(IDS, VALID_TEXT)),
    "expiry": st.one_of(
        st.tuples(st.none(), st.booleans()), st.tuples(st.integers(1, 720), st.just(False))
    ),
    "document": documents(
        st.none() | st.booleans() | st.integers(-99, 99) | VALID_TEXT, VALID_TEXT
    ),
}
ARBITRARY: dict[str, st.SearchStrategy[Any]] = {
    "job_id": JOB_IDS,
    "document_type": st.text(max_size=200),
    "target": st.one_of(
        st.none(),
        st.tuples(IDS, st.text(max_size=300)),
        st.tuples(st.just("target_all"), st.booleans()),
    ),
    "expiry": st.tuples(st.one_of(st.none(), st.integers(-1, 722), INT32), st.booleans()),
    "document": documents(st.none() | st.floats() | st.text(max_size=20), st.text(max_size=9)),
}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """The parts of a request; at most two of them are arbitrary, the others valid."""
    arbitrary = draw(st.sets(st.sampled_from(sorted(ARBITRARY)), max_size=2))
    return {name: draw((ARBITRARY if name in arbitrary else VALID)[name]) for name in VALID}


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


def struct(fields: dict[str, Any]) -> Struct:
    """A Struct with these fields."""
    result = Struct()
    result.update(fields)
    return result


def is_name(text: str, max_length: int) -> bool:
    """Whether text has 1 to `max_length` characters and no control characters."""
    return 1 <= len(text) <= max_length and not re.search("[\0-\x1f\x7f-\x9f]", text)


def is_storable(value: Any) -> bool:
    """Whether a JSON value has no U+0000 and only finite numbers."""
    match value:
        case float():
            return math.isfinite(value)
        case str():
            return "\0" not in value
        case list():
            return all(map(is_storable, value))
        case dict():
            return all(is_storable(k) and is_storable(v) for k, v in value.items())
    return True


def is_valid(
    job_id: str,
    document_type: str,
    target: tuple[str, str | bool] | None,
    expiry: tuple[int | None, bool],
    document: dict[str, Any],
) -> bool:
    """Whether a request with these parts is valid by the contract."""
    hours, never = expiry
    return (
        re.fullmatch("[A-Za-z0-9._:-]{0,128}", job_id) is not None
        and job_id not in (".", "..")
        and is_name(document_type, 100)
        and target is not None
        and (target[1] is True or (isinstance(target[1], str) and is_name(target[1], 256)))
        and (hours is None or (1 <= hours <= 720 and not never))
        and is_storable(document)
    )


@pytest.mark.slow
@examples(10, 3)
@given(request=requests())
async def test_request_is_accepted_if_and_only_if_it_is_valid(
    database: Database, server: Server, request: dict[str, Any]
) -> None:
    operator = server.operator(uuid.uuid4().hex)
    target = request["target"]
    name = str(target[1]).replace("\0", "") if target else "d"
    await database.add_devices(operator.tenant, [name], group=name)
    hours, never = request["expiry"]

    failure = Failure(StatusCode.OK)
    try:
        await operator.create(
            job_id=request["job_id"],
            document_type=request["document_type"],
            document_params=struct(request["document"]),
            expires_in_hours=hours,
            never_expires=never,
            **dict([target] if target else []),
        )
    except grpc.aio.AioRpcError as e:
        failure = Failure(e.code())
        failure.read(e)

    valid = is_valid(**request)
    event(f"valid: {valid}")
    if valid:
        assert (failure.code, failure.message) == (StatusCode.OK, "")
    else:
        assert failure.code == StatusCode.INVALID_ARGUMENT
        assert failure.violations


@pytest.mark.slow
@examples(10, 3)
@given(document=st.dictionaries(st.text("abé🚀", max_size=9), JSON, max_size=5))
async def test_any_document_is_returned_as_sent(
    database: Database, server: Server, document: dict[str, Any]
) -> None:
    operator = server.operator(uuid.uuid4().hex)
    await database.add_devices(operator.tenant, 1)

    await operator.create(job_id="j", target_all=True, document_params=struct(document))

    job = await operator.get("j")
    assert MessageToDict(job.document_params) == document
