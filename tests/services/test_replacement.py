"""CreateJob with replaces_job_id: cancels the other job in the same transaction."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, Operator
from tests.support.events import EventLog, stored_events
from tests.support.failures import expect_error, invalid_fields
from tests.support.staged_jobs import rollout
from tests.support.world import World

REPLACES: dict[str, Any] = {"job_id": "n", "target_all": True, "replaces_job_id": "j"}


@pytest.fixture
async def old(world: World, pump: Device, log: EventLog) -> Operator:
    """The operator, who has created "j" for two devices; one of them is IN_PROGRESS."""
    await world.create()
    await pump.start("j")
    await log.skip()
    return world.operator


async def links(operator: Operator, job_id: str) -> tuple[str, str]:
    """Which job a job has replaced, and which one has replaced it."""
    job = await operator.get(job_id)
    return job.replaces_job_id, job.replaced_by_job_id


async def test_replaced_job_is_canceled_when_the_new_one_is_created(
    world: World, old: Operator, log: EventLog
) -> None:
    await old.create(**REPLACES)

    job = await old.get("j")
    assert (job.status, job.cancel_reason) == (pb.Job.CANCELED, "replaced by n")
    assert {e.device_id: (e.status, dict(e.status_details)) for e in job.executions} == {
        "pump": (pb.JobExecution.IN_PROGRESS, {}),
        "valve": (pb.JobExecution.REJECTED, {"reason": "replaced by n"}),
    }
    assert await old.counts("n") == {"queued": 2}
    assert (await links(old, "n"), await links(old, "j")) == (("j", ""), ("", "n"))
    assert (await old.list()).jobs[0].replaces_job_id == "j"
    canceled, (created,) = await log.one(), await stored_events(world.database, old.tenant, "n")
    details = {"cause": "REPLACED", "reason": "replaced by n", "replaced_by_job_id": "n"}
    assert (canceled.type, canceled.user, canceled.details) == ("job.canceled", old.user, details)
    assert (created.type, created.details) == ("job.created", {"replaces_job_id": "j"})
    listed = (await world.events.list()).events
    assert {event.replaces_job_id or event.replaced_by_job_id for event in listed[-2:]} == {
        "j",
        "n",
    }


async def test_repeated_request_changes_nothing(old: Operator, log: EventLog) -> None:
    first = await old.create(**REPLACES)
    await log.skip()

    assert await old.create(**REPLACES) == first
    await expect_error("JOB_ALREADY_EXISTS", old.create(**REPLACES | {"replaces_job_id": "other"}))

    assert await log.new() == []


async def test_finished_job_is_only_linked(world: World, old: Operator, log: EventLog) -> None:
    for device in ("pump", "valve"):
        await world.device(device).update("j", "FAILED")
    await log.skip()
    before = await old.get("j")

    await old.create(**REPLACES)
    await old.create(**REPLACES | {"job_id": "n2"})

    # The last one counts.
    job = await old.get("j")
    assert job.replaced_by_job_id == "n2"
    assert job.etag != before.etag
    job.replaced_by_job_id, job.etag = "", before.etag
    assert job == before
    assert await log.new() == []
    await expect_error("JOB_CHANGED", old.retry("j", "FAILED", etag=before.etag))
    await old.retry("j", "FAILED")


async def test_expired_job_is_canceled_while_a_device_is_in_progress(
    world: World, old: Operator
) -> None:
    await world.expire()

    await old.create(**REPLACES)

    assert await old.status("j") == "CANCELED"
    assert await old.counts("j") == {"in_progress": 1, "timed_out": 1}


async def test_create_is_rejected_when_there_is_no_job_to_replace(old: Operator) -> None:
    for validate_only in (True, False):
        create = old.create(**REPLACES | {"replaces_job_id": "x"}, validate_only=validate_only)
        assert (await expect_error("JOB_NOT_FOUND", create)).metadata == {"jobId": "x"}
    await expect_error("JOB_NOT_FOUND", old.get("n"))

    assert await invalid_fields(old.create(**REPLACES | {"job_id": "j"})) == ["replaces_job_id"]


async def test_new_job_must_start_at_once(world: World, old: Operator) -> None:
    later = old.create(**REPLACES, start_at=await world.time_in(60))
    assert await invalid_fields(later) == ["start_at"]
    assert await old.status("j") == "IN_PROGRESS"

    await old.create(**REPLACES, start_at=await world.time_in(-60))


async def test_rejected_create_cancels_nothing(world: World, old: Operator) -> None:
    digest = {"expected_target_digest": f"2-{'0' * 16}-{'0' * 16}"}
    await expect_error("TARGET_CHANGED", old.create(**REPLACES, **digest))

    assert await links(old, "j") == ("", "")
    assert await old.status("j") == "IN_PROGRESS"


@pytest.mark.parametrize(
    "stages",
    [
        rollout({"percent": 20}, {"remainder": True}),
        rollout({"device_count": 3}, {"selector": "ring=a"}, {"percent": 10}, {"remainder": True}),
        rollout({"group_id": "north"}, {"percent": 100}, seed="s"),
        None,
    ],
)
async def test_preview_counts_the_devices_that_wait_as_the_new_job_places_them(
    world: World, stages: pb.Rollout | None
) -> None:
    operator, names = world.operator, [f"d{n:02}" for n in range(40)]
    await world.add_devices(names[:20], group="north")
    await world.add_devices(names[20:], group="south")
    await world.database.add_labels(world.tenant, {name: {"ring": "a"} for name in names[15:25]})
    await world.create(target_all=True, rollout=rollout({"percent": 50}, {"remainder": True}))
    started = [e.device_id for e in (await operator.get("j")).executions if e.stage == 0][:5]
    for device in started:
        await world.device(device).start("j")
    new = {**REPLACES, "target_selector": "device_id notin (d00,d39)", "rollout": stages}
    del new["target_all"]

    checked = await operator.create(**new, validate_only=True)
    assert await operator.status("j") == "IN_PROGRESS"
    await operator.create(**new)

    waiting = {*names} - {*started}
    stage_of = {e.device_id: e.stage for e in (await operator.get("n")).executions}
    in_stages = [stage_of[device] for device in waiting & stage_of.keys()]
    assert checked.preview.replaced_devices == pb.ReplacedDevices(
        device_count=35,
        stage_counts=[in_stages.count(n) for n in range(len(stages.stages))] if stages else [],
        untargeted_count=len(waiting - stage_of.keys()),
    )
    # The job is finished now.
    again = await operator.create(**new | {"job_id": "n2"}, validate_only=True)
    assert not again.preview.HasField("replaced_devices")
