"""ExplainExecution: why a device does not start its execution."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from tests.support.callers import Device, Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server

B = pb.StartBlocker


def kinds(explanation: pb.ExplainExecutionResponse) -> list[str]:
    """The kinds of the blockers."""
    return [B.Kind.Name(blocker.kind) for blocker in explanation.blockers]


def messages(explanation: pb.ExplainExecutionResponse) -> list[str]:
    """The sentences of the blockers."""
    return [blocker.message for blocker in explanation.blockers]


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """One of two devices."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    return server.device(operator.tenant, "pump")


async def _create(operator: Operator, job_id: str = "j", **fields: Any) -> None:
    await operator.create(job_id=job_id, target_all=True, **fields)


async def _create_staged(operator: Operator, *stages: pb.Stage, **fields: Any) -> None:
    await _create(operator, rollout=pb.Rollout(stages=stages, **fields))


async def _now(database: Database) -> datetime:
    now: datetime = await database.owner.fetchval("SELECT jobs.now()")
    return now


def _window(opening: datetime) -> pb.StartWindow:
    return pb.StartWindow(start_time=opening.strftime("%H:%M"), duration=Duration(seconds=3600))


async def _first_and_last(database: Database, job_id: str = "j") -> tuple[str, str]:
    """The devices of a rollout with one device in the first stage."""
    devices = await database.order_of_release(["pump", "valve"], job_id)
    return devices[0], devices[-1]


async def test_execution_waits_for_the_device_when_it_can_start(
    pump: Device, operator: Operator
) -> None:
    await _create(operator)

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["WAITING_FOR_DEVICE"]
    assert explanation.execution == (await operator.executions("j")).executions[0]
    assert not explanation.HasField("earliest_start_at")
    assert not explanation.HasField("last_seen_at")


async def test_explanation_has_the_time_at_which_the_device_was_last_seen(
    database: Database, pump: Device, operator: Operator
) -> None:
    await _create(operator)
    await database.owner.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id, last_seen_at)"
        " VALUES ($1, 'pump', '2026-01-02 03:04:05Z')",
        operator.tenant,
    )

    explanation = await operator.explain("j", "pump")

    assert explanation.last_seen_at.ToDatetime(UTC) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_explanation_has_no_blocker_when_the_execution_is_in_progress(
    pump: Device, operator: Operator
) -> None:
    await _create(operator)
    await _create(operator, "other")
    await pump.start("other")

    assert not (await operator.explain("other", "pump")).blockers


async def test_execution_is_finished_when_the_device_has_reported(
    pump: Device, operator: Operator
) -> None:
    await _create(operator)
    await pump.update("j", pb.JobExecution.FAILED)

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["FINISHED"]
    assert messages(explanation) == ["The device has reported FAILED."]


async def test_execution_is_finished_when_its_job_is_canceled(
    pump: Device, operator: Operator
) -> None:
    await _create(operator)
    await operator.cancel("j")

    explanation = await operator.explain("j", "pump")

    assert messages(explanation) == ["The job was canceled."]


async def test_pause_blocks_with_its_user_and_reason(pump: Device, operator: Operator) -> None:
    await _create(operator)
    await operator.pause("j", reason="leaks")

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["JOB_PAUSED"]
    assert messages(explanation) == ["olivia paused the job: leaks"]
    assert explanation.blockers[0].pause == (await operator.get("j")).pause
    assert not explanation.blockers[0].HasField("until")


async def test_pause_names_the_failure_criterion_that_paused(
    server: Server, pump: Device, operator: Operator
) -> None:
    await _create(operator, failure_criteria=[pb.FailureCriterion(count=1)])
    await server.device(operator.tenant, "valve").update("j", pb.JobExecution.FAILED)

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["JOB_PAUSED"]
    assert messages(explanation)[0].startswith("A failure criterion paused the job: ")
    assert explanation.blockers[0].pause.cause == pb.Pause.FAILURE_CRITERION


