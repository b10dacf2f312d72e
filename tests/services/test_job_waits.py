"""Job.waits_for and Job.possible_actions: what a job waits for, and what can be done."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.support.staged_jobs import StagedJob
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("ten_devices")

REST: dict[str, Any] = {"remainder": True}


def actions(job: pb.Job) -> str:
    return " ".join(map(pb.Job.Action.Name, job.possible_actions)).lower()


def waits(job: pb.Job) -> list[tuple[str, str]]:
    return [(pb.JobWait.Kind.Name(wait.kind), wait.message) for wait in job.waits_for]


async def gated(world: World, **gate: Any) -> StagedJob:
    """A job whose canary of four devices has this gate."""
    canary = {"device_count": 4, "display_name": "canary", "gate": pb.Gate(**gate)}
    return await world.create_staged(canary, REST)


async def test_waits_for_is_empty_when_job_has_no_rollout(world: World) -> None:
    await world.create()
    job = await world.operator.get("j")

    assert (waits(job), actions(job)) == ([], "pause cancel update")
    (listed,) = (await world.operator.list()).jobs
    assert not listed.possible_actions
    await world.device("d00001").update("j", "FAILED")
    assert actions(await world.operator.get("j")) == "pause cancel retry update"


async def test_paused_job_waits_for_a_resume_and_then_for_its_gate(world: World) -> None:
    job = await gated(world)
    paused = await job.operator.pause("j", reason="leaks")

    assert waits(paused) == [
        ("RESUME", "olivia paused the job: leaks"),
        ("DEVICES", "In stage 0 (canary), 4 of 4 executions are not finished."),
    ]
    assert actions(paused) == "resume advance cancel update"
    await job.finish(0)
    assert waits(await job.get()) == [("RESUME", "olivia paused the job: leaks")]


async def test_job_waits_for_its_start_also_if_that_passes_during_a_pause(world: World) -> None:
    start = await world.time_in(3600)
    job = await world.create_staged({"device_count": 4}, REST, start_at=start)
    not_started = ("START", "The job has not started yet.")

    scheduled = await job.get()
    assert waits(scheduled)[0] == not_started
    assert scheduled.waits_for[0].until == start
    assert actions(scheduled) == "pause cancel update"
    await job.operator.pause("j")
    await world.pass_time(4000)
    paused = await job.get()
    assert waits(paused)[1] == not_started
    assert actions(paused) == "resume advance cancel update"
    assert waits(await job.operator.resume("j"))[0][0] == "DEVICES"


async def test_job_waits_for_a_start_window_in_get_job_only(world: World) -> None:
    later = datetime.now(UTC) + timedelta(hours=3)
    window = pb.StartWindow(start_time=f"{later:%H:%M}", duration=Duration(seconds=3600))
    await world.create_staged({"device_count": 4}, REST, start_windows=[window])

    job = await world.operator.get("j")

    assert waits(job)[0] == ("START_WINDOW", "No start window is open.")
    assert job.waits_for[0].until == job.next_openings[0]
    assert waits(await world.operator.pause("j"))[1][0] == "DEVICES"
    kinds = [kind for kind, _ in waits(await world.operator.get("j"))]
    assert kinds == ["RESUME", "START_WINDOW", "DEVICES"]


async def test_gate_waits_for_devices_then_for_time_then_for_an_approval(world: World) -> None:
    job = await gated(world, min_succeeded_percent=70, require_approval=True)
    await job.set_gate(0, bake_seconds=600, advance_after_seconds=7200)
    await job.device(0).update("j", "SUCCEEDED")
    approval = ("APPROVAL", "Stage 0 (canary) needs an approval from a user other than olivia.")

    read = await job.get()
    assert waits(read) == [
        ("DEVICES", "The gate of stage 0 (canary): 25 % succeeded, 70 % required."),
        (
            "ADVANCE_AFTER",
            "Stage 0 (canary) waits at most 2 h from its opening for its devices.",
        ),
        approval,
    ]
    devices, latest, _ = read.waits_for
    assert (devices.stage, devices.met_count, devices.required_count) == (0, 1, 3)
    assert latest.until.seconds - read.stages[0].opened_at.seconds == 7200
    assert actions(read) == "pause approve_stage reject_stage cancel update"

    await job.finish(0)
    baking = await job.get()
    assert waits(baking) == [
        ("BAKE_TIME", "The bake_time of stage 0 (canary) has not passed."),
        approval,
    ]
    assert baking.waits_for[0].HasField("until")
    assert not (await job.operator.pause("j")).waits_for[1].HasField("until")
    await job.operator.resume("j")
    await job.pass_time(600)
    assert waits(await job.get()) == [approval]


async def test_approval_message_names_no_creator_when_self_approval_is_allowed(
    world: World,
) -> None:
    job = await gated(world, require_approval=True, allow_self_approval=True)
    await job.finish(0)

    assert waits(await job.get()) == [("APPROVAL", "Stage 0 (canary) needs an approval.")]
    approved = await job.operator.approve("j", 0)
    assert (waits(approved), actions(approved)) == ([], "pause cancel update")


@pytest.mark.parametrize("advance_after", [None, 600])
async def test_failed_gate_allows_resume_only_with_advance_after(
    world: World, advance_after: int | None
) -> None:
    job = await gated(world, min_succeeded_percent=100)
    await job.set_gate(0, advance_after_seconds=advance_after)
    await job.finish(0, "FAILED")

    failed = await job.get()

    gate = "stage 0 is finished: 0 % succeeded, 100 % required"
    assert waits(failed)[0] == ("RESUME", f"A gate that is not met paused the job: {gate}")
    resume = "resume " if advance_after else ""
    assert actions(failed) == f"{resume}advance cancel retry update"
    await job.operator.retry("j", "FAILED")
    assert actions(await job.get()) == "resume advance cancel update"


async def test_expired_job_waits_for_nothing_while_a_device_runs(world: World) -> None:
    job = await gated(world, min_succeeded_percent=100)
    await job.device(0).start("j")
    await job.operator.pause("j")
    await world.expire()

    expired = await job.get()

    assert [kind for kind, _ in waits(expired)] == ["RESUME"]
    assert actions(expired) == "resume advance cancel retry update"
    assert (await job.operator.resume("j")).status == pb.Job.IN_PROGRESS


async def test_canceled_job_can_be_deleted_and_expired_job_retried_when_no_device_runs(
    world: World,
) -> None:
    job = await gated(world)
    await job.device(0).start("j")
    await job.operator.cancel("j")

    canceled = await job.get()
    assert (waits(canceled), actions(canceled)) == ([], "")
    await job.device(0).update("j", "FAILED")
    assert actions(await job.get()) == "delete"
    await world.create("k")
    await world.expire("k")
    assert actions(await world.operator.get("k")) == "retry delete"


async def test_watch_and_update_return_the_same_waits_as_get(world: World) -> None:
    job = await gated(world, min_succeeded_percent=100)

    watch = job.operator.watch("j")
    watched = await anext(watch)
    await watch.aclose()
    updated = await job.operator.update("j", "description", description="x")

    read = await job.get()
    assert waits(watched) == waits(updated) == waits(read) != []
    assert actions(watched) == actions(updated) == actions(read)
