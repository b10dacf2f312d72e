"""ExplainExecution: why a device does not start its execution."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.support.failures import expect_error
from tests.support.staged_jobs import rollout
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("pump")

REMAINDER: dict[str, Any] = {"remainder": True}
ONE_PER_MINUTE: dict[str, Any] = {"rollout": rollout(REMAINDER | {"releases_per_minute": 1})}


def kinds(explanation: pb.ExplainExecutionResponse) -> list[str]:
    return [pb.StartBlocker.Kind.Name(blocker.kind) for blocker in explanation.blockers]


def only(explanation: pb.ExplainExecutionResponse, kind: str) -> pb.StartBlocker:
    """The only blocker, which is of this kind."""
    assert kinds(explanation) == [kind]
    return explanation.blockers[0]


def check_until(explanation: pb.ExplainExecutionResponse, kind: str, until: datetime) -> None:
    """Check that the only blocker is of this kind, and that the device can start at its end."""
    assert only(explanation, kind).until.ToDatetime(UTC) == until
    assert explanation.earliest_start_at.ToDatetime(UTC) == until


async def create_gated(world: World, gate: pb.Gate) -> list[str]:
    """Create a job with one device in each of two stages; return the devices."""
    await world.create(rollout=rollout({"device_count": 1, "gate": gate}, REMAINDER))
    return await world.database.order_of_release(["pump", "valve"], "j")


@pytest.fixture
async def now(world: World) -> datetime:
    """The time of the database, without the seconds."""
    now: datetime = await world.database.owner.fetchval("SELECT jobs.now()")
    return now.replace(second=0, microsecond=0)


async def test_execution_waits_for_the_device_when_it_can_start(
    world: World, now: datetime
) -> None:
    await world.create()

    explanation = await world.operator.explain("j", "pump")

    assert kinds(explanation) == ["WAITING_FOR_DEVICE"]
    assert explanation.execution == (await world.operator.executions("j")).executions[0]
    assert not explanation.HasField("earliest_start_at")
    assert not explanation.HasField("last_seen_at")

    await world.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id, last_seen_at) VALUES ($1, 'pump', $2)", now
    )
    assert (await world.operator.explain("j", "pump")).last_seen_at.ToDatetime(UTC) == now
    await world.pump.start("j")
    assert not (await world.operator.explain("j", "pump")).blockers


async def test_execution_is_finished_when_the_device_has_reported_or_its_job_is_canceled(
    world: World,
) -> None:
    await world.create()
    await world.pump.update("j", "FAILED")
    reported = await world.operator.explain("j", "pump")
    await world.operator.cancel("j")
    canceled = await world.operator.explain("j", "valve")

    assert only(reported, "FINISHED").message == "The device has reported FAILED."
    assert only(canceled, "FINISHED").message == "The job was canceled."


@pytest.mark.parametrize(
    ("reason", "message"),
    [("leaks", "olivia paused the job: leaks"), ("", "olivia paused the job.")],
)
async def test_pause_blocks_with_its_user_and_reason(
    world: World, reason: str, message: str
) -> None:
    await world.create()
    await world.operator.pause("j", reason=reason)

    blocker = only(await world.operator.explain("j", "pump"), "JOB_PAUSED")

    assert blocker.message == message
    assert blocker.pause == (await world.operator.get("j")).pause
    assert not blocker.HasField("until")


async def test_pause_names_the_failure_criterion_that_paused(world: World) -> None:
    await world.create(failure_criteria=[pb.FailureCriterion(count=1)])
    await world.device("valve").update("j", "FAILED")

    blocker = only(await world.operator.explain("j", "pump"), "JOB_PAUSED")

    assert blocker.message.startswith("A failure criterion paused the job: ")
    assert blocker.pause.cause == pb.Pause.FAILURE_CRITERION


@pytest.mark.wrong_counts("stages have more devices than exist")
@pytest.mark.parametrize(
    ("gate", "wait"),
    [
        (pb.Gate(), "In stage 0, 1 of 1 executions are not finished."),
        (pb.Gate(min_succeeded_percent=50), "The gate of stage 0: 0 % succeeded, 50 % required."),
    ],
)
async def test_stage_blocks_until_the_gate_is_met(world: World, gate: pb.Gate, wait: str) -> None:
    first, last = await create_gated(world, gate)

    blocker = only(await world.operator.explain("j", last), "STAGE_NOT_OPEN")

    assert blocker.message == f"Stage 1 is not open. {wait}"
    assert blocker.stage_gate == pb.StageGate(
        open_stage=0,
        total_executions=1,
        required_count=1 if gate.min_succeeded_percent else None,
        unfinished_count=1,
    )
    assert kinds(await world.operator.explain("j", first)) == ["WAITING_FOR_DEVICE"]
    # The devices of the largest JOBS_MAX_TARGETS times a percentage exceed 32 bits.
    await world.execute(
        "UPDATE jobs.job_stages SET last_rank = 100000000 WHERE tenant_id = $1 AND stage = 0"
    )
    blocker = only(await world.operator.explain("j", last), "STAGE_NOT_OPEN")
    assert blocker.stage_gate.required_count == 1_000_000 * gate.min_succeeded_percent


async def test_stage_blocks_until_its_approval(world: World) -> None:
    first, last = await create_gated(world, pb.Gate(require_approval=True))
    await world.device(first).update("j", "SUCCEEDED")

    blocker = only(await world.operator.explain("j", last), "STAGE_NOT_OPEN")

    assert blocker.message == "Stage 1 is not open. Stage 0 needs an approval."
    assert blocker.stage_gate.awaiting_approval


@pytest.mark.parametrize("bake_seconds", [0, 60])
async def test_stage_with_a_met_gate_waits_for_its_bake_time_or_a_resume(
    world: World, bake_seconds: int
) -> None:
    canary = {"device_count": 1, "display_name": "canary"}
    await world.create(rollout=rollout(canary, REMAINDER))
    first, last = await world.database.order_of_release(["pump", "valve"], "j")
    await world.execute(
        "UPDATE jobs.job_stages SET bake_seconds = $2 WHERE tenant_id = $1", bake_seconds
    )
    await world.device(first).start("j")
    await world.operator.pause("j")
    await world.device(first).update("j", "SUCCEEDED")

    _, blocker = (await world.operator.explain("j", last)).blockers

    wait = (
        "The bake_time of stage 0 (canary) has not passed."
        if bake_seconds
        else "The gate of stage 0 (canary) is met."
    )
    assert blocker.message == f"Stage 1 is not open. {wait}"


async def test_rate_blocks_until_the_exact_release_unless_the_job_is_paused(world: World) -> None:
    """Three devices per minute: the first after 20 s, the second after 40 s."""
    await world.create(rollout=rollout(REMAINDER | {"releases_per_minute": 3}))
    created_at = (await world.operator.get("j")).created_at.ToDatetime(UTC)

    devices = await world.database.order_of_release(["pump", "valve"], "j")
    for seconds, device in zip((20, 40), devices, strict=True):
        release = created_at + timedelta(seconds=seconds)
        check_until(await world.operator.explain("j", device), "NOT_RELEASED", release)
    await world.operator.pause("j")
    paused = await world.operator.explain("j", "pump")
    assert kinds(paused) == ["JOB_PAUSED", "NOT_RELEASED"]
    assert not any(blocker.HasField("until") for blocker in paused.blockers)


async def test_job_blocks_until_its_start_and_until_a_window_opens(
    world: World, now: datetime
) -> None:
    later = now + timedelta(hours=3)
    window = pb.StartWindow(start_time=f"{later:%H:%M}", duration=Duration(seconds=3600))
    await world.create(start_at=later)
    await world.create("k", start_windows=[window])

    check_until(await world.operator.explain("j", "pump"), "JOB_SCHEDULED", later)
    check_until(await world.operator.explain("k", "pump"), "WINDOW_CLOSED", later)


async def test_backoff_blocks_until_it_ends(world: World, now: datetime) -> None:
    rule = pb.RetryRule(max_attempts=2, initial_backoff=Duration(seconds=600))
    await world.create(retry_policy=pb.RetryPolicy(rules=[rule]))
    await world.pump.update("j", "FAILED")
    not_before = now + timedelta(minutes=5)
    await world.execute(
        "UPDATE jobs.job_executions SET not_before = $2"
        " WHERE tenant_id = $1 AND device_id = 'pump'",
        not_before,
    )

    explanation = await world.operator.explain("j", "pump")

    check_until(explanation, "BACKOFF", not_before)
    assert explanation.execution.execution_number == 2
    failure = await expect_error("EXECUTION_NOT_DUE", world.pump.start("j"))
    assert failure.metadata["earliestStartAt"] == explanation.earliest_start_at.ToJsonString()


async def test_full_job_blocks_with_its_slots(world: World) -> None:
    await world.create(rollout=rollout(REMAINDER, max_in_progress=1))
    await world.device("valve").start("j")

    blocker = only(await world.operator.explain("j", "pump"), "JOB_FULL")

    assert blocker.message == "The job is full: 1 of at most 1 executions are IN_PROGRESS."
    assert blocker.job_slots == pb.JobSlots(in_progress=1, max_in_progress=1)


async def test_other_job_comes_first_when_it_is_older_or_has_a_higher_priority(
    world: World,
) -> None:
    await world.create("older")
    await world.create()
    blocker = only(await world.operator.explain("j", "pump"), "OTHER_JOB_FIRST")
    assert blocker.other_job_id == "older"
    assert kinds(await world.operator.explain("older", "pump")) == ["WAITING_FOR_DEVICE"]

    await world.operator.pause("older")
    assert kinds(await world.operator.explain("j", "pump")) == ["WAITING_FOR_DEVICE"]

    await world.create("urgent", priority=pb.Job.HIGH)
    blocker = only(await world.operator.explain("j", "pump"), "OTHER_JOB_FIRST")
    assert blocker.other_job_id == "urgent"


async def test_expiry_comes_first_when_it_is_before_the_release(world: World) -> None:
    await world.create(**ONE_PER_MINUTE)
    await world.execute(
        "UPDATE jobs.jobs SET expires_at = created_at + interval '1 minute' WHERE tenant_id = $1"
    )
    first, _ = await world.database.order_of_release(["pump", "valve"], "j")

    explanation = await world.operator.explain("j", first)

    assert kinds(explanation) == ["NOT_RELEASED", "EXPIRES_FIRST"]
    assert not explanation.HasField("earliest_start_at")


async def test_explain_is_rejected_when_there_is_no_such_execution(world: World) -> None:
    await world.create(target_device_id="pump")

    for device in ("valve", "unknown"):
        await expect_error("EXECUTION_NOT_FOUND", world.operator.explain("j", device))
    await expect_error("JOB_NOT_FOUND", world.operator.explain("unknown", "pump"))
