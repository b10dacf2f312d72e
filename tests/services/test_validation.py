"""Request validation: the error names each invalid field, and the limits are exact."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.waiting import TIMEOUT
from tests.support.world import World

ALL = {"target_all": True}

# A method of Operator, its fields, and the fields that are invalid.
INVALID: list[tuple[str, dict[str, Any], set[str]]] = [
    ("create", ALL | {"job_id": "a b"}, {"job_id"}),
    ("create", ALL | {"job_id": "a\n"}, {"job_id"}),
    ("create", ALL | {"job_id": "é"}, {"job_id"}),
    ("create", ALL | {"job_id": "a/b"}, {"job_id"}),
    ("create", ALL | {"job_id": "x" * 129}, {"job_id"}),
    ("create", ALL | {"document_type": ""}, {"document_type"}),
    ("create", ALL | {"document_type": "x" * 101}, {"document_type"}),
    ("create", ALL | {"document_type": "a\0"}, {"document_type"}),
    ("create", ALL | {"document_type": "a\tb"}, {"document_type"}),
    ("create", ALL | {"document_type": "a\x85b"}, {"document_type"}),
    ("create", {}, {"target"}),
    ("create", {"target_all": False}, {"target"}),
    ("create", {"target_device_id": ""}, {"target"}),
    ("create", {"target_group_id": ""}, {"target"}),
    ("create", {"target_device_id": "x" * 257}, {"target_device_id"}),
    ("create", {"target_device_id": "a\x7f"}, {"target_device_id"}),
    ("create", {"target_group_id": "x" * 257}, {"target_group_id"}),
    ("create", {"target_group_id": "a\0b"}, {"target_group_id"}),
    ("create", ALL | {"expires_in_hours": 0}, {"expires_in_hours"}),
    ("create", ALL | {"expires_in_hours": -1}, {"expires_in_hours"}),
    ("create", ALL | {"expires_in_hours": 721}, {"expires_in_hours"}),
    ("create", ALL | {"expires_in_hours": 2**31 - 1}, {"expires_in_hours"}),
    ("create", ALL | {"expires_in_hours": 24, "never_expires": True}, {"never_expires"}),
    ("create", {"job_id": "/", "document_type": ""}, {"job_id", "document_type", "target"}),
    ("list", {"limit": 0}, {"limit"}),
    ("list", {"limit": -1}, {"limit"}),
    ("list", {"limit": 201}, {"limit"}),
    ("list", {"offset": -1}, {"offset"}),
    ("list", {"status": 6}, {"status"}),
    ("list", {"status": -1}, {"status"}),
    ("list", {"status": 2**31 - 1}, {"status"}),
    ("list", {"limit": 0, "offset": -1, "status": 9}, {"limit", "offset", "status"}),
    ("get", {"job_id": ""}, {"job_id"}),
    ("get", {"job_id": "a b"}, {"job_id"}),
    ("get", {"job_id": "j", "executions_limit": -1}, {"executions_limit"}),
    ("get", {"job_id": "j", "executions_limit": 5001}, {"executions_limit"}),
    ("executions", {"job_id": ""}, {"job_id"}),
    ("executions", {"job_id": "j", "limit": 0}, {"limit"}),
    ("executions", {"job_id": "j", "limit": 5001}, {"limit"}),
    ("executions", {"job_id": "j", "status": 8}, {"status"}),
    ("executions", {"job_id": "!", "limit": -5, "status": -1}, {"job_id", "limit", "status"}),
    ("cancel", {"job_id": ""}, {"job_id"}),
    ("cancel", {"job_id": "x" * 129}, {"job_id"}),
    ("cancel", {"job_id": "j", "reason": "x" * 1001}, {"reason"}),
    ("cancel", {"job_id": "j", "reason": "a\0"}, {"reason"}),
    ("cancel", {"job_id": "", "reason": "\0"}, {"job_id", "reason"}),
    ("cancel_execution", {"job_id": "", "device": "d"}, {"job_id"}),
    ("cancel_execution", {"job_id": "j", "device": ""}, {"device_id"}),
    ("cancel_execution", {"job_id": "j", "device": "x" * 257}, {"device_id"}),
    ("cancel_execution", {"job_id": "j", "device": "a\0"}, {"device_id"}),
    ("cancel_execution", {"job_id": "j", "device": "d", "reason": "x" * 1001}, {"reason"}),
    ("attempts", {"job_id": "", "device": ""}, {"job_id", "device_id"}),
    ("delete", {"job_id": ""}, {"job_id"}),
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


@pytest.mark.parametrize(("rpc", "request_fields", "invalid_fields"), INVALID)
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
async def test_request_is_accepted_when_its_fields_are_at_the_limits(
    world: World, request_fields: dict[str, Any]
) -> None:
    await world.add_devices(["🚀" * 256, "'; --"], group="g" * 256)

    response = await world.operator.create(**request_fields)

    job = await world.operator.get(response.job_id)
    for field in ("document_type", "target_device_id", "target_group_id"):
        assert getattr(job, field) == request_fields.get(field, getattr(job, field))


async def test_longest_reason_is_accepted(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", **ALL)

    await operator.cancel("j", reason="🚀" * 1000)

    assert (await operator.get("j")).cancel_reason == "🚀" * 1000


async def test_message_lists_three_violations_and_counts_the_others(operator: Operator) -> None:
    failure = await expect_error(
        "INVALID_FIELD", operator.create(job_id="/", document_type="", expires_in_hours=0)
    )

    assert set(failure.violations) == {"job_id", "document_type", "target", "expires_in_hours"}
    assert failure.message.endswith("; and 1 more")


async def test_invalid_request_changes_nothing(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", **ALL)
    before = await operator.get("j")

    await expect_error("INVALID_FIELD", operator.cancel("j", reason="x" * 1001))
    await expect_error("INVALID_FIELD", operator.create(job_id="k", expires_in_hours=0, **ALL))

    assert (await operator.list()).jobs[0].status == pb.Job.IN_PROGRESS
    assert await operator.get("j") == before


@pytest.mark.parametrize("method", ["CreateJob", "ListJobs", "GetJob", "CancelJob"])
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xff", id="not protobuf"),
        pytest.param(b"\x0a\x7fab", id="truncated"),
        pytest.param(b"\x0a\x02\xc3\x28\x22\x02\xc3\x28", id="text that is not UTF-8"),
    ],
)
async def test_request_is_malformed_when_its_bytes_are_not_a_message(
    world: World, method: str, raw: bytes
) -> None:
    call: Any = world.server.channel.unary_unary(f"/fleet.jobs.v1.JobService/{method}")

    failure = await expect_error(
        "MALFORMED_REQUEST", call(raw, metadata=world.operator.metadata, timeout=TIMEOUT)
    )

    assert failure.request_id