@pytest.mark.parametrize(
    ("gate", "wait"),
    [
        (pb.Gate(), "In stage 0, 1 of 1 executions are not finished."),
        (
            pb.Gate(min_succeeded_percent=50),
            "The gate of stage 0: 0 % succeeded, 50 % required.",
        ),
    ],
)
async def test_stage_blocks_until_the_gate_is_met(
    database: Database, pump: Device, operator: Operator, gate: pb.Gate, wait: str
) -> None:
    await _create_staged(operator, pb.Stage(device_count=1, gate=gate), pb.Stage(remainder=True))
    first, last = await _first_and_last(database)

    explanation = await operator.explain("j", last)

    assert kinds(explanation) == ["STAGE_NOT_OPEN"]
    assert messages(explanation) == [f"Stage 1 is not open. {wait}"]
    assert explanation.blockers[0].stage_gate == pb.StageGate(
        open_stage=0,
        total_executions=1,
        required_count=1 if gate.min_succeeded_percent else None,
        unfinished_count=1,
    )
    assert kinds(await operator.explain("j", first)) == ["WAITING_FOR_DEVICE"]


@pytest.mark.wrong_counts("the devices of the stage do not exist")
async def test_stage_of_100_million_devices_blocks_with_the_required_number(
    database: Database, pump: Device, operator: Operator
) -> None:
    """JOBS_MAX_TARGETS can be as large. The devices times the percentage exceed 32 bits."""
    gate = pb.Gate(min_succeeded_percent=99)
    await _create_staged(operator, pb.Stage(device_count=1, gate=gate), pb.Stage(remainder=True))
    _, last = await _first_and_last(database)
    await database.owner.execute(
        "UPDATE jobs.job_stages SET last_rank = 100000000 WHERE tenant_id = $1 AND stage = 0",
        operator.tenant,
    )

    explanation = await operator.explain("j", last)

    assert explanation.blockers[0].stage_gate.required_count == 99_000_000


async def test_stage_blocks_until_its_approval(
    database: Database, server: Server, pump: Device, operator: Operator
) -> None:
    gate = pb.Gate(require_approval=True)
    await _create_staged(operator, pb.Stage(device_count=1, gate=gate), pb.Stage(remainder=True))
    first, last = await _first_and_last(database)
    await server.device(operator.tenant, first).update("j", pb.JobExecution.SUCCEEDED)

    explanation = await operator.explain("j", last)

    assert messages(explanation) == ["Stage 1 is not open. Stage 0 waits for an approval."]
    assert explanation.blockers[0].stage_gate.awaiting_approval


async def test_rate_blocks_until_the_exact_release(
    database: Database, server: Server, pump: Device, operator: Operator
) -> None:
    """Three devices per minute: the first after 20 s, the second after 40 s."""
    await _create_staged(operator, pb.Stage(remainder=True, releases_per_minute=3))
    created_at = (await operator.get("j")).created_at.ToDatetime(UTC)

    for seconds, device in zip((20, 40), await _first_and_last(database), strict=True):
        explanation = await operator.explain("j", device)
        assert kinds(explanation) == ["NOT_RELEASED"]
        assert explanation.earliest_start_at == explanation.blockers[0].until
        release = explanation.earliest_start_at.ToDatetime(UTC)
        assert release == created_at + timedelta(seconds=seconds)


async def test_rate_has_no_time_when_the_job_is_paused(pump: Device, operator: Operator) -> None:
    await _create_staged(operator, pb.Stage(remainder=True, releases_per_minute=1))
    await operator.pause("j")

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["JOB_PAUSED", "NOT_RELEASED"]
    assert not any(blocker.HasField("until") for blocker in explanation.blockers)


async def test_job_blocks_until_its_start(
    database: Database, pump: Device, operator: Operator
) -> None:
    start_at = await _now(database) + timedelta(hours=3)
    await _create(operator, start_at=start_at)

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["JOB_SCHEDULED"]
    assert explanation.blockers[0].until.ToDatetime(UTC) == start_at
    assert explanation.earliest_start_at.ToDatetime(UTC) == start_at


async def test_window_blocks_until_it_opens(
    database: Database, pump: Device, operator: Operator
) -> None:
    opening = (await _now(database)).replace(second=0, microsecond=0) + timedelta(hours=3)
    await _create(operator, start_windows=[_window(opening)])

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["WINDOW_CLOSED"]
    assert explanation.blockers[0].until.ToDatetime(UTC) == opening
    assert explanation.earliest_start_at.ToDatetime(UTC) == opening


