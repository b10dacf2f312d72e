"""in_progress_timeout_minutes: when an execution times out, and what moves that."""

from datetime import timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def device(database: Database, server: Server, operator: Operator) -> Device:
    """The only device of the test's tenant, with a job "j" QUEUED that allows 30 minutes."""
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True, in_progress_timeout_minutes=30)
    return server.device(operator.tenant, "pump")


def allowed(execution: DeviceExecution) -> timedelta:
    """How long it may go on for, counted from its last change."""
    return execution.times_out_at.ToDatetime() - execution.last_updated_at.ToDatetime()


async def test_it_belongs_to_the_job(device: Device, operator: Operator) -> None:
    await operator.create(job_id="none", target_all=True)

    assert (await operator.get("j")).in_progress_timeout_minutes == 30
    assert not (await operator.get("none")).HasField("in_progress_timeout_minutes")
    listed = {job.job_id: job for job in (await operator.list()).jobs}
    assert listed["j"].in_progress_timeout_minutes == 30


@pytest.mark.parametrize("minutes", [0, -1, 10081])
async def test_it_is_from_a_minute_to_a_week(operator: Operator, minutes: int) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.create(target_all=True, in_progress_timeout_minutes=minutes)

    assert set(failure.violations) == {"in_progress_timeout_minutes"}


@pytest.mark.parametrize("minutes", [1, 10080])
async def test_the_shortest_and_the_longest_are_taken(
    device: Device, operator: Operator, minutes: int
) -> None:
    await operator.create(job_id="k", target_all=True, in_progress_timeout_minutes=minutes)

    assert allowed(await device.start("k")) == minutes * MINUTE


async def test_it_makes_another_request_of_a_repetition(device: Device, operator: Operator) -> None:
    again = {"job_id": "j", "target_all": True}

    response = await operator.create(**again, in_progress_timeout_minutes=30)

    assert response.execution_count == 1
    for other in ({"in_progress_timeout_minutes": 31}, {}):
        with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
            await operator.create(**again, **other)


async def test_what_is_queued_has_no_deadline(device: Device, operator: Operator) -> None:
    assert not (await device.get("j")).HasField("times_out_at")
    assert not (await operator.get("j")).executions[0].HasField("times_out_at")


@pytest.mark.parametrize("how", ["start", "start_next", "report"])
async def test_a_start_sets_the_deadline(device: Device, operator: Operator, how: str) -> None:
    match how:
        case "start":
            started = await device.start("j")
        case "start_next":
            started = await device.start_next() or DeviceExecution()
        case _:
            started = await device.update("j", "IN_PROGRESS")

    assert allowed(started) == 30 * MINUTE
    assert started == await device.get("j")
    assert (await device.pending()).executions == [started]
    (execution,) = (await operator.get("j")).executions
    assert execution.times_out_at == started.times_out_at
    assert (await operator.executions("j")).executions == [execution]


async def test_without_a_timeout_there_is_no_deadline(device: Device, operator: Operator) -> None:
    await operator.create(job_id="none", target_all=True)

    assert not (await device.start("none")).HasField("times_out_at")
    assert not (await device.update("none", "IN_PROGRESS")).HasField("times_out_at")


async def test_starting_again_and_progress_leave_the_deadline(device: Device) -> None:
    started = await device.start("j")

    again = await device.start("j")
    progress = await device.update("j", "IN_PROGRESS", status_details={"percent": 50})

    assert again == started
    assert progress.version == started.version + 1
    assert progress.times_out_at == started.times_out_at


@pytest.mark.parametrize("minutes", [1, 10080])
async def test_progress_can_move_the_deadline_either_way(device: Device, minutes: int) -> None:
    await device.start("j")

    moved = await device.update("j", "IN_PROGRESS", extend_timeout_minutes=minutes)

    assert allowed(moved) == minutes * MINUTE
    assert (await device.update("j", "IN_PROGRESS")).times_out_at == moved.times_out_at


async def test_a_start_by_report_can_choose_the_deadline(device: Device) -> None:
    assert allowed(await device.update("j", "IN_PROGRESS", extend_timeout_minutes=90)) == (
        90 * MINUTE
    )


async def test_a_device_can_set_a_deadline_where_the_job_has_none(
    device: Device, operator: Operator
) -> None:
    await operator.create(job_id="none", target_all=True)
    await device.start("none")

    moved = await device.update("none", "IN_PROGRESS", extend_timeout_minutes=5)

    assert allowed(moved) == 5 * MINUTE


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "IN_PROGRESS", "extend_timeout_minutes": 0},
        {"status": "IN_PROGRESS", "extend_timeout_minutes": 10081},
        {"status": "SUCCEEDED", "extend_timeout_minutes": 5},
        {"status": "REJECTED", "extend_timeout_minutes": 5},
    ],
    ids=str,
)
async def test_a_wrong_extension_is_refused(device: Device, fields: dict[str, Any]) -> None:
    await device.start("j")

    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await device.update("j", **fields)

    assert set(failure.violations) == {"extend_timeout_minutes"}


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "REJECTED"])
async def test_the_end_clears_the_deadline(
    database: Database, device: Device, operator: Operator, status: str
) -> None:
    await device.start("j")

    done = await device.update("j", status)

    assert not done.HasField("times_out_at")
    assert not (await operator.get("j")).executions[0].HasField("times_out_at")
    stored = "SELECT times_out_at FROM jobs.job_executions WHERE tenant_id = $1"
    assert await database.owner.fetchval(stored, operator.tenant) is None


async def test_a_report_after_the_deadline_counts_as_long_as_nobody_swept(
    database: Database, device: Device, operator: Operator
) -> None:
    await device.start("j")
    await database.make_overdue(operator.tenant, "j")

    progress = await device.update("j", "IN_PROGRESS", extend_timeout_minutes=10)
    assert allowed(progress) == 10 * MINUTE

    await database.make_overdue(operator.tenant, "j")
    await device.update("j", "SUCCEEDED")
    assert (await operator.get("j")).execution_counts == pb.ExecutionCounts(succeeded=1)
