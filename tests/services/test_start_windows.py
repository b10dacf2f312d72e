"""Start windows: what a device sees, starts and reports while they are closed and open."""

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Device, Operator
from tests.support.database import Database, replaced_function, request_session
from tests.support.failures import expect_failure
from tests.support.server import Server
from tests.support.windows import set_time, set_windows

# A Monday in summer time. In Berlin, it is 00:00.
MIDNIGHT = datetime(2027, 6, 6, 22, tzinfo=UTC)
# Monday and Tuesday from 02:00 to 04:00.
WINDOWS = [3, 120, 120]
OPENING = MIDNIGHT + timedelta(hours=2)
CLOSING = MIDNIGHT + timedelta(hours=4)


@pytest.fixture(autouse=True)
async def job(database: Database, operator: Operator) -> None:
    """A job "j" with the windows in Berlin, an hour before they open."""
    await set_time(database, OPENING - timedelta(hours=1))
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True, never_expires=True)
    await set_windows(database, operator.tenant, "j", WINDOWS, "Europe/Berlin")


@pytest.fixture
def device(server: Server, tenant: str) -> Device:
    """The device of the job."""
    return server.device(tenant, "pump")


async def job_ids(device: Device) -> list[str]:
    """The pending executions that the device sees."""
    return [execution.job_id for execution in (await device.pending()).executions]


async def starts(device: Device) -> bool:
    """Whether StartNextExecution starts an execution."""
    return await device.start_next() is not None


async def earliest_start(start: Awaitable[Any]) -> str:
    """The time in the error of a start that is not due."""
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_NOT_DUE") as failure:
        await start
    return failure.metadata["earliestStartAt"]


async def test_execution_is_listed_and_started_only_while_a_window_is_open(
    database: Database, device: Device
) -> None:
    for at, is_open in [
        (OPENING - timedelta(seconds=10), False),
        (CLOSING, False),
        (OPENING + timedelta(days=6), False),
        (OPENING + timedelta(days=1), True),
        (OPENING, True),
    ]:
        await set_time(database, at)
        assert await job_ids(device) == ["j"] * is_open, at
    await set_time(database, CLOSING + timedelta(seconds=10))
    assert not await starts(device)
    await set_time(database, CLOSING - timedelta(seconds=30))
    assert await starts(device)


async def test_started_execution_is_listed_and_repeated_after_its_window_closes(
    database: Database, device: Device
) -> None:
    await set_time(database, OPENING)
    await device.start("j")
    await set_time(database, CLOSING)

    assert await job_ids(device) == ["j"]
    assert (await device.start("j")).status == pb.JobExecution.IN_PROGRESS
    assert await starts(device)
    await device.update("j", pb.JobExecution.IN_PROGRESS, status_details={"percent": 50})


@pytest.mark.parametrize("method", ["start", "update"])
async def test_start_fails_with_the_time_of_the_next_opening_while_windows_are_closed(
    database: Database, device: Device, method: str
) -> None:
    starting: dict[str, Any] = {
        "start": lambda: device.start("j"),
        "update": lambda: device.update("j", pb.JobExecution.IN_PROGRESS),
    }

    assert await earliest_start(starting[method]()) == "2027-06-07T00:00:00Z"
    await set_time(database, CLOSING + timedelta(days=1))
    assert await earliest_start(starting[method]()) == "2027-06-14T00:00:00Z"


async def test_start_fails_with_the_first_opening_after_the_end_of_the_backoff(
    database: Database, operator: Operator, device: Device
) -> None:
    await set_time(database, OPENING)
    for not_before, earliest in [
        (OPENING + timedelta(hours=1), OPENING + timedelta(hours=1)),
        (CLOSING, OPENING + timedelta(days=1)),
    ]:
        await database.owner.execute(
            "UPDATE jobs.job_executions SET not_before = $2 WHERE tenant_id = $1",
            operator.tenant,
            not_before,
        )
        assert await earliest_start(device.start("j")) == f"{earliest:%Y-%m-%dT%H:%M:%SZ}"
        assert await job_ids(device) == []
        assert not await starts(device)


