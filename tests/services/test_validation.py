"""Request validation: the error names each invalid field, and the limits are exact."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.callers import Operator
from tests.support.failures import expect_error
from tests.support.waiting import TIMEOUT
from tests.support.world import World

ALL = {"target_all": True}

JOB: dict[str, Any] = {"job_id": "j"}

# A method of Operator, valid fields, the field that is invalid, and its invalid values. Fields of
# one name have the same limits in all calls: test_field_rules.py.
INVALID: list[tuple[str, dict[str, Any], str, Sequence[Any]]] = [
    ("create", ALL, "job_id", ["a b", "a\n", "é", "a/b", "x" * 129]),
    ("create", ALL, "document_type", ["", "x" * 101, "a\0", "a\tb", "a\x85b"]),
    ("create", {}, "target_device_id", ["x" * 257, "a\x7f"]),
    ("create", {}, "target_group_id", ["x" * 257, "a\0b"]),
    ("create", ALL, "expires_in_hours", [0, -1, 721, 2**31 - 1]),
    ("create", ALL | {"expires_in_hours": 24}, "never_expires", [True]),
    ("list", {}, "limit", [0, -1, 201]),
    ("list", {}, "offset", [-1]),
    ("list", {}, "status", [6, -1, 2**31 - 1]),
    ("get", JOB, "executions_limit", [-1, 5001]),
    ("executions", JOB, "limit", [0, 5001]),
    ("executions", JOB, "status", [8]),
    ("cancel", JOB, "reason", ["x" * 1001, "a\0"]),
]

# The same with several invalid fields, or with a field of another name.
INVALID_REQUESTS: list[tuple[str, dict[str, Any], set[str]]] = [
    *((rpc, valid | {field: v}, {field}) for rpc, valid, field, values in INVALID for v in values),
    *(("create", target, {"target"}) for target in ({}, {"target_all": False})),
    *(("create", {f"target_{name}_id": ""}, {"target"}) for name in ("device", "group")),
    ("create", {"job_id": "/", "document_type": ""}, {"job_id", "document_type", "target"}),
    ("list", {"limit": 0, "offset": -1, "status": 9}, {"limit", "offset", "status"}),
    ("cancel_execution", {"job_id": "", "device": "a\0"}, {"job_id", "device_id"}),
    ("attempts", {"job_id": "", "device": ""}, {"job_id", "device_id"}),
]

# Fields of CreateJob at the limits.
VALID: list[dict[str, Any]] = [
    ALL | {"job_id": "x" * 128},
    ALL | {"job_id": "AZaz09._:-"},
    ALL | {"document_type": "x"},
    ALL | {"document_type": "🚀" * 100},
    ALL | {"document_type": " a "},
    ALL | {"expires_in_hours": 1},
    ALL | {"expires_in_hours": 720},
    ALL | {"never_expires": True},
    {"target_device_id": "🚀" * 256},
    {"target_device_id": "'; --"},
    {"target_group_id": "g" * 256},
]


@pytest.mark.parametrize(("rpc", "request_fields", "invalid_fields"), INVALID_REQUESTS)
async def test_invalid_request_is_rejected_with_the_field_names(
    operator: Operator, rpc: str, request_fields: dict[str, Any], invalid_fields: set[str]
) -> None:
    failure = await expect_error("INVALID_FIELD", getattr(operator, rpc)(**request_fields))

    assert set(failure.violations) == invalid_fields
    for field, description in failure.violations.items():
        assert description
        assert field in description or field == "target"
        assert description in failure.message


@pytest.mark.parametrize("request_fields", VALID)
async def test_fields_are_accepted_at_limits(world: World, request_fields: dict[str, Any]) -> None:
    await world.add_devices(["🚀" * 256, "'; --"], group="g" * 256)

    response = await world.operator.create(**request_fields)

    job = await world.operator.get(response.job_id)
    for field in ("document_type", "target_device_id", "target_group_id"):
        assert getattr(job, field) == request_fields.get(field, getattr(job, field))


async def test_longest_reason_is_accepted_and_a_longer_one_changes_nothing(world: World) -> None:
    await world.add_devices(1)
    await world.create()
    before = await world.operator.get("j")

    await expect_error("INVALID_FIELD", world.operator.cancel("j", reason="x" * 1001))

    assert await world.operator.get("j") == before
    await world.operator.cancel("j", reason="🚀" * 1000)
    assert (await world.operator.get("j")).cancel_reason == "🚀" * 1000


async def test_message_lists_three_violations_and_counts_the_others(operator: Operator) -> None:
    failure = await expect_error(
        "INVALID_FIELD", operator.create(job_id="/", document_type="", expires_in_hours=0)
    )

    assert set(failure.violations) == {"job_id", "document_type", "target", "expires_in_hours"}
    assert failure.message.endswith("; and 1 more")


@pytest.mark.parametrize("method", ["CreateJob", "ListJobs", "GetJob", "CancelJob"])
@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x7fab"], ids=["not protobuf", "truncated"])
async def test_request_is_malformed_when_its_bytes_are_not_protobuf(
    world: World, method: str, raw: bytes
) -> None:
    call: Any = world.server.channel.unary_unary(f"/fleet.jobs.v1.JobService/{method}")
    sent = call(raw, metadata=world.operator.metadata, timeout=TIMEOUT)

    failure = await expect_error("MALFORMED_REQUEST", sent)

    assert failure.request_id
