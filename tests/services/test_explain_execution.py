"""ExplainExecution: why a device does not start its execution."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.support.callers import Device, Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.server import Server
from tests.support.staged_jobs import rollout
from tests.support.world import World

REMAINDER: dict[str, Any] = {"remainder": True}
ONE_PER_MINUTE: dict[str, Any] = {"rollout": rollout(REMAINDER | {"releases_per_minute": 1})}


def kinds(explanation: pb.ExplainExecutionResponse) -> list[str]:
    """The kinds of the blockers."""
    return [pb.StartBlocker.Kind.Name(blocker.kind) for blocker in explanation.blockers]


def only(explanation: pb.ExplainExecutionResponse, kind: str) -> pb.StartBlocker:
    """The only blocker, which is of this kind."""
    assert kinds(explanation) == [kind]
    return explanation.blockers[0]


def check_until(explanation: pb.ExplainExecutionResponse, kind: str, until: datetime) -> None:
    """Check that the only blocker is of this kind, and that the device can start at its end."""
    assert only(explanation, kind).until.ToDatetime(UTC) == until
    assert explanation.earliest_start_at.ToDatetime(UTC) == until


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """One of two devices."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    return server.device(operator.tenant, "pump")


async def create(operator: Operator, job_id: str = "j", **fields: Any) -> None:
    """Create a job for both devices."""
    await operator.create(job_id=job_id, target_all=True, **fields)


async def create_gated(database: Database, operator: Operator, gate: pb.Gate) -> list[str]:
    """Create a job with one device in each of two stages; return the devices."""
    await create(operator, rollout=rollout({"device_count": 1, "gate": gate}, REMAINDER))
    return await database.order_of_release(["pump", "valve"], "j")


@pytest.fixture
async def now(database: Database) -> datetime:
    """The time of the database, without the seconds."""
    now: datetime = await database.owner.fetchval("SELECT jobs.now()")
    return now.replace(second=0, microsecond=0)


async def test_execution_waits_for_the_device_when_it_can_start(
    database: Database, pump: Device, operator: Operator, now: datetime
) -> None:
    await create(operator)

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["WAITING_FOR_DEVICE"]
    assert explanation.execution == (await operator.executions("j")).executions[0]
    assert not explanation.HasField("earliest_start_at")
    assert not explanation.HasField("last_seen_at")

    await database.owner.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id, last_seen_at) VALUES ($1, 'pump', $2)",
        *(operator.tenant, now),
    )
    assert (await operator.explain("j", "pump")).last_seen_at.ToDatetime(UTC) == now
    await pump.start("j")
    assert not (await operator.explain("j", "pump")).blockers


async def test_execution_is_finished_when_the_device_has_reported_or_its_job_is_canceled(
    pump: Device, operator: Operator
) -> None:
    await create(operator)
    await pump.update("j", "FAILED")
    reported = await operator.explain("j", "pump")
    await operator.cancel("j")
    canceled = await operator.explain("j", "valve")

    assert only(reported, "FINISHED").message == "The device has reported FAILED."
    assert only(canceled, "FINISHED").message == "The job was canceled."


async def test_pause_blocks_with_its_user_and_reason(pump: Device, operator: Operator) -> None:
    await create(operator)
    await operator.pause("j", reason="leaks")

    blocker = only(await operator.explain("j", "pump"), "JOB_PAUSED")

    assert blocker.message == "olivia paused the job: leaks"
    assert blocker.pause == (await operator.get("j")).pause
    assert not blocker.HasField("until")


async def test_pause_names_the_failure_criterion_that_paused(world: World, pump: Device) -> None:
    await create(world.operator, failure_criteria=[pb.FailureCriterion(count=1)])
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
async def test_stage_blocks_until_the_gate_is_met(
    database: Database, pump: Device, operator: Operator, gate: pb.Gate, wait: str
) -> None:
    first, last = await create_gated(database, operator, gate)

    blocker = only(await operator.explain("j", last), "STAGE_NOT_OPEN")

    assert blocker.message == f"Stage 1 is not open. {wait}"
    assert blocker.stage_gate == pb.StageGate(
        open_stage=0,
        total_executions=1,
        required_count=1 if gate.min_succeeded_percent else None,
        unfinished_count=1,
    )
    assert kinds(await operator.explain("j", first)) == ["WAITING_FOR_DEVICE"]
    # The devices of the largest JOBS_MAX_TARGETS times a percentage exceed 32 bits.
    await database.owner.execute(
        "UPDATE jobs.job_stages SET last_rank = 100000000 WHERE tenant_id = $1 AND stage = 0",
        operator.tenant,
    )
    blocker = only(await operator.explain("j", last), "STAGE_NOT_OPEN")
    assert blocker.stage_gate.required_count == 1_000_000 * gate.min_succeeded_percent


