"""A flood of refused or canceled calls writes a line a second."""

import asyncio
import logging
from contextlib import aclosing
from typing import Any

import pytest

from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import JobNotFound, JobsError, Overloaded, RoleRequired
from jobs_grpc.rpc.repeated_refusals import RepeatedRefusals
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.waiting import wait_until_true
from tests.support.world import World

METHOD = "/fleet.jobs.v1.JobService/CreateJob"
CALLS = 200
CANCELED = 3


def _should_log(
    refusals: RepeatedRefusals, tenant: str | None, error: JobsError, method: str = METHOD
) -> bool:
    caller = (
        Principal(tenant_id=tenant, roles=frozenset(), subject=None, device_id=None)
        if tenant
        else None
    )
    return refusals.should_log_call(method, caller, error.code, error)


def _lines_of(tenant: str, caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    """Return the fields of the tenant's lines with this message."""
    lines = [
        vars(record)["fields"]
        for record in caplog.records
        if record.name == "jobs_grpc.calls" and record.message == message
    ]
    return [fields for fields in lines if fields["tenant"] == tenant]


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
        return _lines_of(tenant, caplog, "CreateJob PERMISSION_DENIED")

    await wait_until_true(lambda: sum(fields.get("others", 1) for fields in calls()) == CALLS)
    first, *others = calls()
    assert "others" not in first
    assert all(fields["reason"] == "ROLE_REQUIRED" for fields in calls())
    # A line a second; this takes a few seconds on the slowest machine.
    assert 1 <= len(others) < CALLS / 10


async def test_refusals_of_each_tenant_method_and_reason_are_counted_separately() -> None:
    refusals = RepeatedRefusals()
    overloaded = Overloaded()

    assert _should_log(refusals, "a", overloaded)
    assert _should_log(refusals, "b", overloaded)
    assert _should_log(refusals, None, overloaded)
    assert _should_log(refusals, "a", RoleRequired(["admin"]))
    assert _should_log(refusals, "a", overloaded, "/fleet.jobs.v1.JobService/GetJob")

    assert not _should_log(refusals, "a", overloaded)


@pytest.mark.slow
async def test_canceled_calls_are_one_line_and_then_their_number(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await world.add_devices(1)
    await world.create("a")

    async with world.lock_held("a"):
        calls = [asyncio.create_task(world.operator.cancel("a")) for _ in range(CANCELED)]
        await world.database.wait_for_blocked_sessions(CANCELED)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

    def lines() -> list[dict[str, Any]]:
        return _lines_of(world.tenant, caplog, "CancelJob CANCELLED")

    await wait_until_true(lambda: sum(fields.get("others", 1) for fields in lines()) == CANCELED)
    first, others = lines()
    assert "others" not in first
    assert others["others"] == CANCELED - 1


async def test_each_canceled_watch_has_a_line(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await world.add_devices(1)
    await world.create("a")

    for _ in range(2):
        async with aclosing(world.operator.watch("a")) as watch:
            await anext(watch)

    await wait_until_true(lambda: len(_lines_of(world.tenant, caplog, "WatchJob CANCELLED")) == 2)


async def test_errors_that_the_database_has_found_each_have_a_line() -> None:
    refusals = RepeatedRefusals()

    assert all(_should_log(refusals, "a", JobNotFound("j")) for _ in range(3))
    assert len(refusals) == 0


async def test_number_of_kinds_is_limited() -> None:
    """Callers can make up tenants."""
    refusals = RepeatedRefusals()

    logged = [_should_log(refusals, f"t{n}", Overloaded()) for n in range(5000)]

    # The tenants after the first 1,000 share a line.
    assert sum(logged) == len(refusals) == 1001


@pytest.mark.slow
async def test_kinds_are_forgotten_when_they_end() -> None:
    refusals = RepeatedRefusals()
    _should_log(refusals, "a", Overloaded())

    await wait_until_true(lambda: len(refusals) == 0)


async def test_refusals_without_a_line_are_logged_when_the_server_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.calls")
    refusals = RepeatedRefusals()
    for _ in range(3):
        _should_log(refusals, "a", Overloaded())

    refusals.flush()

    [record] = caplog.records
    assert record.getMessage() == "CreateJob RESOURCE_EXHAUSTED"
    assert vars(record)["fields"] == {"tenant": "a", "reason": "OVERLOADED", "others": 2}
