"""Updates that gather form one batch, and wait only for the jobs that they need."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import pytest

from jobs_grpc.config import Config
from jobs_grpc.db import database as service_database
from jobs_grpc.db.store import ExecutionUpdate, Row, Store
from jobs_grpc.db.update_batcher import MAX_REPEATS, UpdateBatcher
from jobs_grpc.errors import Internal, LockTimeout
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held, request_session

DEVICES = [f"d{n:03}" for n in range(100)]

Update: TypeAlias = "asyncio.Task[Row]"


@dataclass(frozen=True)
class World:
    """A batcher on the test's database, in whose tenant the job "j" is for 100 devices."""

    database: Database
    service: service_database.Database
    operator: Operator
    batcher: UpdateBatcher

    def start(self, *updates: ExecutionUpdate) -> list[Update]:
        tenant = self.operator.tenant
        return [asyncio.create_task(self.batcher.update(tenant, update)) for update in updates]

    async def update(self, update: ExecutionUpdate) -> Row:
        return await self.batcher.update(self.operator.tenant, update)

    @asynccontextmanager
    async def busy(self, *updates: ExecutionUpdate) -> AsyncIterator[list[Update]]:
        """Hold the lock of "j" in the block, which begins when the batch of `updates` waits."""
        async with job_lock_held(self.database, self.operator.tenant, "j"):
            started = self.start(*updates)
            await self.database.wait_for_blocked_sessions(1)
            yield started


@pytest.fixture
async def world(database: Database, operator: Operator) -> AsyncIterator[World]:
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(job_id="j", target_all=True)
    service = service_database.Database(
        Config.from_env({"JOBS_DATABASE_URL": database.request_dsn})
    )
    await service.check()
    world = World(database, service, operator, UpdateBatcher(Store(service)))
    yield world
    await world.batcher.close()
    await service.close()


def report(device: str, status: str = "SUCCEEDED", job_id: str = "j") -> ExecutionUpdate:
    """Return a report without an expected attempt or version."""
    return ExecutionUpdate(job_id, device, status)


def start_next(device: str) -> ExecutionUpdate:
    return ExecutionUpdate(None, device, None, must_be_next=True)


def outcomes(rows: Sequence[Row]) -> list[tuple[str, int | None]]:
    """Return what became of each update, and the version of its execution."""
    return [(row["outcome"], row["version"]) for row in rows]


async def test_updates_that_arrive_during_a_batch_form_the_next_one(world: World) -> None:
    async with world.busy(report(DEVICES[0])) as [first]:
        others = world.start(*map(report, DEVICES[1:]))
    rows = await asyncio.gather(first, *others)

    assert [row["device_id"] for row in rows] == DEVICES
    # All updates of a batch have the same time.
    assert len({row["last_updated_at"] for row in rows}) == 2


class _Locked:
    """A store whose table is locked."""

    async def update_executions(
        self, tenant_id: str, updates: Sequence[ExecutionUpdate], *, wait_ms: int
    ) -> None:
        raise LockTimeout from RuntimeError("locked")


async def test_each_call_of_a_failed_batch_has_its_own_error_and_one_has_the_cause() -> None:
    batcher = UpdateBatcher(cast("Store", _Locked()))

    errors = await asyncio.gather(
        *(batcher.update("tenant", report(device)) for device in DEVICES[:3]),
        return_exceptions=True,
    )

    assert [type(error) for error in errors] == [LockTimeout] * 3
    assert len({id(error) for error in errors}) == 3
    assert [str(error.__cause__) for error in errors if error.__cause__] == ["locked"]  # type: ignore[union-attr]
    await batcher.close()


class _AlwaysAgain:
    """A store where another execution becomes the device's next one each time."""

    def __init__(self) -> None:
        self.calls = 0

    async def update_executions(
        self, tenant_id: str, updates: Sequence[ExecutionUpdate], *, wait_ms: int
    ) -> list[dict[str, str | None]]:
        self.calls += 1
        assert [update.job_id for update in updates] == [None]
        return [{"outcome": "AGAIN", "job_id": "j"}]


async def test_start_next_is_not_repeated_forever() -> None:
    store = _AlwaysAgain()
    batcher = UpdateBatcher(cast("Any", store))

    row = await batcher.update("tenant", start_next("d"))

    assert row["outcome"] == "AGAIN"
    assert store.calls == 1 + MAX_REPEATS
    await batcher.close()


