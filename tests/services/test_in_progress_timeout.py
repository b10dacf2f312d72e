"""in_progress_timeout_minutes: when times_out_at is set, and what changes it."""

from datetime import timedelta

import pytest
from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution

from tests.support.failures import expect_error, invalid_fields
from tests.support.world import World

MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
async def job(world: World) -> None:
    await world.add_devices(["pump"])
    await world.create(in_progress_timeout_minutes=30)


def timeout_of(execution: DeviceExecution) -> timedelta:
    """The time from the last change of an execution until it times out."""
    return execution.times_out_at.ToDatetime() - execution.last_updated_at.ToDatetime()


async def test_timeout_is_a_field_of_the_job(world: World) -> None:
    await world.create("none")

    assert (await world.operator.get("j")).in_progress_timeout_minutes == 30
    assert not (await world.operator.get("none")).HasField("in_progress_timeout_minutes")
    for minutes in (31, None):
        await expect_error("JOB_ALREADY_EXISTS", world.create(in_progress_timeout_minutes=minutes))


@pytest.mark.parametrize("minutes", [1, 10080])
async def test_shortest_and_longest_timeouts_are_accepted(world: World, minutes: int) -> None:
    await world.create("k", in_progress_timeout_minutes=minutes)
    started = await world.pump.start("k")
    assert timeout_of(started) == minutes * MINUTE

    await world.pump.start("j")
    extended = await world.pump.update("j", "IN_PROGRESS", extend_timeout_minutes=minutes)
    assert timeout_of(extended) == minutes * MINUTE
    assert (await world.pump.update("j", "IN_PROGRESS")).times_out_at == extended.times_out_at


async def test_timeouts_out_of_range_are_rejected(world: World) -> None:
    for minutes in (0, -1, 10081):
        assert await invalid_fields(
            world.operator.create(target_all=True, in_progress_timeout_minutes=minutes)
        ) == ["in_progress_timeout_minutes"]
        assert await invalid_fields(
            world.pump.update("j", "IN_PROGRESS", extend_timeout_minutes=minutes)
        ) == ["extend_timeout_minutes"]
    for status in ("SUCCEEDED", "REJECTED"):
        assert await invalid_fields(world.pump.update("j", status, extend_timeout_minutes=5)) == [
            "extend_timeout_minutes"
        ]


@pytest.mark.parametrize("method", ["start", "start_next", "report"])
async def test_start_sets_times_out_at(world: World, method: str) -> None:
    assert not (await world.pump.get("j")).HasField("times_out_at")
    match method:
        case "start":
            started = await world.pump.start("j")
        case "start_next":
            started = await world.pump.start_next() or DeviceExecution()
        case _:
            started = await world.pump.update("j", "IN_PROGRESS")

    assert timeout_of(started) == 30 * MINUTE
    assert started == await world.pump.get("j")
    assert (await world.pump.pending()).executions == [started]
    (execution,) = (await world.operator.get("j")).executions
    assert execution.times_out_at == started.times_out_at
    assert (await world.operator.executions("j")).executions == [execution]


async def test_repeated_start_and_progress_do_not_change_times_out_at(world: World) -> None:
    started = await world.pump.start("j")

    repeated = await world.pump.start("j")
    progress = await world.pump.update("j", "IN_PROGRESS", status_details={"percent": 50})

    assert repeated == started
    assert progress.version == started.version + 1
    assert progress.times_out_at == started.times_out_at


async def test_report_that_starts_can_set_the_timeout(world: World) -> None:
    started = await world.pump.update("j", "IN_PROGRESS", extend_timeout_minutes=90)

    assert timeout_of(started) == 90 * MINUTE


async def test_device_can_set_a_timeout_when_job_has_none(world: World) -> None:
    await world.create("none")
    assert not (await world.pump.start("none")).HasField("times_out_at")
    assert not (await world.pump.update("none", "IN_PROGRESS")).HasField("times_out_at")

    extended = await world.pump.update("none", "IN_PROGRESS", extend_timeout_minutes=5)

    assert timeout_of(extended) == 5 * MINUTE


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "REJECTED"])
async def test_terminal_report_clears_times_out_at(world: World, status: str) -> None:
    await world.pump.start("j")

    finished = await world.pump.update("j", status)

    assert not finished.HasField("times_out_at")
    assert not (await world.operator.get("j")).executions[0].HasField("times_out_at")
    query = "SELECT times_out_at FROM jobs.job_executions WHERE tenant_id = $1"
    assert await world.owner_value(query) is None


async def test_report_is_accepted_after_times_out_at_until_the_sweeper_runs(world: World) -> None:
    await world.pump.start("j")
    await world.make_overdue()

    progress = await world.pump.update("j", "IN_PROGRESS", extend_timeout_minutes=10)
    assert timeout_of(progress) == 10 * MINUTE

    await world.make_overdue()
    await world.pump.update("j", "SUCCEEDED")
    assert await world.operator.counts() == {"succeeded": 1}
