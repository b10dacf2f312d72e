"""A flood of refused calls writes a line a second."""

import asyncio
import logging
from typing import Any

import pytest

from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import JobNotFound, Overloaded, RoleRequired
from jobs_grpc.rpc.repeated_refusals import RepeatedRefusals
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.waiting import wait_until_true

METHOD = "/fleet.jobs.v1.JobService/CreateJob"
CALLS = 200


def _caller(tenant: str) -> Principal:
    return Principal(tenant_id=tenant, roles=frozenset(), subject=None, device_id=None)


@pytest.mark.slow
async def test_refused_calls_are_one_line_and_then_their_number(
    server: Server, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    viewer = server.caller(("x-tenant-id", tenant), ("x-roles", "viewer"))

    async def create() -> None:
        await expect_error("ROLE_REQUIRED", viewer.create(target_all=True))

    for _ in range(CALLS // 50):
        await asyncio.gather(*(create() for _ in range(50)))

    def calls() -> list[dict[str, Any]]:
        lines = [vars(r)["fields"] for r in caplog.records if r.name == "jobs_grpc.calls"]
        return [fields for fields in lines if fields["tenant"] == tenant]

    await wait_until_true(lambda: sum(fields.get("others", 1) for fields in calls()) == CALLS)
    first, *others = calls()
    assert "others" not in first
    assert all(fields["reason"] == "ROLE_REQUIRED" for fields in calls())
    # A line a second; this takes a few seconds on the slowest machine.
    assert 1 <= len(others) < CALLS / 10


async def test_refusals_of_each_tenant_method_and_reason_are_counted_separately() -> None:
    refusals = RepeatedRefusals()
    a, b = _caller("a"), _caller("b")
    overloaded, role_required = Overloaded(), RoleRequired(["admin"])

    assert refusals.should_log_call(METHOD, a, overloaded)
    assert refusals.should_log_call(METHOD, b, overloaded)
    assert refusals.should_log_call(METHOD, None, overloaded)
    assert refusals.should_log_call(METHOD, a, role_required)
    assert refusals.should_log_call("/fleet.jobs.v1.JobService/GetJob", a, overloaded)

    assert not refusals.should_log_call(METHOD, a, overloaded)


async def test_errors_that_the_database_has_found_each_have_a_line() -> None:
    refusals = RepeatedRefusals()

    assert all(refusals.should_log_call(METHOD, _caller("a"), JobNotFound("j")) for _ in range(3))
    assert len(refusals) == 0


async def test_number_of_kinds_is_limited() -> None:
    """Callers can make up tenants."""
    refusals = RepeatedRefusals()

    logged = [refusals.should_log_call(METHOD, _caller(f"t{n}"), Overloaded()) for n in range(5000)]

    # The tenants after the first 1,000 share a line.
    assert sum(logged) == len(refusals) == 1001


@pytest.mark.slow
async def test_kinds_are_forgotten_when_they_end() -> None:
    refusals = RepeatedRefusals()
    refusals.should_log_call(METHOD, _caller("a"), Overloaded())

    await wait_until_true(lambda: len(refusals) == 0)


async def test_refusals_without_a_line_are_logged_when_the_server_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.calls")
    refusals = RepeatedRefusals()
    for _ in range(3):
        refusals.should_log_call(METHOD, _caller("a"), Overloaded())

    refusals.flush()

    [record] = caplog.records
    assert record.getMessage() == "CreateJob RESOURCE_EXHAUSTED"
    assert vars(record)["fields"] == {"tenant": "a", "reason": "OVERLOADED", "others": 2}