async def test_starts_of_next_executions_share_a_batch(world: World) -> None:
    async with world.busy(start_next(DEVICES[0])) as [first]:
        others = world.start(*map(start_next, DEVICES[1:]))
    rows = await asyncio.gather(first, *others)

    assert [row["device_id"] for row in rows] == DEVICES
    assert {row["status"] for row in rows} == {"IN_PROGRESS"}
    assert len({row["started_at"] for row in rows}) <= 3
    assert await world.operator.counts() == {"in_progress": 100}


async def test_reports_of_one_execution_are_applied_in_order_in_separate_batches(
    world: World,
) -> None:
    statuses = ["IN_PROGRESS", "IN_PROGRESS", "IN_PROGRESS", "SUCCEEDED"]
    async with world.busy(*(report("d000", status) for status in statuses)) as reports:
        pass
    rows = await asyncio.gather(*reports)

    assert [(row["version"], row["status"]) for row in rows] == [
        (2 + n, status) for n, status in enumerate(statuses)
    ]


async def test_update_is_not_applied_when_its_call_is_canceled_while_it_waits(world: World) -> None:
    async with world.busy(report("d000")) as [first]:
        canceled, last = world.start(report("d001"), report("d002"))
        await asyncio.sleep(0)  # Both are in the queue now.
        canceled.cancel()
    await asyncio.gather(first, last)

    assert await world.operator.counts() == {"queued": 98, "succeeded": 2}


async def test_other_updates_are_applied_when_one_fails_the_batch(world: World) -> None:
    """The service rejects an unknown status, so this one stands for a bug."""
    updates = [report("d000"), report("d001", "NONE"), report("d002", "FAILED")]
    async with world.busy(*updates) as (first, broken, last):
        pass

    assert outcomes([await first, await last]) == [("APPLIED", 2), ("APPLIED", 2)]
    with pytest.raises(Exception, match="NONE"):
        await broken


async def test_update_does_not_wait_for_a_batch_of_another_tenant(world: World) -> None:
    async with world.busy(report("d000")) as [waiting]:
        row = await world.batcher.update(f"{world.operator.tenant}-other", report("d000"))

        assert row["outcome"] == "EXECUTION_NOT_FOUND"
        assert not waiting.done()
    await waiting


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_busy_job_delays_only_its_own_devices(world: World) -> None:
    """Here a retry holds the job lock."""
    await world.operator.create(job_id="k", target_all=True)
    await world.update(report("d000", "FAILED"))
    async with request_session(world.database) as (retrying, store):
        async with retrying.transaction():
            await store.retry_executions(
                world.operator.tenant,
                job_id="j",
                statuses=["FAILED"],
                expires_in_hours=None,
                never_expires=False,
                max_active_jobs=None,
            )
            delayed = world.start(report("d001"), report("d001"), start_next("d002"))
            await world.database.wait_for_blocked_sessions(1)

            rows = await asyncio.gather(
                *world.start(*(report(device, job_id="k") for device in DEVICES[:50]))
            )

            assert {row["outcome"] for row in rows} == {"APPLIED"}
            assert not any(task.done() for task in delayed)
        applied, repeated, started = await asyncio.gather(*delayed)

    assert (applied["outcome"], repeated["outcome"]) == ("APPLIED", "REPEATED")
    assert (started["job_id"], started["status"]) == ("j", "IN_PROGRESS")
    assert await world.operator.counts() == {"queued": 98, "in_progress": 1, "succeeded": 1}


async def test_busy_jobs_take_turns_on_one_connection(world: World) -> None:
    """Busy jobs leave connections for other calls, however many they are."""
    database, operator = world.database, world.operator
    busy = [f"busy-{n}" for n in range(12)]
    for job_id in ("k", *busy):
        await operator.create(job_id=job_id, target_all=True)
    async with AsyncExitStack() as locks:
        for job_id in busy:
            await locks.enter_async_context(job_lock_held(database, operator.tenant, job_id))
        async with job_lock_held(database, operator.tenant, "k"):
            delayed = world.start(*(report("d000", job_id=job_id) for job_id in busy))
            [free_again] = world.start(report("d001", job_id="k"))
            await database.wait_for_blocked_sessions(1)

        assert (await free_again)["outcome"] == "APPLIED"
        assert not any(task.done() for task in delayed)
    assert {(await task)["outcome"] for task in delayed} == {"APPLIED"}


