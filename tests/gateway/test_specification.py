"""The gateway accepts the bodies that the models of the platform's routes accept.

docs/migration.md lists the exceptions, under the names of DEVIATIONS.
"""

import json
import math
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from hypothesis import Phase, event, find, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError, model_validator

from tests.gateway.support import RestClient
from tests.support.database import Database
from tests.support.scale import examples

MIGRATION = Path(__file__).parents[2] / "docs" / "migration.md"


class JobCreate(BaseModel):
    """The body of POST /customer/jobs. The platform's own validator missed two of the targets."""

    job_id: str | None = None
    document_type: str = Field(..., min_length=1, max_length=100)
    document_params: dict[str, Any] = Field(default_factory=dict)
    target_device_id: str | None = None
    target_group_id: str | None = None
    target_all: bool = False
    expires_in_hours: int | None = Field(default=24, ge=1, le=720)

    @model_validator(mode="after")
    def has_one_target(self) -> Self:
        if sum(map(bool, (self.target_device_id, self.target_group_id, self.target_all))) != 1:
            raise ValueError("Exactly one target must be set")
        return self


class JobCancelRequest(BaseModel):
    """The body of DELETE /customer/jobs/{job_id}."""

    reason: str | None = None


Body = dict[str, Any]


def leaves(value: Any, depth: int = 0) -> Iterator[tuple[Any, int]]:
    """The keys and values in a JSON value, with the number of levels around them."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield key, depth + 1
            yield from leaves(member, depth + 1)
    elif isinstance(value, list):
        for element in value:
            yield from leaves(element, depth + 1)
    yield value, depth


def is_odd_document(body: Body) -> bool:
    """Whether document_params has a value that is not stored."""
    document = body.get("document_params", {})
    return len(
        json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")
    ) > 32_768 or any(
        (isinstance(leaf, dict | list) and depth >= 20)
        or (isinstance(leaf, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in leaf))
        or (isinstance(leaf, int) and abs(leaf) > 2**53)
        or (isinstance(leaf, float) and not math.isfinite(leaf))
        for leaf, depth in leaves(document)
    )


def is_coerced(body: Body) -> bool:
    """Whether a value has another type than its field, except numbers in a text such as "24"."""
    hours = body.get("expires_in_hours")
    return (
        not isinstance(body.get("target_all", False), bool)
        or isinstance(hours, bool)
        or (isinstance(hours, str) and not re.fullmatch(r"[1-9][0-9]*(\.0+)?", hours))
    )


def has_control_character(text: Any) -> bool:
    return re.search(r"[\x00-\x1f\x7f-\x9f]", text or "") is not None


def is_odd_target(body: Body) -> bool:
    """Whether the ID of a device or a group can't exist here."""
    ids = [body.get(field) or "" for field in ("target_device_id", "target_group_id")]
    return any(has_control_character(each) or len(each) > 256 for each in ids)


def is_odd_job_id(body: Body) -> bool:
    job_id = body.get("job_id") or "a"
    return job_id in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", job_id)


def is_odd_reason(body: Body) -> bool:
    reason = body.get("reason") or ""
    return len(reason) > 1000 or "\0" in reason


Deviation = Callable[[Body], bool]

DEVIATIONS: dict[str, Deviation] = {
    "fields that the model does not have": lambda body: "note" in body,
    "coerced values": is_coerced,
    "characters of `job_id`": is_odd_job_id,
    "control characters in `document_type`": lambda body: has_control_character(
        body.get("document_type")
    ),
    "IDs of targets": is_odd_target,
    "values in `document_params`": is_odd_document,
    "length of `reason`": is_odd_reason,
}
"""Bodies that the models accept and the gateway rejects, by their names in the migration page."""


