"""CreateJob for any request: taken exactly if it is valid, and stored as it was sent."""

import math
import re
import uuid
from typing import Any

import grpc
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
LIMITS = st.one_of(st.integers(0, 201), INT32)
STATUSES = st.one_of(st.integers(0, 7), INT32)
OFFSETS = st.one_of(st.just(0), INT32)

PLAIN = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=100)
IDS = st.sampled_from(["target_device_id", "target_group_id"])


def documents(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> Any:
    """Documents of these leaves and keys."""
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
        max_leaves=8,
    )
    return st.dictionaries(keys, values, max_size=5)


# The parts of a CreateJobRequest as they should be, and as anybody may send them.
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "job_id": st.one_of(st.just(""), st.text("aZ09._:-", max_size=128)),
    "document_type": PLAIN,
    "target": st.one_of(st.just(("target_all", True)), st.tuples(IDS, PLAIN)),
    "expiry": st.one_of(
        st.tuples(st.none(), st.booleans()), st.tuples(st.integers(1, 720), st.just(False))
    ),
    "document": documents(st.none() | st.booleans() | st.integers(-99, 99) | PLAIN, PLAIN),
}
ANY: dict[str, st.SearchStrategy[Any]] = {
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
    """Parts of a request, all but two of them good."""
    odd = draw(st.sets(st.sampled_from(sorted(ANY)), max_size=2))
    return {name: draw((ANY if name in odd else GOOD)[name]) for name in GOOD}


# What JSON can say, as far as doubles can hold it.
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
    """A document."""
    made = Struct()
    made.update(fields)
    return made


def is_name(text: str, longest: int) -> bool:
    """Whether it has 1 to `longest` characters, none of them a control character."""
    return 1 <= len(text) <= longest and not re.search("[\0-\x1f\x7f-\x9f]", text)


def is_storable(value: Any) -> bool:
    """Whether a JSON value has neither U+0000 nor numbers that are not finite."""
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
    """What the contract says of a request of these parts."""
    hours, never = expiry
    return (
        re.fullmatch("[A-Za-z0-9._:-]{0,128}", job_id) is not None
        and is_name(document_type, 100)
        and target is not None
        and (target[1] is True or (isinstance(target[1], str) and is_name(target[1], 256)))
        and (hours is None or (1 <= hours <= 720 and not never))
        and is_storable(document)
    )


@examples(25)
@given(request=requests())
async def test_a_request_is_taken_exactly_if_it_is_valid(
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


@examples(25)
@given(
    fields=st.one_of(
        st.fixed_dictionaries(
            {"limit": LIMITS, "status": STATUSES, "offset": OFFSETS, "page_token": st.text()}
        ),
        st.fixed_dictionaries(
            {"job_id": JOB_IDS, "limit": LIMITS, "status": STATUSES, "page_token": st.text()}
        ),
        st.fixed_dictionaries({"job_id": JOB_IDS, "executions_limit": LIMITS}),
        st.fixed_dictionaries({"job_id": JOB_IDS, "reason": st.text()}),
    )
)
async def test_no_request_fails_in_another_way_than_documented(
    server: Server, fields: dict[str, Any]
) -> None:
    operator = server.operator(uuid.uuid4().hex)
    call: Any = operator.list
    if "job_id" in fields:
        call = operator.executions if "limit" in fields else operator.cancel
    if "executions_limit" in fields:
        call = operator.get

    try:
        await call(**fields)
    except grpc.aio.AioRpcError as e:
        code = e.code()
    else:
        code = StatusCode.OK

    assert code in (StatusCode.OK, StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND)


@examples(25)
@given(document=st.dictionaries(st.text("abé🚀", max_size=9), JSON, max_size=5))
async def test_any_document_comes_back_as_it_was_sent(
    database: Database, server: Server, document: dict[str, Any]
) -> None:
    operator = server.operator(uuid.uuid4().hex)
    await database.add_devices(operator.tenant, 1)

    await operator.create(job_id="j", target_all=True, document_params=struct(document))

    job = await operator.get("j")
    assert MessageToDict(job.document_params) == document
