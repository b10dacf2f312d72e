"""Reports that wait together go to the database together."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from jobs_grpc import database as service_database
from jobs_grpc.batcher import Batcher
from jobs_grpc.config import Config
from jobs_grpc.store import Report, Store
from tests.support import Database, Operator, mutex_held

DEVICES = [f"d{n:03}" for n in range(100)]


@pytest.fixture
async def batcher(database: Database, operator: Operator) -> AsyncIterator[Batcher]:
    """A batcher on the test's database, with a job "j" for a hundred devices."""
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(job_id="j", target_all=True)
    connected = service_database.Database(
        Config.from_env({"JOBS_DATABASE_URL": database.request_dsn})
    )
    await connected.check()
    running = Batcher(Store(connected))
    yield running
    await running.close()
    await connected.close()


def report(device: str, status: str = "SUCCEEDED", job_id: str = "j") -> Report:
    """A report without expectations."""
    return Report(job_id, device, status, None, None, None)


async def test_what_gathers_behind_a_batch_is_the_next_one(
    database: Database, operator: Operator, batcher: Batcher
) -> None:
    async with mutex_held(database, operator.tenant, "j"):
        first = asyncio.ensure_future(batcher.report(operator.tenant, report(DEVICES[0])))
        await database.until_blocked(1)
        others = [
            asyncio.ensure_future(batcher.report(operator.tenant, report(device)))
            for device in DEVICES[1:]
        ]
    rows = await asyncio.gather(first, *others)

    assert [row["device_id"] for row in rows] == DEVICES
    # A batch has one time.
    assert len({row["last_updated_at"] for row in rows}) == 2


async def test_an_execution_is_once_in_a_batch_and_in_order(
    database: Database, operator: Operator, batcher: Batcher
) -> None:
    statuses = ["IN_PROGRESS", "IN_PROGRESS", "IN_PROGRESS", "SUCCEEDED"]
    async with mutex_held(database, operator.tenant, "j"):
        reports = [
            asyncio.ensure_future(batcher.report(operator.tenant, report("d000", status)))
            for status in statuses
        ]
        await database.until_blocked(1)
    rows = await asyncio.gather(*reports)

    assert [(row["version"], row["status"]) for row in rows] == [
        (2 + n, status) for n, status in enumerate(statuses)
    ]


async def test_who_gives_up_while_waiting_is_left_out(
    database: Database, operator: Operator, batcher: Batcher
) -> None:
    async with mutex_held(database, operator.tenant, "j"):
        first = asyncio.ensure_future(batcher.report(operator.tenant, report("d000")))
        await database.until_blocked(1)
        given_up = asyncio.ensure_future(batcher.report(operator.tenant, report("d001")))
        last = asyncio.ensure_future(batcher.report(operator.tenant, report("d002")))
        await asyncio.sleep(0)  # both are in the queue
        given_up.cancel()
    await first
    await last

    assert (await operator.get("j")).execution_counts.succeeded == 2


async def test_a_report_that_breaks_a_batch_does_not_break_the_others(
    database: Database, operator: Operator, batcher: Batcher
) -> None:
    """A status that is none can't come through the service: a defect, say."""
    async with mutex_held(database, operator.tenant, "j"):
        first, broken, last = (
            asyncio.ensure_future(batcher.report(operator.tenant, report(device, status)))
            for device, status in (("d000", "SUCCEEDED"), ("d001", "NONE"), ("d002", "FAILED"))
        )
        await database.until_blocked(1)

    assert (await first)["outcome"] == (await last)["outcome"] == "APPLIED"
    with pytest.raises(Exception, match="NONE"):
        await broken


async def test_tenants_do_not_wait_for_each_other(
    database: Database, operator: Operator, batcher: Batcher
) -> None:
    other = f"{operator.tenant}-other"
    async with mutex_held(database, operator.tenant, "j"):
        waiting = asyncio.ensure_future(batcher.report(operator.tenant, report("d000")))
        await database.until_blocked(1)

        row = await batcher.report(other, report("d000"))

        assert row["outcome"] == "EXECUTION_NOT_FOUND"
        assert not waiting.done()
    await waiting