async def test_start_fails_with_the_next_opening_when_its_job_starts_during_the_call(
    database: Database, operator: Operator, device: Device
) -> None:
    await operator.create(
        job_id="later",
        target_all=True,
        start_at=OPENING - timedelta(minutes=30),
        never_expires=True,
    )
    await set_windows(database, operator.tenant, "later", WINDOWS, "Europe/Berlin")
    offset = await database.owner.fetchval("SELECT jobs.clock_time() - clock_timestamp()")
    # As after a long wait for the job lock: jobs.now() is the start of the transaction.
    clock_time = (
        "CREATE OR REPLACE FUNCTION jobs.clock_time() RETURNS timestamptz LANGUAGE sql VOLATILE"
        " PARALLEL SAFE RETURN clock_timestamp()"
        f" + interval '{offset.total_seconds() + 45 * 60} seconds'"
    )

    async with replaced_function(database, "jobs.clock_time", clock_time):
        assert await earliest_start(device.start("later")) == "2027-06-07T00:00:00Z"


async def test_waiting_execution_is_read_as_queued(operator: Operator, device: Device) -> None:
    assert (await device.get("j")).status == pb.JobExecution.QUEUED
    job = await operator.get("j")
    assert job.execution_counts.queued == 1
    assert job.executions[0].status == pb.JobExecution.QUEUED


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "REJECTED"])
async def test_report_of_an_end_is_accepted_while_windows_are_closed(
    operator: Operator, device: Device, status: str
) -> None:
    await device.update("j", pb.JobExecution.Status.Value(status))

    assert (await operator.get("j")).status == pb.Job.COMPLETED


async def test_start_of_a_paused_job_fails_with_job_paused_while_windows_are_closed(
    operator: Operator, device: Device
) -> None:
    await operator.pause("j")

    with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_PAUSED"):
        await device.start("j")


async def test_next_execution_is_that_of_a_later_job_while_the_first_one_waits(
    operator: Operator, device: Device
) -> None:
    await operator.create(job_id="later", target_all=True)

    assert await job_ids(device) == ["later"]
    started = await device.start_next()
    assert started is not None
    assert started.job_id == "later"


async def test_batch_starts_only_what_is_due(database: Database, operator: Operator) -> None:
    await database.add_devices(operator.tenant, ["fan"])
    await operator.create(job_id="due", target_all=True)

    async with request_session(database) as (_, store):
        rows = await store.update_executions(
            operator.tenant,
            [
                ExecutionUpdate("j", "pump", "IN_PROGRESS"),
                ExecutionUpdate("due", "fan", None),
            ],
            wait_ms=0,
        )

    assert [row["outcome"] for row in rows] == ["EXECUTION_NOT_DUE", "APPLIED"]


@pytest.mark.parametrize(
    ("zone", "opening"),
    [
        ("Asia/Tokyo", datetime(2027, 6, 7, 17, tzinfo=UTC)),
        ("UTC", datetime(2027, 6, 7, 2, tzinfo=UTC)),
        # PostgreSQL does not know it.
        ("Europe/Atlantis", datetime(2027, 6, 7, 2, tzinfo=UTC)),
    ],
)
async def test_windows_open_in_the_zone_of_each_execution(
    database: Database, operator: Operator, device: Device, zone: str, opening: datetime
) -> None:
    await set_windows(database, operator.tenant, "j", WINDOWS, None)
    await database.owner.execute(
        "UPDATE jobs.job_executions SET time_zone = $2 WHERE tenant_id = $1", operator.tenant, zone
    )

    assert await earliest_start(device.start("j")) == f"{opening:%Y-%m-%dT%H:%M:%SZ}"
    await set_time(database, opening)
    assert await starts(device)
