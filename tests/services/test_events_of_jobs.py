"""The events that operators, devices and rules cause: their fields, and the job after them.

tests/model/ predicts the events of random calls; here is what it leaves out: reasons, fields of
UpdateJob, stages without devices, retention, and calls that must add nothing.
"""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Device, Operator
from tests.support.database import moved_back
from tests.support.events import Event, EventLog
from tests.support.failures import expect_error
from tests.support.staged_jobs import StagedJob, rollout
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("pump")

USER = "olivia"
ONE: dict[str, Any] = {"device_count": 1}
REMAINDER: dict[str, Any] = {"remainder": True}
EMPTY: dict[str, Any] = {"group_id": "none", "allow_empty": True}


@pytest.fixture
async def job(world: World, pump: Device, log: EventLog) -> Operator:
    await world.create()
    await log.skip()
    return world.operator


@pytest.fixture
async def gated(world: World, log: EventLog) -> StagedJob:
    """The job "j", whose first device needs an approval before the second one."""
    gate = pb.Gate(require_approval=True)
    staged = await world.create_staged(ONE | {"gate": gate}, REMAINDER)
    await log.skip()
    return staged


def facts(event: Event) -> tuple[str, str | None, str, Any, Any]:
    return event.type, event.user, event.status, event.counts, event.details


async def test_each_change_by_an_operator_adds_an_event(world: World, log: EventLog) -> None:
    operator = world.operator
    await world.create()
    created_at = (await operator.get("j")).created_at
    await operator.pause("j", reason="error rate")
    await operator.resume("j")
    await operator.update("j", "labels", "description", labels={"a": "b"}, description="x")
    await world.pump.start("j")
    await operator.cancel("j", reason="recalled")
    await world.pump.update("j", "SUCCEEDED")
    await operator.update("j", "description", description="y")
    await operator.delete("j")
    await expect_error("JOB_NOT_FOUND", operator.delete("j"))

    events = await log.new()

    queued, canceled = {"queued": 2}, {"in_progress": 1, "rejected": 1}
    ended = {"succeeded": 1, "rejected": 1}
    both_fields = {"updated_fields": ["description", "labels"]}
    assert [facts(event) for event in events] == [
        ("job.created", USER, "IN_PROGRESS", queued, {}),
        ("job.paused", USER, "PAUSED", queued, {"cause": "OPERATOR", "reason": "error rate"}),
        ("job.resumed", USER, "IN_PROGRESS", queued, {}),
        ("job.updated", USER, "IN_PROGRESS", queued, both_fields),
        ("job.canceled", USER, "CANCELED", canceled, {"cause": "OPERATOR", "reason": "recalled"}),
        ("job.updated", USER, "CANCELED", ended, {"updated_fields": ["description"]}),
        ("job.deleted", USER, "CANCELED", ended, {"cause": "OPERATOR"}),
    ]
    assert events[0].time.timestamp() == pytest.approx(created_at.ToMicroseconds() / 1e6, abs=1e-6)


async def test_repeated_validated_and_rejected_creates_add_no_event(
    world: World, log: EventLog
) -> None:
    await world.create(validate_only=True)
    await expect_error("DEVICE_NOT_FOUND", world.create(target_device_id="none"))
    assert await log.new() == []

    await world.create("j", "j")
    await expect_error("JOB_ALREADY_EXISTS", world.create(target_device_id="pump"))

    assert await log.types() == ["job.created"]


async def test_repeated_pause_resume_and_approval_add_no_event(
    world: World, gated: StagedJob, log: EventLog
) -> None:
    operator, approver = world.operator, world.server.operator(world.tenant, "anna")

    for first, repeated, added in (
        (operator.pause("j"), operator.pause("j"), ["job.paused"]),
        (operator.resume("j"), operator.resume("j"), ["job.resumed"]),
        (approver.approve("j", 0), approver.approve("j", 0), ["job.stage_approved"]),
        (operator.advance("j", stage=0), operator.advance("j", stage=0), []),
    ):
        await first
        await repeated
        assert await log.types() == added


async def test_retention_deletes_without_a_user(world: World, job: Operator, log: EventLog) -> None:
    await job.cancel("j")
    await log.skip()
    two_days_ago = moved_back("interval '2 days'", "updated_at")
    await world.execute(f"UPDATE jobs.jobs SET {two_days_ago} WHERE tenant_id = $1")

    async with Sweeper(world.database.owner_dsn, retention_days=1) as sweeper:
        await sweeper.run_once()

    details = {"cause": "RETENTION"}
    *_, deleted = await log.new()
    assert facts(deleted) == ("job.deleted", None, "CANCELED", {"rejected": 2}, details)


