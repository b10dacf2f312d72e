"""Failure codes: reported, stored, listed, counted and retried."""

import asyncio
from collections.abc import Iterable

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.store import ExecutionUpdate
from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Operator, all_executions
from tests.support.database import Database, send_batch
from tests.support.failures import expect_error, invalid_fields
from tests.support.world import World

DEVICES = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture(autouse=True)
async def job(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(job_id="j", target_all=True)


async def report(
    world: World, device: str, status: str, code: str = ""
) -> device_pb.DeviceExecution:
    """Report the end of an execution of "j"."""
    return await world.device(device).update("j", status, failure_code=code)


@pytest.fixture
async def failed(world: World) -> Operator:
    """An operator of five devices that have failed, and one that has not."""
    for device, status, code in (
        ("a", "FAILED", "E1"),
        ("b", "FAILED", "E1"),
        ("c", "REJECTED", "E1"),
        ("d", "FAILED", "E2"),
        ("e", "FAILED", ""),
    ):
        await report(world, device, status, code)
    return world.operator


def names(executions: Iterable[pb.JobExecution]) -> list[str]:
    return [execution.device_id for execution in executions]


def counts(summary: pb.GetFailureSummaryResponse) -> list[tuple[str, str, int]]:
    """The status, code and number of each row."""
    return [
        (pb.JobExecution.Status.Name(f.status), f.failure_code, f.execution_count)
        for f in summary.failures
    ]


async def test_failure_code_is_stored_and_shown_to_device_and_operator(world: World) -> None:
    reported = await report(world, "a", "FAILED", "disk.full:7-A_b")

    assert reported.failure_code == "disk.full:7-A_b"
    assert (await world.device("a").get("j")).failure_code == "disk.full:7-A_b"
    execution = (await world.operator.get("j")).executions[0]
    assert execution.failure_code == "disk.full:7-A_b"
    [execution] = (await world.operator.executions("", device_id="a")).executions
    assert execution.failure_code == "disk.full:7-A_b"


async def test_failure_code_is_empty_when_device_names_none_or_times_out(world: World) -> None:
    await report(world, "a", "FAILED")
    await report(world, "b", "REJECTED")
    await world.device("c").update("j", "IN_PROGRESS", extend_timeout_minutes=1)
    await world.make_overdue()
    async with Sweeper(world.database.owner_dsn) as sweeper:
        await sweeper.run_timeouts()

    for execution in (await world.operator.get("j")).executions[:3]:
        assert (execution.HasField("failure_code"), execution.failure_code) == (True, "")
    assert counts(await world.operator.failures("j")) == [
        *(("FAILED", "", 1), ("TIMED_OUT", "", 1), ("REJECTED", "", 1))
    ]


async def test_report_is_rejected_when_failure_code_is_invalid(world: World) -> None:
    for status, code in (
        *(("FAILED", "x" * 65), ("FAILED", "two words"), ("FAILED", "*"), ("REJECTED", "é")),
        *(("SUCCEEDED", "E1"), ("IN_PROGRESS", "E1")),
    ):
        assert await invalid_fields(report(world, "a", status, code)) == ["failure_code"]


async def test_repeated_report_is_accepted_only_with_the_same_failure_code(world: World) -> None:
    first = await report(world, "a", "FAILED", "E1")

    assert await report(world, "a", "FAILED", "E1") == first
    for code in ("E2", ""):
        await expect_error("EXECUTION_FINISHED", report(world, "a", "FAILED", code))

    assert counts(await world.operator.failures("j")) == [("FAILED", "E1", 1)]


async def test_lists_filter_by_failure_code(failed: Operator) -> None:
    async def listed(**fields: object) -> list[str]:
        return names(await all_executions(failed, "j", limit=1, **fields))

    assert await listed(failure_code="E1") == ["a", "b", "c"]
    assert await listed(failure_code="E1", status="REJECTED") == ["c"]
    assert await listed(failure_code="") == ["e"]
    assert await listed(failure_code="E3") == []
    assert await listed() == DEVICES
    page = await failed.executions("", device_id="d", failure_code="E2")
    assert names(page.executions) == ["d"]
    assert not (await failed.executions("", device_id="d", failure_code="")).executions
    assert await invalid_fields(failed.executions("j", failure_code="two words")) == [
        "failure_code"
    ]


async def test_summary_has_the_most_frequent_status_and_code_first(failed: Operator) -> None:
    summary = await failed.failures("j")

    assert counts(summary) == [
        ("FAILED", "E1", 2),
        ("FAILED", "", 1),
        ("FAILED", "E2", 1),
        ("REJECTED", "E1", 1),
    ]
    assert [list(f.device_ids) for f in summary.failures] == [["a", "b"], ["e"], ["d"], ["c"]]
    assert summary.other_failure_count == 0
    assert counts(await failed.failures("j", statuses=["REJECTED"])) == [("REJECTED", "E1", 1)]
    assert counts(await failed.failures("j", failure_codes=["", "E2"])) == [
        ("FAILED", "", 1),
        ("FAILED", "E2", 1),
    ]


async def test_summary_is_rejected_when_request_is_invalid(operator: Operator) -> None:
    assert {
        *await invalid_fields(
            operator.failures("j", statuses=["SUCCEEDED"], failure_codes=["E1", "a b"])
        )
    } == {"statuses", "failure_codes[1]"}
    assert await invalid_fields(operator.failures("j", failure_codes=["E1"] * 101)) == [
        "failure_codes"
    ]
    await expect_error("JOB_NOT_FOUND", operator.failures("missing"))


async def test_retry_is_rejected_when_a_filter_is_invalid(operator: Operator) -> None:
    for fields, field in (
        ({"failure_codes": ["E1", "a b"]}, "failure_codes[1]"),
        ({"failure_codes": ["E1"] * 101}, "failure_codes"),
        ({"device_ids": ["d", ""]}, "device_ids[1]"),
        ({"device_ids": ["d"] * 1001}, "device_ids"),
    ):
        assert await invalid_fields(operator.retry("j", "FAILED", **fields)) == [field]


def code(number: int) -> str:
    """A failure code; codes of higher numbers come later in sort order."""
    return f"code-{number:04}"


async def send(database: Database, tenant: str, codes: dict[int, int]) -> None:
    """Report failures of the job "many" as one batch: the number of a code by that of a device."""
    updates = [
        ExecutionUpdate("many", f"d{device:05}", "FAILED", failure_code=code(number))
        for device, number in codes.items()
    ]
    await send_batch(database, tenant, *updates)


@pytest.fixture
async def many(database: Database, operator: Operator) -> Operator:
    await database.add_devices(operator.tenant, 300, group="many")
    await operator.create(job_id="many", target_group_id="many")
    return operator


async def test_codes_after_the_first_hundred_are_counted_together(
    database: Database, many: Operator
) -> None:
    async def numbers() -> tuple[int, int]:
        summary = await many.failures("many")
        return len(summary.failures), summary.other_failure_count

    for first in range(1, 300, 60):
        await send(database, many.tenant, {n: n for n in range(first, first + 60)})

    summary = await many.failures("many")
    assert counts(summary) == [("FAILED", code(number), 1) for number in range(1, 101)]
    rows = "SELECT FROM jobs.job_failures WHERE tenant_id = $1"
    assert summary.other_failure_count == 200
    assert len(await database.owner.fetch(rows, many.tenant)) == 101

    # A retry takes failures back where they were counted, and keeps the first hundred.
    codes = [code(number) for number in (1, 50, 101, 300)]
    assert (await many.retry("many", "FAILED", failure_codes=codes)).retried_count == 4
    assert await numbers() == (98, 198)
    await send(database, many.tenant, {1: 101, 50: 50})
    assert await numbers() == (99, 199)
    assert (await many.retry("many", "FAILED")).retried_count == 298
    assert await many.failures("many") == pb.GetFailureSummaryResponse()


async def test_first_hundred_is_exact_when_batches_of_one_job_run_concurrently(
    database: Database, many: Operator
) -> None:
    batches = [{n: n for n in range(first, first + 100)} for first in (1, 101, 201)]

    await asyncio.gather(*(send(database, many.tenant, batch) for batch in batches))

    summary = await many.failures("many")
    assert (len(summary.failures), summary.other_failure_count) == (100, 200)
