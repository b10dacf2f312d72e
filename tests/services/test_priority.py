"""The priority of jobs in the queues of devices."""

from contextlib import aclosing
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, Operator, all_pending
from tests.support.world import World

# In the order of creation, with the priority of each.
JOBS = {"n1": "NORMAL", "l1": "LOW", "h1": "HIGH", "n2": "", "h2": "HIGH", "l2": "LOW"}
QUEUE = ["h1", "h2", "n1", "n2", "l1", "l2"]

TARGETS: dict[str, dict[str, Any]] = {
    "device": {"target_device_id": "pump"},
    "group": {"target_group_id": "pumps"},
    "all": {"target_all": True},
    "selector": {"target_selector": "device_id=pump"},
    "list": {"target_device_ids": pb.DeviceIds(device_ids=["pump"])},
    "failed_in": {"target_failed_in": pb.FailedIn(job_id="n1")},
    "rollout": {"target_all": True, "rollout": pb.Rollout(stages=[pb.Stage(remainder=True)])},
}


def _number(priority: str) -> pb.Job.Priority.ValueType:
    return pb.Job.Priority.Value(priority or "PRIORITY_UNSPECIFIED")


async def _create(world: World, job_id: str, priority: str, **fields: Any) -> None:
    await world.create(job_id, priority=_number(priority), **fields)


@pytest.fixture
async def pump(world: World) -> Device:
    await world.add_devices(["pump"], "pumps")
    for job_id, priority in JOBS.items():
        await _create(world, job_id, priority)
    return world.device("pump")


async def test_queue_is_sorted_by_priority_and_then_by_age(world: World, pump: Device) -> None:
    for limit in (1, 2, 3, 4, 5, 6):
        assert await all_pending(pump, limit=limit) == QUEUE

    queue = (await world.fleet.get("pump")).executions
    assert [execution.job_id for execution in queue] == QUEUE

    async with aclosing(pump.watch(limit=4)) as watched:
        first = await anext(watched)
    assert [execution.job_id for execution in first.executions] == QUEUE[:4]


async def test_execution_in_progress_stays_first(world: World, pump: Device) -> None:
    await pump.start("l2")

    await _create(world, "h3", "HIGH")

    assert await all_pending(pump) == ["l2", "h1", "h2", "h3", "n1", "n2", "l1"]
    assert await pump.start_next_job() == "l2"


@pytest.mark.parametrize("fields", TARGETS.values(), ids=TARGETS)
async def test_queue_follows_priority_for_every_kind_of_target(
    world: World, pump: Device, fields: dict[str, Any]
) -> None:
    await pump.update("n1", "FAILED")

    await _create(world, "high", "HIGH", **fields)
    await _create(world, "low", "LOW", **fields)

    assert await all_pending(pump) == ["h1", "h2", "high", "n2", "l1", "l2", "low"]


async def test_job_has_its_priority_or_the_default(pump: Device, operator: Operator) -> None:
    expected = {job_id: _number(priority or "NORMAL") for job_id, priority in JOBS.items()}

    listed = (await operator.list()).jobs

    assert {job.job_id: job.priority for job in listed} == expected
    assert {job_id: (await operator.get(job_id)).priority for job_id in JOBS} == expected


async def test_later_pages_are_complete_after_changes(world: World, pump: Device) -> None:
    page = await pump.pending(limit=3)  # up to n1
    await pump.update("n1", "FAILED")
    await world.operator.retry("n1", "FAILED")
    for priority in ("HIGH", "NORMAL", "LOW"):
        await _create(world, f"new-{priority}", priority)
    await world.operator.cancel("l1")

    rest = await all_pending(pump, limit=2, page_token=page.next_page_token)

    # The new job with the priority HIGH is before the first page's last execution.
    assert rest == ["n2", "n1", "new-NORMAL", "l2", "new-LOW"]