def documents(leaf_values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    values = st.recursive(
        leaf_values,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
    return st.dictionaries(st.text(), values, max_size=3)


class LongText(str):
    """A text that Hypothesis does not print."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{len(self)} characters"


def nested(depth: int) -> Any:
    """An object with so many levels around it."""
    return {"a": nested(depth - 1)} if depth else {}


HOSTILE = st.text(max_size=9) | st.sampled_from(
    ["a" * 129, "b" * 257, "c" * 1001, ".", "..", "\x85"]
)
DOCUMENTS = documents(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=9) | st.just(1e300)
)
ODD_DOCUMENTS = documents(
    st.sampled_from(
        [2**53 + 1, -(2**63), math.nan, math.inf, "\0", "\ud800", LongText("x" * 40_000)]
    )
) | st.sampled_from([nested(19), nested(20), {"\0": 1}])

# Each field has usual values, and rarer ones that models accept as well.
FIELDS: dict[str, tuple[st.SearchStrategy[Any], st.SearchStrategy[Any]]] = {
    "job_id": (st.sampled_from([None, "", "a:b.c-D_9"]), HOSTILE),
    "document_type": (st.sampled_from(["reboot", "a b/ü"]), HOSTILE),
    "document_params": (DOCUMENTS, ODD_DOCUMENTS),
    "target_device_id": (st.sampled_from([None, "", "d00001"]), HOSTILE),
    "target_group_id": (st.sampled_from([None, "", "north"]), HOSTILE),
    "target_all": (st.booleans(), st.sampled_from([0, 1, 1.0, "true", "off", "Y"])),
    "expires_in_hours": (
        st.none() | st.integers(1, 720),
        st.sampled_from([24.0, "24", "24.0", True, "+24", " 24", "024", "2_4"]),
    ),
    "note": (st.nothing(), st.none() | st.text()),
}


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    """Bodies that JobCreate accepts, half of them with one unusual value."""
    odd = draw(st.sampled_from([None, None, None, None, *FIELDS, "target_device_id"]))
    targets = ["target_device_id", "target_group_id", "target_all"]
    target = odd if odd in targets else draw(st.sampled_from(targets))
    body: Body = {}
    for field, (usual, unusual) in FIELDS.items():
        if field == odd:
            body[field] = draw(unusual)
        elif field in targets:
            values = usual.filter(bool) if field == target else usual.filter(lambda v: not v)
            if field == target or draw(st.booleans()):
                body[field] = draw(values)
        elif field == "document_type" or (field != "note" and draw(st.booleans())):
            body[field] = draw(usual)
    return body


REASONS = st.none() | st.text(max_size=9) | st.sampled_from(["a" * 1000, "b" * 1001])
CANCEL_BODIES = st.fixed_dictionaries({}, optional={"reason": REASONS, "note": st.text()})


def expected_deviations(body: Body) -> list[str]:
    return [name for name, deviates in DEVIATIONS.items() if deviates(body)]


def encode(body: Body) -> bytes:
    """Encode a body as Python's json does: NaN is a literal, and a lone surrogate is escaped."""
    return json.dumps(body).encode()


async def new_tenant(http: httpx.AsyncClient, database: Database) -> RestClient:
    """A client of a new tenant with three devices, two of them in a group."""
    tenant = uuid.uuid4().hex
    await database.add_devices(tenant, 2, group="north")
    await database.add_devices(tenant, ["e"])
    return RestClient(http, tenant)


@examples(60)
@given(body=bodies())
async def test_create_accepts_what_the_model_accepts(
    http: httpx.AsyncClient, database: Database, body: Body
) -> None:
    try:
        model = JobCreate.model_validate(json.loads(encode(body)))
    except ValidationError:
        event("rejected by the model")
        return
    expected = expected_deviations(body)
    event(f"deviations: {expected}")
    rest = await new_tenant(http, database)

    response = await rest.send("POST", "/customer/jobs", encode(body))

    counts = {"d00001": 1, "e": 1, "north": 2}
    if expected:
        assert response.status_code in (400, 413), f"{expected}: {response.text}"
        return
    if not model.target_all and not (
        (model.target_device_id in counts) or model.target_group_id == "north"
    ):
        missing = (404, "DEVICE_NOT_FOUND") if model.target_device_id else (400, "GROUP_EMPTY")
        assert (response.status_code, response.json()["reason"]) == missing
        return
    created = response.json()
    assert response.status_code == 201, response.text
    assert created["job_id"] == model.job_id or not model.job_id
    target = model.target_device_id or model.target_group_id or ""
    assert created["execution_count"] == counts.get(target, 3)
    assert (created["expires_at"] is None) == (model.expires_in_hours is None)
    job = await rest.get(f"/{created['job_id']}")
    assert job["document_params"] == model.document_params
    assert job["document_type"] == model.document_type


@examples(20)
@given(body=CANCEL_BODIES)
async def test_cancel_accepts_what_the_model_accepts(
    http: httpx.AsyncClient, database: Database, body: Body
) -> None:
    model = JobCancelRequest.model_validate(body)
    rest = await new_tenant(http, database)
    await rest.create(job_id="j", target_all=True)

    response = await rest.send("DELETE", "/customer/jobs/j", encode(body))

    if expected := expected_deviations(body):
        assert response.status_code == 400, f"{expected}: {response.text}"
        return
    assert response.json() == {"job_id": "j", "status": "CANCELED"}
    details = (await rest.get("/j"))["executions"][0]["status_details"]
    assert details == {"reason": model.reason or "canceled by operator"}


def test_migration_page_lists_the_deviations() -> None:
    text = MIGRATION.read_text()
    section = text[text.index("### Bodies") : text.index("### Other differences")]

    assert re.findall(r"^- \*\*(.+?)\*\*", section, re.MULTILINE) == [*DEVIATIONS]


@pytest.mark.parametrize("name", DEVIATIONS)
def test_deviation_occurs_in_the_generated_bodies(name: str) -> None:
    """So that the tests above do not pass because a kind of body is never sent."""

    def is_sent(body: Body) -> bool:
        try:
            (JobCancelRequest if "reason" in body else JobCreate).model_validate(body)
        except ValidationError:
            return False
        return DEVIATIONS[name](body)

    strategy = CANCEL_BODIES if "reason" in name else bodies()
    assert find(strategy, is_sent, settings=settings(phases=[Phase.generate], max_examples=1000))
