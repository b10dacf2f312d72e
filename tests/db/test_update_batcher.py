"""What waits together goes to the database together, and waits for no more than it must."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from jobs_grpc.config import Config
from jobs_grpc.db import database as service_database
from jobs_grpc.db.store import ExecutionUpdate, Store
from jobs_grpc.db.update_batcher import UpdateBatcher
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held, request_session

DEVICES = [f"d{n:03}" for n in range(100)]


@pytest.fixture
async def batcher(database: Database, operator: Operator) -> AsyncIterator[UpdateBatcher]:
    """A batcher on the test's database, with a job "j" for a hundred devices."""
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(job_id="j", target_all=True)
    connected = service_database.Database(
        Config.from_env({"JOBS_DATABASE_URL": database.request_dsn})
    )
    await connected.check()
    running = UpdateBatcher(Store(connected))
    yield running
    await running.close()
    await connected.close()


def report(device: str, status: str = "SUCCEEDED", job_id: str = "j") -> ExecutionUpdate:
    """A report without expectations."""
    return ExecutionUpdate(job_id, device, status)


def start_next(device: str) -> ExecutionUpdate:
    """A start of whatever is next."""
    return ExecutionUpdate(None, device, None, must_be_next=True)


async def test_what_gathers_behind_a_batch_is_the_next_one(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        first = asyncio.create_task(batcher.update(operator.tenant, report(DEVICES[0])))
        await database.wait_for_blocked_sessions(1)
        others = [
            asyncio.create_task(batcher.update(operator.tenant, report(device)))
            for device in DEVICES[1:]
        ]
    rows = await asyncio.gather(first, *others)

    assert [row["device_id"] for row in rows] == DEVICES
    # A batch has one time.
    assert len({row["last_updated_at"] for row in rows}) == 2


async def test_starts_share_a_batch(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        first = asyncio.create_task(batcher.update(operator.tenant, start_next(DEVICES[0])))
        await database.wait_for_blocked_sessions(1)
        others = [
            asyncio.create_task(batcher.update(operator.tenant, start_next(device)))
            for device in DEVICES[1:]
        ]
    rows = await asyncio.gather(first, *others)

    assert [row["device_id"] for row in rows] == DEVICES
    assert {row["status"] for row in rows} == {"IN_PROGRESS"}
    assert len({row["started_at"] for row in rows}) <= 3
    assert (await operator.get("j")).execution_counts.in_progress == 100


async def test_an_execution_is_once_in_a_batch_and_in_order(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    statuses = ["IN_PROGRESS", "IN_PROGRESS", "IN_PROGRESS", "SUCCEEDED"]
    async with job_lock_held(database, operator.tenant, "j"):
        reports = [
            asyncio.create_task(batcher.update(operator.tenant, report("d000", status)))
            for status in statuses
        ]
        await database.wait_for_blocked_sessions(1)
    rows = await asyncio.gather(*reports)

    assert [(row["version"], row["status"]) for row in rows] == [
        (2 + n, status) for n, status in enumerate(statuses)
    ]


async def test_who_gives_up_while_waiting_is_left_out(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    async with job_lock_held(database, operator.tenant, "j"):
        first = asyncio.create_task(batcher.update(operator.tenant, report("d000")))
        await database.wait_for_blocked_sessions(1)
        given_up = asyncio.create_task(batcher.update(operator.tenant, report("d001")))
        last = asyncio.create_task(batcher.update(operator.tenant, report("d002")))
        await asyncio.sleep(0)  # both are in the queue
        given_up.cancel()
    await first
    await last

    assert (await operator.get("j")).execution_counts.succeeded == 2


async def test_a_report_that_breaks_a_batch_does_not_break_the_others(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    """A status that is none can't come through the service: a defect, say."""
    async with job_lock_held(database, operator.tenant, "j"):
        first, broken, last = (
            asyncio.create_task(batcher.update(operator.tenant, report(device, status)))
            for device, status in (("d000", "SUCCEEDED"), ("d001", "NONE"), ("d002", "FAILED"))
        )
        await database.wait_for_blocked_sessions(1)

    assert (await first)["outcome"] == (await last)["outcome"] == "APPLIED"
    with pytest.raises(Exception, match="NONE"):
        await broken


async def test_tenants_do_not_wait_for_each_other(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    other = f"{operator.tenant}-other"
    async with job_lock_held(database, operator.tenant, "j"):
        waiting = asyncio.create_task(batcher.update(operator.tenant, report("d000")))
        await database.wait_for_blocked_sessions(1)

        row = await batcher.update(other, report("d000"))

        assert row["outcome"] == "EXECUTION_NOT_FOUND"
        assert not waiting.done()
    await waiting


async def test_a_job_that_somebody_else_has_keeps_back_its_own_devices_only(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    """A retry of many executions holds it, say."""
    await operator.create(job_id="k", target_all=True)
    await batcher.update(operator.tenant, report("d000", "FAILED"))
    async with request_session(database) as (retrying, store):
        async with retrying.transaction():
            await store.retry_executions(
                operator.tenant,
                job_id="j",
                statuses=["FAILED"],
                expires_in_hours=None,
                never_expires=False,
                max_active_jobs=None,
            )
            kept = [
                asyncio.create_task(batcher.update(operator.tenant, update))
                for update in (report("d001"), report("d001"), start_next("d002"))
            ]
            await database.wait_for_blocked_sessions(1)

            others = await asyncio.gather(
                *(
                    batcher.update(operator.tenant, report(device, job_id="k"))
                    for device in DEVICES[:50]
                )
            )

            assert {row["outcome"] for row in others} == {"APPLIED"}
            assert not any(task.done() for task in kept)
        applied, repeated, started = await asyncio.gather(*kept)

    assert (applied["outcome"], repeated["outcome"]) == ("APPLIED", "REPEATED")
    assert (started["job_id"], started["status"]) == ("j", "IN_PROGRESS")
    job = await operator.get("j")
    assert (job.execution_counts.succeeded, job.execution_counts.in_progress) == (1, 1)
    assert job.execution_counts.failed == 0


async def test_jobs_that_others_have_take_turns_on_one_connection(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    """So however many they are, they leave connections to the rest."""
    held = [f"held-{n}" for n in range(12)]
    for job_id in ("k", *held):
        await operator.create(job_id=job_id, target_all=True)
    async with AsyncExitStack() as mutexes:
        for job_id in held:
            await mutexes.enter_async_context(job_lock_held(database, operator.tenant, job_id))
        async with job_lock_held(database, operator.tenant, "k"):
            kept = [
                asyncio.create_task(batcher.update(operator.tenant, report("d000", job_id=job_id)))
                for job_id in held
            ]
            moving = asyncio.create_task(
                batcher.update(operator.tenant, report("d001", job_id="k"))
            )
            await database.wait_for_blocked_sessions(1)

        assert (await moving)["outcome"] == "APPLIED"
        assert not any(task.done() for task in kept)
    assert {(await task)["outcome"] for task in kept} == {"APPLIED"}


async def test_a_start_does_not_overtake_an_earlier_report(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    """Both wait for the job by the time it is free."""
    async with job_lock_held(database, operator.tenant, "j"):
        first = asyncio.create_task(batcher.update(operator.tenant, report("d000")))
        await database.wait_for_blocked_sessions(1)
        done = asyncio.create_task(batcher.update(operator.tenant, report("d001")))
        await asyncio.sleep(0)  # It is called by now.
        starting = asyncio.create_task(batcher.update(operator.tenant, start_next("d001")))
        others = [
            asyncio.create_task(batcher.update(operator.tenant, start_next(device)))
            for device in DEVICES[2:]
        ]
        await asyncio.sleep(0)
        # This comes after the batch in which the starts have found the job held.
        await batcher.update(operator.tenant, report("d001", job_id="none"))
    await asyncio.gather(first, *others)

    assert ((await done)["outcome"], (await done)["version"]) == ("APPLIED", 2)
    assert (await starting)["outcome"] == "NONE"


async def test_a_start_that_waited_is_not_of_a_second_job(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    """The device has started another job by the time the one that was next is free."""
    await operator.create(job_id="k", target_all=True)
    async with job_lock_held(database, operator.tenant, "j"):
        starting = asyncio.create_task(batcher.update(operator.tenant, start_next("d000")))
        await database.wait_for_blocked_sessions(1)
        await batcher.update(operator.tenant, ExecutionUpdate("k", "d000", None))

    assert ((await starting)["job_id"], (await starting)["outcome"]) == ("k", "REPEATED")
    assert (await operator.get("j")).execution_counts.queued == 100


async def test_order_also_holds_after_a_batch_has_failed(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    """Its updates are sent one by one, while what was called later waits."""
    await operator.create(job_id="k", target_all=True)
    async with job_lock_held(database, operator.tenant, "j"):
        updates = [
            report("d000", "NONE", job_id="k"),
            report("d001", "IN_PROGRESS"),
            report("d002", "IN_PROGRESS"),
            report("d002", "SUCCEEDED"),
            report("d001", "SUCCEEDED"),
        ]
        tasks = [asyncio.create_task(batcher.update(operator.tenant, each)) for each in updates]
        await database.wait_for_blocked_sessions(1)
    broken, *rows = await asyncio.gather(*tasks, return_exceptions=True)

    assert "NONE" in str(broken)
    assert [row["version"] for row in rows if not isinstance(row, BaseException)] == [2, 2, 3, 3]


async def test_what_fails_is_told_and_the_next_one_goes_on(
    database: Database, operator: Operator, batcher: UpdateBatcher
) -> None:
    with pytest.raises(Exception, match="NONE"):
        await batcher.update(operator.tenant, report("d000", "NONE"))

    assert (await batcher.update(operator.tenant, report("d000")))["outcome"] == "APPLIED"