async def test_stage_blocks_until_its_approval(world: World, pump: Device) -> None:
    first, last = await create_gated(world.database, world.operator, pb.Gate(require_approval=True))
    await world.device(first).update("j", "SUCCEEDED")

    blocker = only(await world.operator.explain("j", last), "STAGE_NOT_OPEN")

    assert blocker.message == "Stage 1 is not open. Stage 0 waits for an approval."
    assert blocker.stage_gate.awaiting_approval


async def test_rate_blocks_until_the_exact_release_unless_the_job_is_paused(
    world: World, pump: Device
) -> None:
    """Three devices per minute: the first after 20 s, the second after 40 s."""
    await create(world.operator, rollout=rollout(REMAINDER | {"releases_per_minute": 3}))
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
    pump: Device, operator: Operator, now: datetime
) -> None:
    later = now + timedelta(hours=3)
    window = pb.StartWindow(start_time=f"{later:%H:%M}", duration=Duration(seconds=3600))
    await create(operator, start_at=later)
    await create(operator, "k", start_windows=[window])

    check_until(await operator.explain("j", "pump"), "JOB_SCHEDULED", later)
    check_until(await operator.explain("k", "pump"), "WINDOW_CLOSED", later)


async def test_device_starts_in_the_next_window_when_this_one_closes_before_the_release(
    database: Database, pump: Device, operator: Operator, now: datetime
) -> None:
    """The window closes after 15 minutes, and the device is released after an hour."""
    await create(operator, **ONE_PER_MINUTE)
    await database.owner.execute(
        "UPDATE jobs.jobs SET release_since = $2, expires_at = NULL, start_windows = $3,"
        " window_time_zone = 'UTC' WHERE tenant_id = $1",
        *(operator.tenant, now + timedelta(hours=1), [127, now.hour * 60 + now.minute, 15]),
    )

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["NOT_RELEASED"]
    assert explanation.earliest_start_at.ToDatetime(UTC) == now + timedelta(days=1)


async def test_backoff_blocks_until_it_ends(world: World, pump: Device, now: datetime) -> None:
    rule = pb.RetryRule(max_attempts=2, initial_backoff=Duration(seconds=600))
    await create(world.operator, retry_policy=pb.RetryPolicy(rules=[rule]))
    await pump.update("j", "FAILED")
    not_before = now + timedelta(minutes=5)
    await world.database.owner.execute(
        "UPDATE jobs.job_executions SET not_before = $2"
        " WHERE tenant_id = $1 AND device_id = 'pump'",
        *(world.tenant, not_before),
    )

    explanation = await world.operator.explain("j", "pump")

    check_until(explanation, "BACKOFF", not_before)
    assert explanation.execution.execution_number == 2
    failure = await expect_error("EXECUTION_NOT_DUE", pump.start("j"))
    assert failure.metadata["earliestStartAt"] == explanation.earliest_start_at.ToJsonString()


async def test_full_job_blocks_with_its_slots(world: World, pump: Device) -> None:
    await create(world.operator, rollout=rollout(REMAINDER, max_in_progress=1))
    await world.device("valve").start("j")

    blocker = only(await world.operator.explain("j", "pump"), "JOB_FULL")

    assert blocker.message == "The job is full: 1 of at most 1 executions are IN_PROGRESS."
    assert blocker.job_slots == pb.JobSlots(in_progress=1, max_in_progress=1)


async def test_other_job_comes_first_when_it_is_older_or_has_a_higher_priority(
    pump: Device, operator: Operator
) -> None:
    await create(operator, "older")
    await create(operator)
    blocker = only(await operator.explain("j", "pump"), "OTHER_JOB_FIRST")
    assert blocker.other_job_id == "older"
    assert kinds(await operator.explain("older", "pump")) == ["WAITING_FOR_DEVICE"]

    await operator.pause("older")
    assert kinds(await operator.explain("j", "pump")) == ["WAITING_FOR_DEVICE"]

    await create(operator, "urgent", priority=pb.Job.HIGH)
    blocker = only(await operator.explain("j", "pump"), "OTHER_JOB_FIRST")
    assert blocker.other_job_id == "urgent"


async def test_expiry_comes_first_when_it_is_before_the_release(world: World, pump: Device) -> None:
    await create(world.operator, **ONE_PER_MINUTE)
    await world.database.owner.execute(
        "UPDATE jobs.jobs SET expires_at = created_at + interval '1 minute' WHERE tenant_id = $1",
        world.tenant,
    )
    first, _ = await world.database.order_of_release(["pump", "valve"], "j")

    explanation = await world.operator.explain("j", first)

    assert kinds(explanation) == ["NOT_RELEASED", "EXPIRES_FIRST"]
    assert not explanation.HasField("earliest_start_at")


async def test_explain_is_rejected_when_there_is_no_such_execution(
    pump: Device, operator: Operator
) -> None:
    await operator.create(job_id="j", target_device_id="pump")

    for device in ("valve", "unknown"):
        await expect_error("EXECUTION_NOT_FOUND", operator.explain("j", device))
    await expect_error("JOB_NOT_FOUND", operator.explain("unknown", "pump"))