async def test_stage_opens_by_its_gate_or_an_operator(world: World, log: EventLog) -> None:
    await world.add_devices(["third"])
    staged = await world.create_staged(ONE, ONE, EMPTY, REMAINDER)
    await log.skip()

    await staged.finish(0)
    await world.operator.advance("j")

    type_, status = "job.stage_opened", "IN_PROGRESS"
    held, released = {"queued": 1, "held": 1, "succeeded": 1}, {"queued": 2, "succeeded": 1}
    assert [facts(event) for event in await log.new()] == [
        (type_, None, status, held, {"stage": 1, "cause": "GATE"}),
        (type_, USER, status, held, {"stage": 2, "cause": "OPERATOR"}),
        (type_, None, status, released, {"stage": 3, "cause": "GATE"}),
    ]


@pytest.mark.parametrize("scheduled", [False, True])
async def test_empty_first_stage_opens_the_next_at_creation(
    world: World, log: EventLog, scheduled: bool
) -> None:
    """The start of a scheduled job adds no event, as that of the first stage does not."""
    start_at = await world.time_in(86_400) if scheduled else None

    await world.create(start_at=start_at, rollout=rollout(EMPTY, REMAINDER))

    created, opened = await log.new()
    status = "SCHEDULED" if scheduled else "IN_PROGRESS"
    counts = {"held": 2} if scheduled else {"queued": 2}
    details = {"stage": 1, "cause": "GATE"}
    assert (created.type, created.status, created.counts) == ("job.created", status, {"held": 2})
    assert facts(opened)[2:] == (status, counts, details)
    assert (opened.type, opened.time) == ("job.stage_opened", created.time)


async def test_approval_is_awaited_once_and_again_after_a_retry_and_precedes_the_stage(
    world: World, gated: StagedJob, log: EventLog
) -> None:
    operator = world.operator
    await gated.finish(0, "FAILED")
    waits = await log.one()
    assert (waits.type, waits.user, waits.details) == ("job.awaiting_approval", None, {"stage": 0})

    await operator.pause("j")
    await operator.resume("j")
    await operator.update("j", "in_progress_timeout_minutes", in_progress_timeout_minutes=5)
    assert await log.types() == ["job.paused", "job.resumed", "job.updated"]

    await operator.retry("j", "FAILED")
    await gated.finish(0)
    assert await log.types() == ["job.retried", "job.awaiting_approval"]

    await world.server.operator(world.tenant, "anna").approve("j", 0, comment="looks good")
    assert [(event.type, event.user, event.details) for event in await log.new()] == [
        ("job.stage_approved", "anna", {"stage": 0, "reason": "looks good"}),
        ("job.stage_opened", "anna", {"stage": 1, "cause": "GATE"}),
    ]


@pytest.mark.parametrize("action", ["PAUSE", "CANCEL", "FORCE_CANCEL"])
async def test_trip_precedes_what_it_does(world: World, log: EventLog, action: Any) -> None:
    await world.create(failure_criteria=[pb.FailureCriterion(count=1, action=action)])
    await log.skip()

    await world.pump.update("j", "FAILED")

    tripped, ended = await log.new()
    reason = f"1 execution failed ({action.lower().replace('_', ' ')} at 1)"
    counts = {"queued": 1, "failed": 1}
    assert facts(tripped) == ("job.tripped", None, "IN_PROGRESS", counts, {"reason": reason})
    type_ = "job.paused" if action == "PAUSE" else "job.canceled"
    details = {"cause": "FAILURE_CRITERION", "reason": reason}
    assert (ended.type, ended.user, ended.details) == (type_, None, details)


async def test_failed_gate_pauses(world: World, log: EventLog) -> None:
    gate = pb.Gate(min_succeeded_percent=100)
    staged = await world.create_staged(ONE | {"gate": gate}, REMAINDER)
    await log.skip()

    await staged.finish(0, "FAILED")

    event = await log.one()
    assert (event.type, event.user, event.status) == ("job.paused", None, "PAUSED")
    assert event.details["cause"] == "GATE_NOT_MET"
    assert event.details["reason"].startswith("stage 0 is finished")
    await expect_error("GATE_NOT_MET", world.operator.resume("j"))
    assert await log.new() == []


@pytest.mark.usefixtures("job")
async def test_calls_of_earlier_servers_have_no_user(world: World, log: EventLog) -> None:
    """Without the parameters that were added for events."""
    for call in (
        "pause_job($1, 'j', 'r', NULL, '')",
        "resume_job($1, 'j', '')",
        "update_job($1, 'j', '', '{description}', NULL, '{}', '[]')",
        "cancel_execution($1, 'j', 'pump', 'r', false)",
        "retry_executions($1, 'j', '{REJECTED}', NULL, false, NULL)",
        "cancel_job($1, 'j', 'r', false)",
        "delete_job($1, 'j')",
    ):
        await world.rows(f"SELECT jobs.{call}")

    assert [(event.type.removeprefix("job."), event.user) for event in await log.new()] == [
        (type_, None)
        for type_ in ("paused", "resumed", "updated", "retried", "canceled", "deleted")
    ]
