"""CreateJob with replaces_job_id: cancels the replaced job in the same transaction."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Device, Operator
from tests.support.events import EventLog, stored_events
from tests.support.failures import expect_error, invalid_fields
from tests.support.world import World

REPLACES: dict[str, Any] = {"job_id": "n", "target_all": True, "replaces_job_id": "j"}


@pytest.fixture(autouse=True)
async def old_job(world: World, pump: Device, log: EventLog) -> None:
    """Create "j" for two devices; one of them is IN_PROGRESS."""
    await world.create()
    await pump.start("j")
    await log.skip()


async def links(operator: Operator, job_id: str) -> tuple[str, str]:
    job = await operator.get(job_id)
    return job.replaces_job_id, job.replaced_by_job_id


async def test_replaced_job_is_canceled_when_the_new_one_is_created(
    world: World, operator: Operator, log: EventLog
) -> None:
    await operator.create(**REPLACES)

    job = await operator.get("j")
    assert (job.status, job.cancel_reason) == (pb.Job.CANCELED, "replaced by n")
    assert {e.device_id: (e.status, dict(e.status_details)) for e in job.executions} == {
        "pump": (pb.JobExecution.IN_PROGRESS, {}),
        "valve": (pb.JobExecution.REJECTED, {"reason": "replaced by n"}),
    }
    assert await operator.counts("n") == {"queued": 2}
    assert (await links(operator, "n"), await links(operator, "j")) == (("j", ""), ("", "n"))
    assert (await operator.list()).jobs[0].replaces_job_id == "j"
    canceled, (created,) = (
        await log.one(),
        await stored_events(world.database, operator.tenant, "n"),
    )
    details = {"cause": "REPLACED", "reason": "replaced by n", "replaced_by_job_id": "n"}
    assert (canceled.type, canceled.user, canceled.details) == (
        "job.canceled",
        operator.user,
        details,
    )
    assert (created.type, created.details) == ("job.created", {"replaces_job_id": "j"})
    listed = (await world.events.list()).events
    assert {event.replaces_job_id or event.replaced_by_job_id for event in listed[-2:]} == {
        "j",
        "n",
    }


async def test_repeated_request_changes_nothing(operator: Operator, log: EventLog) -> None:
    first = await operator.create(**REPLACES)
    await log.skip()

    assert await operator.create(**REPLACES) == first
    await expect_error(
        "JOB_ALREADY_EXISTS", operator.create(**REPLACES | {"replaces_job_id": "other"})
    )

    assert await log.new() == []


async def test_finished_job_is_only_linked(world: World, operator: Operator, log: EventLog) -> None:
    for device in ("pump", "valve"):
        await world.device(device).update("j", "FAILED")
    await log.skip()
    before = await operator.get("j")

    await operator.create(**REPLACES)
    await operator.create(**REPLACES | {"job_id": "n2"})

    # The last one counts.
    job = await operator.get("j")
    assert job.replaced_by_job_id == "n2"
    assert job.etag != before.etag
    job.replaced_by_job_id, job.etag = "", before.etag
    assert job == before
    assert await log.new() == []
    await expect_error("JOB_CHANGED", operator.retry("j", "FAILED", etag=before.etag))
    await operator.retry("j", "FAILED")


async def test_expired_job_is_canceled_while_a_device_is_in_progress(
    world: World, operator: Operator
) -> None:
    await world.expire()

    await operator.create(**REPLACES)

    assert await operator.status("j") == "CANCELED"
    assert await operator.counts("j") == {"in_progress": 1, "timed_out": 1}


async def test_create_is_rejected_when_there_is_no_job_to_replace(operator: Operator) -> None:
    for validate_only in (True, False):
        create = operator.create(**REPLACES | {"replaces_job_id": "x"}, validate_only=validate_only)
        assert (await expect_error("JOB_NOT_FOUND", create)).metadata == {"jobId": "x"}
    await expect_error("JOB_NOT_FOUND", operator.get("n"))

    assert await invalid_fields(operator.create(**REPLACES | {"job_id": "j"})) == [
        "replaces_job_id"
    ]


async def test_new_job_must_start_at_once(world: World, operator: Operator) -> None:
    later = operator.create(**REPLACES, start_at=await world.time_in(60))
    assert await invalid_fields(later) == ["start_at"]
    assert await operator.status("j") == "IN_PROGRESS"

    await operator.create(**REPLACES, start_at=await world.time_in(-60))


async def test_rejected_create_cancels_nothing(world: World, operator: Operator) -> None:
    digest = {"expected_target_digest": f"2-{'0' * 16}-{'0' * 16}"}
    await expect_error("TARGET_CHANGED", operator.create(**REPLACES, **digest))

    assert await links(operator, "j") == ("", "")
    assert await operator.status("j") == "IN_PROGRESS"