async def test_device_starts_in_the_next_window_when_this_one_closes_before_the_release(
    database: Database, pump: Device, operator: Operator
) -> None:
    """The window closes after 15 minutes, and the device is released after an hour."""
    opening = (await _now(database)).replace(second=0, microsecond=0)
    await _create_staged(operator, pb.Stage(remainder=True, releases_per_minute=1))
    await database.owner.execute(
        "UPDATE jobs.jobs SET release_since = $2, expires_at = NULL, start_windows = $3,"
        " window_time_zone = 'UTC' WHERE tenant_id = $1",
        operator.tenant,
        await _now(database) + timedelta(hours=1),
        [127, opening.hour * 60 + opening.minute, 15],
    )

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["NOT_RELEASED"]
    assert explanation.earliest_start_at.ToDatetime(UTC) == opening + timedelta(days=1)


async def test_backoff_blocks_until_it_ends(
    database: Database, pump: Device, operator: Operator
) -> None:
    rule = pb.RetryRule(max_attempts=2, initial_backoff=Duration(seconds=600))
    await _create(operator, retry_policy=pb.RetryPolicy(rules=[rule]))
    await pump.update("j", pb.JobExecution.FAILED)
    not_before = await _now(database) + timedelta(minutes=5)
    await database.owner.execute(
        "UPDATE jobs.job_executions SET not_before = $2"
        " WHERE tenant_id = $1 AND device_id = 'pump'",
        operator.tenant,
        not_before,
    )

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["BACKOFF"]
    assert explanation.execution.execution_number == 2
    assert explanation.earliest_start_at.ToDatetime(UTC) == not_before
    with expect_failure(StatusCode.FAILED_PRECONDITION, "EXECUTION_NOT_DUE") as failure:
        await pump.start("j")
    assert failure.metadata["earliestStartAt"] == explanation.earliest_start_at.ToJsonString()


async def test_full_job_blocks_with_its_slots(
    server: Server, pump: Device, operator: Operator
) -> None:
    await _create_staged(operator, pb.Stage(remainder=True), max_in_progress=1)
    await server.device(operator.tenant, "valve").start("j")

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["JOB_FULL"]
    assert messages(explanation) == ["The job is full: 1 of at most 1 executions are IN_PROGRESS."]
    assert explanation.blockers[0].job_slots == pb.JobSlots(in_progress=1, max_in_progress=1)


async def test_other_job_comes_first_when_it_is_older(pump: Device, operator: Operator) -> None:
    await _create(operator, "older")
    await _create(operator)

    explanation = await operator.explain("j", "pump")

    assert kinds(explanation) == ["OTHER_JOB_FIRST"]
    assert explanation.blockers[0].other_job_id == "older"
    assert kinds(await operator.explain("older", "pump")) == ["WAITING_FOR_DEVICE"]


async def test_other_job_comes_first_when_it_has_a_higher_priority(
    pump: Device, operator: Operator
) -> None:
    await _create(operator)
    await _create(operator, "urgent", priority=pb.Job.HIGH)

    explanation = await operator.explain("j", "pump")

    assert explanation.blockers[0].other_job_id == "urgent"


async def test_paused_job_does_not_come_first(pump: Device, operator: Operator) -> None:
    await _create(operator, "older")
    await operator.pause("older")
    await _create(operator)

    assert kinds(await operator.explain("j", "pump")) == ["WAITING_FOR_DEVICE"]


async def test_expiry_comes_first_when_it_is_before_the_release(
    database: Database, pump: Device, operator: Operator
) -> None:
    await _create_staged(operator, pb.Stage(remainder=True, releases_per_minute=1))
    created: datetime = await database.owner.fetchval(
        "SELECT created_at FROM jobs.jobs WHERE tenant_id = $1", operator.tenant
    )
    await database.owner.execute(
        "UPDATE jobs.jobs SET expires_at = $2 WHERE tenant_id = $1",
        operator.tenant,
        created + timedelta(minutes=1),
    )
    first, _ = await _first_and_last(database)

    explanation = await operator.explain("j", first)

    assert kinds(explanation) == ["NOT_RELEASED", "EXPIRES_FIRST"]
    assert not explanation.HasField("earliest_start_at")


async def test_explain_is_rejected_when_there_is_no_such_execution(
    pump: Device, operator: Operator
) -> None:
    await operator.create(job_id="j", target_device_id="pump")

    for job_id, device in (("j", "valve"), ("j", "unknown"), ("unknown", "pump")):
        with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
            await operator.explain(job_id, device)
