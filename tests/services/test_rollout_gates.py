"""Gates: what opens the next stage of a rollout, and what pauses the job."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.failures import expect_error
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("ten_devices")

REST: dict[str, Any] = {"remainder": True}
EMPTY: dict[str, Any] = {"group_id": "nobody", "allow_empty": True}


def percent_gate(percent: int, **fields: Any) -> dict[str, Any]:
    """A stage of four devices, of which this percentage must succeed."""
    return {"device_count": 4, "gate": pb.Gate(min_succeeded_percent=percent, **fields)}


async def test_job_is_paused_when_a_stage_finishes_without_meeting_its_gate(world: World) -> None:
    job = await world.create_staged(percent_gate(75), REST)
    etag = (await job.get()).etag
    for number, status in enumerate(["SUCCEEDED", "SUCCEEDED", "FAILED"]):
        await job.device(0, number).update("j", status)
    assert await job.operator.status() == "IN_PROGRESS"

    await job.device(0, 3).update("j", "REJECTED")

    paused = await job.get()
    assert paused.status == pb.Job.PAUSED
    assert paused.etag != etag
    assert not paused.pause.HasField("paused_by")
    assert paused.pause.reason == ("stage 0 is finished: 50 % succeeded, 75 % required")
    row = await job.row()
    assert (row["pause_cause"], row["open_stage"]) == ("GATE_NOT_MET", 0)
    await expect_error("EXECUTION_HELD", job.device(1).start("j"))
    failure = await expect_error("GATE_NOT_MET", job.operator.resume("j"))
    assert failure.metadata == {"jobId": "j", "stage": "0"}
    assert await job.row() == row


async def test_empty_stages_pass_at_once_except_for_an_approval(world: World) -> None:
    gated = EMPTY | {"gate": pb.Gate(min_succeeded_percent=100)}
    approval = EMPTY | {"gate": pb.Gate(require_approval=True)}
    job = await world.create_staged(EMPTY, {"device_count": 4}, EMPTY, gated, approval, REST)
    await job.set_gate(2, bake_seconds=600)
    assert await job.open_stage() == 1

    await job.finish(1, "FAILED")

    assert await job.columns("open_stage", "awaiting_approval") == (4, True)


async def test_bake_time_starts_again_when_a_retry_undoes_the_gate(world: World) -> None:
    job = await world.create_staged({"device_count": 4}, REST)
    await job.set_gate(0, bake_seconds=600)
    await job.finish(0, "FAILED")
    await world.pass_time(500)

    await job.operator.retry("j", "FAILED", device_ids=[job.device(0).name])

    row, stage = await job.row(), await job.stage_row(0)
    assert (row["stage_due_at"], stage["gate_met_since"]) == (None, None)
    await world.pass_time(500)
    await job.device(0).update("j", "SUCCEEDED")
    assert await job.open_stage() == 0
    await job.pass_time(600)
    assert await job.open_stage() == 1


@pytest.mark.parametrize("removed", [False, True])
async def test_finished_stage_with_advance_after_pauses_once(world: World, removed: bool) -> None:
    job = await world.create_staged(percent_gate(100), REST)
    await job.set_gate(0, advance_after_seconds=600)
    await job.finish(0, "FAILED")
    assert await job.columns("pause_cause") == ("GATE_NOT_MET",)

    await job.operator.resume("j")

    # The operator accepted the failures: the job waits for advance_after.
    await job.operator.cancel_execution("j", job.device(1).name)
    assert await job.columns("open_stage", "paused_at") == (0, None)
    if removed:
        await job.set_gate(0, advance_after_seconds=None)
        assert await job.columns("open_stage", "pause_cause") == (0, "GATE_NOT_MET")
    else:
        await job.pass_time(600)
        assert await job.open_stage() == 1


async def test_stage_whose_failures_were_accepted_pauses_again_after_a_retry(world: World) -> None:
    job = await world.create_staged(percent_gate(100), REST)
    await job.set_gate(0, advance_after_seconds=600)
    await job.finish(0, "FAILED")
    await job.operator.resume("j")
    await job.operator.retry("j", "FAILED", device_ids=[job.device(0).name])

    await job.device(0).update("j", "FAILED")

    assert await job.columns("pause_cause") == ("GATE_NOT_MET",)


async def test_expired_job_opens_no_stage(world: World) -> None:
    job = await world.create_staged(percent_gate(25), REST)
    for device in job.devices(0)[:2]:
        await device.start("j")
    await world.expire()

    await job.device(0).update("j", "SUCCEEDED")

    assert await job.open_stage() == 0


async def test_gate_that_fails_after_an_update_awaits_no_approval(world: World) -> None:
    job = await world.create_staged(percent_gate(50, require_approval=True), REST)
    for device, status in zip(job.devices(0), ["SUCCEEDED"] * 2 + ["FAILED"] * 2, strict=True):
        await device.update("j", status)
    assert (await job.row())["awaiting_approval"]

    await job.set_gate(0, min_succeeded_percent=75)

    assert await job.columns("pause_cause", "awaiting_approval") == ("GATE_NOT_MET", False)