async def test_start_is_applied_after_an_earlier_report_of_the_device(world: World) -> None:
    """Both wait for the job lock."""
    async with world.busy(report("d000")) as [first]:
        [reporting] = world.start(report("d001"))
        await asyncio.sleep(0)  # The report is in the queue now.
        starting, *others = world.start(*map(start_next, DEVICES[1:]))
        await asyncio.sleep(0)
        # This update is applied after the batch in which the starts were BUSY.
        await world.update(report("d001", job_id="none"))
    await asyncio.gather(first, *others)

    assert outcomes([await reporting]) == [("APPLIED", 2)]
    assert (await starting)["outcome"] == "NONE"


async def test_start_returns_the_other_job_when_the_device_started_it_during_the_wait(
    world: World,
) -> None:
    """The device starts "k" while its start of the next execution waits for "j"."""
    await world.operator.create(job_id="k", target_all=True)
    async with world.busy(start_next("d000")) as [starting]:
        await world.update(ExecutionUpdate("k", "d000", None))

    assert ((await starting)["job_id"], (await starting)["outcome"]) == ("k", "REPEATED")
    assert await world.operator.counts() == {"queued": 100}


async def test_reports_are_applied_in_order_after_a_failed_batch(world: World) -> None:
    """The updates of the batch are sent one by one, before those of later calls."""
    await world.operator.create(job_id="k", target_all=True)
    async with world.busy(
        report("d000", "NONE", job_id="k"),
        report("d001", "IN_PROGRESS"),
        report("d002", "IN_PROGRESS"),
        report("d002", "SUCCEEDED"),
        report("d001", "SUCCEEDED"),
    ) as tasks:
        pass
    error, *rows = await asyncio.gather(*tasks, return_exceptions=True)

    assert "NONE" in str(error)
    assert [row["version"] for row in rows if not isinstance(row, BaseException)] == [2, 2, 3, 3]


class _DefectiveStore(Store):
    """Fails while it waits for a job lock, if the batch has an update of a certain device."""

    async def update_executions(
        self, tenant_id: str, updates: Sequence[ExecutionUpdate], *, wait_ms: int
    ) -> Sequence[Row]:
        if wait_ms and "d001" in {update.device_id for update in updates}:
            raise RuntimeError("defect")
        return await super().update_executions(tenant_id, updates, wait_ms=wait_ms)


async def test_other_updates_of_a_busy_job_are_applied_when_one_fails_the_batch(
    world: World,
) -> None:
    defective_world = replace(world, batcher=UpdateBatcher(_DefectiveStore(world.service)))
    async with defective_world.busy(*map(report, DEVICES[:3])) as (first, defective, last):
        pass
    with pytest.raises(RuntimeError, match="defect"):
        await defective

    assert outcomes(await asyncio.gather(first, last)) == [("APPLIED", 2), ("APPLIED", 2)]
    await defective_world.batcher.close()


async def test_close_fails_updates_that_do_not_finish_in_time(world: World) -> None:
    batcher = UpdateBatcher(Store(world.service), lock_wait_ms=60_000, close_timeout=0.1)
    async with replace(world, batcher=batcher).busy(report("d000"), report("d000")) as waiting:
        await batcher.close()
        errors = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(error) for error in errors] == [Internal, Internal]
    assert await world.operator.counts() == {"queued": 100}


async def test_updates_of_one_call_return_rows_and_errors_in_their_order(world: World) -> None:
    """They are applied in order, also those on one execution. One of them has a bug."""
    broken, *rows = await world.batcher.update_all(
        world.operator.tenant,
        [
            report("d002", "NONE"),
            report("d001", "IN_PROGRESS"),
            report("d000"),
            report("d001", "FAILED"),
            report("missing"),
        ],
    )

    assert isinstance(broken, Exception)
    assert "NONE" in str(broken)
    assert outcomes([row for row in rows if not isinstance(row, Exception)]) == [
        ("APPLIED", 2),
        ("APPLIED", 2),
        ("APPLIED", 3),
        ("EXECUTION_NOT_FOUND", None),
    ]
    assert await world.batcher.update_all(world.operator.tenant, []) == []


async def test_updates_of_one_call_are_not_applied_when_it_is_canceled_while_they_wait(
    world: World,
) -> None:
    async with world.busy(report("d000")) as [first]:
        canceled = asyncio.create_task(
            world.batcher.update_all(world.operator.tenant, [report("d001"), report("d002")])
        )
        [last] = world.start(report("d003"))
        await asyncio.sleep(0)  # All are in the queue now.
        canceled.cancel()
    await asyncio.gather(first, last)

    assert await world.operator.counts() == {"queued": 98, "succeeded": 2}
    with pytest.raises(asyncio.CancelledError):
        await canceled
