"""Devices that join the continuous job "j" while other calls change the job or the devices."""

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

import pytest
from fleet.jobs.v1 import fleet_pb2 as fleet_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import request_session
from tests.support.joins import MAX_TARGETS, join
from tests.support.scale import SCALE, scaled
from tests.support.world import World

RACES = scaled(25, 20)


@pytest.fixture(autouse=True)
async def job(world: World) -> None:
    """Create the job, and then the devices "a" and "b", which match its target."""
    await world.create(target_selector="new=yes", continuous=True)
    await set_label(world, "yes", "a", "b")


async def set_label(world: World, value: str, *devices: str) -> None:
    changes = [fleet_pb.Device(device_id=device, labels={"new": value}) for device in devices]
    await world.fleet.update(*changes, mask=["labels"], allow_missing=True)


async def in_order(world: World, first: Awaitable[Any], second: Awaitable[Any]) -> list[Any]:
    return [await task for task in await world.lock_in_order(first, second)]


async def test_two_joins_add_each_device_once(world: World, operator: Operator) -> None:
    assert await in_order(world, join(world, "a", "b"), join(world)) == [2, 0]

    assert await operator.counts() == {"queued": 2}


async def test_label_that_changes_before_the_lock_prevents_the_join(
    world: World, operator: Operator
) -> None:
    async with world.lock_held():
        joining = await world.blocked(join(world))
        # Not by UpdateDevices, which waits for the join.
        await world.execute(
            "UPDATE jobs.devices SET labels = '{}' WHERE tenant_id = $1 AND device_id = 'a'"
        )

    assert await joining == 1
    assert [e.device_id for e in (await operator.get("j")).executions] == ["b"]


async def test_cancel_and_the_end_of_the_job_prevent_joins(
    world: World, operator: Operator
) -> None:
    assert (await in_order(world, operator.cancel("j"), join(world)))[1] is None
    assert await operator.counts() == {}

    await world.create("k", target_all=True, continuous=True)
    await set_label(world, "yes", "c")
    async with world.lock_held("k"):
        ended = await world.blocked(operator.update("k", "continuous"))
        joining = await world.blocked(join(world, job_id="k"), 2)
    await ended
    assert await joining is None
    assert await operator.counts("k") == {"queued": 2}
    rows = "SELECT count(*) FROM jobs.continuous_jobs WHERE tenant_id = $1"
    assert await world.owner_value(rows) == 0


async def test_join_before_the_cancel_is_canceled(world: World, operator: Operator) -> None:
    joined, _ = await in_order(world, join(world), operator.cancel("j"))

    assert joined == 2
    assert await operator.counts() == {"rejected": 2}


async def test_join_keeps_a_job_open_whose_last_device_finishes(
    world: World, operator: Operator
) -> None:
    await join(world, "a")
    await world.device("a").start("j")

    report = world.device("a").update("j", "SUCCEEDED")
    await in_order(world, report, join(world, "b"))

    assert await operator.counts() == {"queued": 1, "succeeded": 1}
    assert await operator.status() == "IN_PROGRESS"


@pytest.mark.parametrize("pauses_first", [True, False])
async def test_devices_join_a_paused_job(
    world: World, operator: Operator, pauses_first: bool
) -> None:
    calls = [operator.pause("j"), join(world)]
    await in_order(world, *(calls if pauses_first else reversed(calls)))

    assert await operator.status() == "PAUSED"
    assert await operator.counts() == {"queued": 2}


async def test_execution_that_a_join_adds_ends_when_its_device_is_deleted(
    world: World, operator: Operator
) -> None:
    async with world.lock_held():
        joining = await world.blocked(join(world))
        deleting = await world.blocked(world.fleet.delete("a"), 2)

    assert await joining == 2
    await deleting
    assert await operator.counts() == {"queued": 1, "rejected": 1}


async def test_deleted_device_does_not_join(world: World, operator: Operator) -> None:
    await world.create("other")
    async with world.lock_held("other"):
        # It holds its locks on the devices while it waits.
        deleting = await world.blocked(world.fleet.delete("a"))
        joining = await world.blocked(join(world), 2)
    await deleting

    assert await joining == 1
    assert [e.device_id for e in (await operator.get("j")).executions] == ["b"]


@pytest.mark.slow
@pytest.mark.timeout(60 + 30 * SCALE)
async def test_no_execution_of_a_deleted_device_stays_pending(
    world: World, operator: Operator
) -> None:
    await world.create("k", target_all=True, continuous=True, max_joins_per_hour=1_000_000)
    rng, joined = random.Random(1), 0  # noqa: S311 - not for secrets
    join_fields = {"job_id": "k", "after": None, "last": None, "max_targets": MAX_TARGETS}
    async with (
        request_session(world.database) as (_, joining),
        request_session(world.database) as (_, deleting),
    ):
        for n in range(RACES):
            await world.add_devices([f"d{n}"])
            fields: dict[str, Any] = {"device_ids": [f"d{n}"], "wait_ms": 10_000}
            calls = [
                joining.join_devices(world.tenant, **join_fields, **fields),
                deleting.delete_devices(world.tenant, max_executions=10, **fields),
            ]
            rows = await asyncio.gather(*rng.sample(calls, 2))
            joined += sum(row.get("joined_count", 0) for row in rows)

    counts = {"queued": 2, "rejected": joined}
    assert await operator.counts("k") == {name: count for name, count in counts.items() if count}


async def test_brake_counts_joins_of_two_tasks_together(world: World, operator: Operator) -> None:
    await operator.update("j", "max_joins_per_hour", max_joins_per_hour=1)

    assert await in_order(world, join(world, "a"), join(world, "b")) == [1, 0]

    assert (await operator.get("j")).pause.cause == pb.Pause.JOINS
    assert await operator.counts() == {"queued": 1}
