"""executions.finished: which executions it has, and which jobs and calls add it."""

import asyncio
import json
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import DeleteDevicesRequest

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Device, Operator
from tests.support.database import send_batch
from tests.support.events import ATTEMPT_DEFAULTS, Event, EventLog, stored_events
from tests.support.failures import expect_error
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("pump")

FINISHED = "executions.finished"
STAGES: list[dict[str, Any]] = [{"device_count": 1}, {"remainder": True}]


async def create(operator: Operator, log: EventLog, **fields: Any) -> None:
    """Create the job "j" with execution events, for all devices."""
    target = {} if "target_device_id" in fields else {"target_all": True}
    await operator.create(job_id="j", execution_events=True, **(target | fields))
    await log.new()


def execution(device: str, status: str, **fields: Any) -> dict[str, Any]:
    found = {"device_id": device, "status": status, "execution_number": 1}
    return found | ATTEMPT_DEFAULTS | fields


def executions(event: Event) -> list[dict[str, Any]]:
    """The attempts of an event, which has no other fields. Check that no default is stored."""
    assert event.type == FINISHED
    assert event.details.keys() == {"attempts"}
    attempts = event.details["attempts"]
    assert all(ATTEMPT_DEFAULTS.items().isdisjoint(found.items()) for found in attempts)
    return [ATTEMPT_DEFAULTS | found for found in attempts]


async def report(world: World, updates: dict[str, str], **jobs: str) -> None:
    """Report statuses by device as one batch, for the job "j" or that of a device."""
    batch = [ExecutionUpdate(jobs.get(d, "j"), d, status) for d, status in updates.items()]
    rows = await send_batch(world.database, world.tenant, *batch)
    assert {row["outcome"] for row in rows} == {"APPLIED"}


async def test_job_has_the_choice(operator: Operator, pump: Device) -> None:
    await operator.create(job_id="with", target_all=True, execution_events=True)
    await operator.create(job_id="without", target_all=True, execution_events=False)
    await operator.create(job_id="without", target_all=True)
    await expect_error("JOB_ALREADY_EXISTS", operator.create(job_id="with", target_all=True))

    read = [await operator.get(job_id) for job_id in ("with", "without")]
    for job in (*(await operator.list()).jobs, *read):
        assert job.execution_events == (job.job_id == "with")


async def test_first_report_adds_an_event_before_the_completion(
    operator: Operator, pump: Device, log: EventLog
) -> None:
    await create(operator, log, target_device_id="pump")

    await pump.start("j")
    assert await log.new() == []
    for _ in range(2):
        await pump.update("j", "REJECTED", failure_code="E1")
    await expect_error("EXECUTION_FINISHED", pump.update("j", "FAILED"))

    finished, completed = await log.new()
    assert executions(finished) == [execution("pump", "REJECTED", failure_code="E1")]
    assert (finished.user, finished.status) == (None, "IN_PROGRESS")
    assert finished.counts == completed.counts == {"rejected": 1}
    assert completed.type == "job.completed"


async def test_batch_adds_one_event_for_each_job_that_wants_it(world: World, log: EventLog) -> None:
    await world.add_devices(["third", "fourth"])
    await create(world.operator, log)
    await world.create("other", execution_events=True)
    await world.create("silent")
    other, silent = (
        EventLog(world.database, world.operator, job_id) for job_id in ("other", "silent")
    )
    assert await other.types() == await silent.types() == ["job.created"]

    statuses = {"valve": "SUCCEEDED", "pump": "FAILED", "third": "REJECTED", "fourth": "FAILED"}
    await report(world, statuses, third="other", fourth="silent")

    expected = [execution("valve", "SUCCEEDED"), execution("pump", "FAILED")]
    assert executions(await log.one()) == expected
    assert executions(await other.one()) == [execution("third", "REJECTED")]
    assert await silent.new() == []


async def test_event_has_at_most_100_executions(world: World, log: EventLog) -> None:
    await world.add_devices(248)
    await create(world.operator, log)
    devices = [f"d{n:05}" for n in range(1, 249)]

    await report(world, dict.fromkeys(devices, "SUCCEEDED"))

    events = await log.new()
    assert [len(executions(event)) for event in events] == [100, 100, 48]
    assert [e["device_id"] for event in events for e in executions(event)] == devices
    assert all(event.counts == {"queued": 2, "succeeded": 248} for event in events)


async def test_event_has_at_most_16_kib_of_executions(world: World, log: EventLog) -> None:
    devices = [f"{n:02}" + "é" * 254 for n in range(60)]
    await world.add_devices(devices)
    await create(world.operator, log)

    await report(world, dict.fromkeys(devices, "SUCCEEDED"))

    events = await log.new()
    assert sorted(e["device_id"] for event in events for e in executions(event)) == devices
    sizes = [len(json.dumps(event.details, ensure_ascii=False).encode()) for event in events]
    assert len(sizes) > 1
    assert max(sizes) <= 16 * 1024


async def test_deleted_devices_finish_as_rejected_in_one_event(world: World, log: EventLog) -> None:
    await create(world.operator, log)
    await world.create("silent")
    silent = EventLog(world.database, world.operator, "silent")
    await silent.new()

    await world.fleet.stub.DeleteDevices(
        DeleteDevicesRequest(device_ids=["pump", "valve"]), metadata=world.operator.metadata
    )

    finished, completed = await log.new()
    assert sorted(executions(finished), key=lambda e: e["device_id"]) == [
        execution("pump", "REJECTED"),
        execution("valve", "REJECTED"),
    ]
    assert finished.user == completed.user == "olivia"
    assert await silent.types() == ["job.completed"]


async def test_expiry_adds_no_finished_executions(world: World, log: EventLog) -> None:
    await create(world.operator, log)
    await world.pump.start("j")
    await world.expire()

    await world.pump.update("j", "SUCCEEDED")

    expired, finished, completed = events = await log.new()
    assert expired.status == "IN_PROGRESS"
    assert [(event.type, event.counts) for event in events] == [
        ("job.expired", {"in_progress": 1, "timed_out": 1}),
        (FINISHED, {"succeeded": 1, "timed_out": 1}),
        ("job.completed", {"succeeded": 1, "timed_out": 1}),
    ]
    assert executions(finished) == [execution("pump", "SUCCEEDED")]
    assert expired.time < finished.time == completed.time


async def test_starts_of_the_same_batch_follow_the_reports(world: World, log: EventLog) -> None:
    """The event has the counts between the two."""
    staged = await world.create_staged(*STAGES, execution_events=True)
    first, second = (staged.device(n).name for n in (0, 1))

    await report(world, {first: "SUCCEEDED", second: "IN_PROGRESS"})

    _, *events = await stored_events(world.database, world.tenant)
    assert [(event.type, event.counts) for event in events] == [
        (FINISHED, {"held": 1, "succeeded": 1}),
        ("job.stage_opened", {"queued": 1, "succeeded": 1}),
    ]
    counts = pb.ExecutionCounts(in_progress=1, succeeded=1)
    assert (await world.operator.get("j")).execution_counts == counts


async def test_concurrent_batches_of_a_job_add_events_of_their_own(
    world: World, log: EventLog
) -> None:
    await world.add_devices(20)
    await create(world.operator, log)
    devices = [f"d{n:05}" for n in range(1, 21)]

    await asyncio.gather(*(report(world, {device: "SUCCEEDED"}) for device in devices))

    events = await log.new()
    assert sorted(executions(event)[0]["device_id"] for event in events) == devices
    assert [event.counts["succeeded"] for event in events] == list(range(1, 21))
