"""The events that operators, devices and rules cause: their fields, and the job after them."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Device, Operator
from tests.support.database import Database, moved_back
from tests.support.events import Event, EventLog
from tests.support.failures import expect_error
from tests.support.retry_policies import rule
from tests.support.server import Server
from tests.support.staged_jobs import StagedJob, create_staged_job, rollout
from tests.support.world import World

USER = "olivia"
TWO_DAYS = "interval '2 days'"
ONE: dict[str, Any] = {"device_count": 1}
REMAINDER: dict[str, Any] = {"remainder": True}
EMPTY: dict[str, Any] = {"group_id": "none", "allow_empty": True}
APPROVAL: dict[str, Any] = ONE | {"gate": pb.Gate(require_approval=True)}

Staged = Callable[..., Coroutine[Any, Any, StagedJob]]


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The device "pump"; the tenant also has "valve"."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    return server.device(operator.tenant, "pump")


@pytest.fixture
def log(database: Database, operator: Operator, pump: Device) -> EventLog:
    """The events of the job "j"."""
    return EventLog(database, operator)


@pytest.fixture
async def job(operator: Operator, log: EventLog) -> Operator:
    """The operator, who has created the job "j" for both devices."""
    await operator.create(job_id="j", target_all=True)
    await log.new()
    return operator


@pytest.fixture
def staged(database: Database, server: Server, operator: Operator, log: EventLog) -> Staged:
    """A function that creates the job "j" with stages, and skips its events."""

    async def create(*stages: dict[str, Any], **fields: Any) -> StagedJob:
        job = await create_staged_job(database, server, operator, *stages, **fields)
        await log.new()
        return job

    return create


def facts(event: Event) -> tuple[str, str | None, str, Any, Any]:
    """The type, the user, the status, the counts and the details of an event."""
    return event.type, event.user, event.status, event.counts, event.details


async def test_each_change_by_an_operator_adds_an_event(
    operator: Operator, pump: Device, log: EventLog
) -> None:
    await operator.create(job_id="j", target_all=True)
    created_at = (await operator.get("j")).created_at
    await operator.pause("j", reason="error rate")
    await operator.resume("j")
    await operator.update("j", "labels", "description", labels={"a": "b"}, description="x")
    await pump.start("j")
    await operator.cancel("j", reason="recalled")
    await pump.update("j", "SUCCEEDED")
    await operator.update("j", "description", description="y")
    await operator.delete("j")
    await expect_error("JOB_NOT_FOUND", operator.delete("j"))

    events = await log.new()

    queued, canceled = {"queued": 2}, {"in_progress": 1, "rejected": 1}
    ended = {"succeeded": 1, "rejected": 1}
    assert [facts(event) for event in events] == [
        ("job.created", USER, "IN_PROGRESS", queued, {}),
        ("job.paused", USER, "PAUSED", queued, {"cause": "OPERATOR", "reason": "error rate"}),
        ("job.resumed", USER, "IN_PROGRESS", queued, {}),
        (
            *("job.updated", USER, "IN_PROGRESS", queued),
            {"updated_fields": ["description", "labels"]},
        ),
        ("job.canceled", USER, "CANCELED", canceled, {"cause": "OPERATOR", "reason": "recalled"}),
        ("job.updated", USER, "CANCELED", ended, {"updated_fields": ["description"]}),
        ("job.deleted", USER, "CANCELED", ended, {"cause": "OPERATOR"}),
    ]
    assert events[0].time.timestamp() == pytest.approx(created_at.ToMicroseconds() / 1e6, abs=1e-6)


async def test_completions_and_retries_add_events(
    server: Server, job: Operator, pump: Device, log: EventLog
) -> None:
    await pump.update("j", "FAILED")
    await server.device(job.tenant, "valve").update("j", "SUCCEEDED")
    await job.retry("j", "FAILED")
    await job.retry("j", "FAILED")  # nothing is left to retry
    await job.cancel_execution("j", "pump")

    assert [facts(event) for event in await log.new()] == [
        ("job.completed", None, "COMPLETED", {"succeeded": 1, "failed": 1}, {}),
        (
            *("job.retried", USER, "IN_PROGRESS", {"queued": 1, "succeeded": 1}),
            {"retried_count": 1},
        ),
        ("job.completed", USER, "COMPLETED", {"succeeded": 1, "rejected": 1}, {}),
    ]


@pytest.mark.parametrize(
    ("first_stage", "counts"),
    [(ONE, {"queued": 1, "held": 1}), (ONE | {"releases_per_minute": 60}, {"held": 2})],
)
async def test_created_counts_as_queued_what_is_released(
    operator: Operator, log: EventLog, first_stage: dict[str, int], counts: dict[str, int]
) -> None:
    await operator.create(job_id="j", target_all=True, rollout=rollout(first_stage, REMAINDER))

    assert (await log.one()).counts == counts


async def test_repeated_validated_and_rejected_creates_add_no_event(
    operator: Operator, log: EventLog
) -> None:
    await operator.create(job_id="j", target_all=True, validate_only=True)
    await expect_error("DEVICE_NOT_FOUND", operator.create(job_id="j", target_device_id="none"))
    assert await log.new() == []

    await operator.create(job_id="j", target_all=True)
    await operator.create(job_id="j", target_all=True)
    await expect_error("JOB_ALREADY_EXISTS", operator.create(job_id="j", target_device_id="pump"))

    assert await log.types() == ["job.created"]


async def test_created_of_a_scheduled_job_has_only_held_executions(
    operator: Operator, log: EventLog
) -> None:
    start_at = (await operator.create(target_all=True)).expires_at  # in a day

    await operator.create(job_id="j", target_all=True, start_at=start_at)

    event = await log.one()
    assert (event.status, event.counts) == ("SCHEDULED", {"held": 2})


async def test_repeated_pause_resume_and_approval_add_no_event(
    server: Server, operator: Operator, staged: Staged, log: EventLog
) -> None:
    await staged(APPROVAL, REMAINDER)
    approver = server.operator(operator.tenant, "anna")
    for call in (operator.pause, operator.resume):
        await call("j")
        await log.new()
        await call("j")
        assert await log.new() == []
    await approver.approve("j", 0)
    await log.new()
    await approver.approve("j", 0)
    await operator.advance("j", stage=0)

    assert await log.new() == []


async def test_rejected_calls_add_no_event(job: Operator, log: EventLog) -> None:
    await job.cancel("j")
    await log.new()

    for call, reason in (
        (job.cancel("j"), "JOB_NOT_CANCELABLE"),
        (job.pause("j"), "JOB_NOT_PAUSABLE"),
        (job.resume("j"), "JOB_NOT_RESUMABLE"),
        (job.retry("j", "REJECTED"), "JOB_NOT_RETRYABLE"),
    ):
        await expect_error(reason, call)
    await expect_error("JOB_CHANGED", job.update("j", "description", description="x", etag="99"))

    assert await log.new() == []


async def test_automatic_retry_adds_no_event(world: World, pump: Device, log: EventLog) -> None:
    policy = pb.RetryPolicy(rules=[rule(max_attempts=2)])
    await world.operator.create(job_id="j", target_device_id="pump", retry_policy=policy)
    await log.new()

    await pump.update("j", "FAILED")

    assert await log.new() == []
    assert (await world.operator.get("j")).executions[0].execution_number == 2


async def test_retention_deletes_without_a_user(world: World, job: Operator, log: EventLog) -> None:
    await job.cancel("j")
    await log.new()
    await world.database.owner.execute(
        f"UPDATE jobs.jobs SET {moved_back(TWO_DAYS, 'updated_at')} WHERE tenant_id = $1",
        job.tenant,
    )

    async with Sweeper(world.database.owner_dsn, retention_days=1) as sweeper:
        await sweeper.run_once()

    details = {"cause": "RETENTION"}
    *_, deleted = await log.new()
    assert facts(deleted) == ("job.deleted", None, "CANCELED", {"rejected": 2}, details)


async def test_stage_opens_by_its_gate_or_an_operator(
    database: Database, operator: Operator, staged: Staged, log: EventLog
) -> None:
    await database.add_devices(operator.tenant, ["third"])
    job = await staged(ONE, ONE, EMPTY, REMAINDER)

    await job.finish(0)
    await operator.advance("j")

    type_, status, held = (
        "job.stage_opened",
        "IN_PROGRESS",
        {"queued": 1, "held": 1, "succeeded": 1},
    )
    assert [facts(event) for event in await log.new()] == [
        (type_, None, status, held, {"stage": 1, "cause": "GATE"}),
        (type_, USER, status, held, {"stage": 2, "cause": "OPERATOR"}),
        (type_, None, status, {"queued": 2, "succeeded": 1}, {"stage": 3, "cause": "GATE"}),
    ]


@pytest.mark.parametrize("scheduled", [False, True])
async def test_empty_first_stage_opens_the_next_at_creation(
    operator: Operator, log: EventLog, scheduled: bool
) -> None:
    """The start of a scheduled job adds no event, as that of the first stage does not."""
    in_a_day = (await operator.create(target_all=True)).expires_at
    start_at = in_a_day if scheduled else None

    await operator.create(
        job_id="j", target_all=True, start_at=start_at, rollout=rollout(EMPTY, REMAINDER)
    )

    created, opened = await log.new()
    status = "SCHEDULED" if scheduled else "IN_PROGRESS"
    counts = {"held": 2} if scheduled else {"queued": 2}
    details = {"stage": 1, "cause": "GATE"}
    assert (created.type, created.status, created.counts) == ("job.created", status, {"held": 2})
    assert facts(opened)[2:] == (status, counts, details)
    assert (opened.type, opened.time) == ("job.stage_opened", created.time)


async def test_approval_is_awaited_once_and_again_after_a_retry_and_precedes_the_stage(
    server: Server, operator: Operator, staged: Staged, log: EventLog
) -> None:
    job = await staged(APPROVAL, REMAINDER)

    await job.finish(0, "FAILED")
    waits = await log.one()
    assert (waits.type, waits.user, waits.details) == ("job.awaiting_approval", None, {"stage": 0})

    await operator.pause("j")
    await operator.resume("j")
    await operator.update("j", "in_progress_timeout_minutes", in_progress_timeout_minutes=5)
    assert await log.types() == ["job.paused", "job.resumed", "job.updated"]

    await operator.retry("j", "FAILED")
    await job.finish(0)
    assert await log.types() == ["job.retried", "job.awaiting_approval"]

    await server.operator(operator.tenant, "anna").approve("j", 0, comment="looks good")
    assert [(event.type, event.user, event.details) for event in await log.new()] == [
        ("job.approved", "anna", {"stage": 0, "reason": "looks good"}),
        ("job.stage_opened", "anna", {"stage": 1, "cause": "GATE"}),
    ]


async def test_approval_before_the_gate_is_met_adds_only_its_event(
    server: Server, operator: Operator, staged: Staged, log: EventLog
) -> None:
    job = await staged(APPROVAL, REMAINDER)

    await server.operator(operator.tenant, "anna").approve("j", 0)
    assert (await log.one()).details == {"stage": 0}
    await job.finish(0)

    opened = await log.one()
    assert (opened.type, opened.user) == ("job.stage_opened", None)


@pytest.mark.parametrize("action", ["PAUSE", "CANCEL", "FORCE_CANCEL"])
async def test_trip_precedes_what_it_does(
    operator: Operator, pump: Device, log: EventLog, action: Any
) -> None:
    criterion = pb.FailureCriterion(count=1, action=action)
    await operator.create(job_id="j", target_all=True, failure_criteria=[criterion])
    await log.new()

    await pump.update("j", "FAILED")

    tripped, ended = await log.new()
    reason = f"1 execution failed ({action.lower().replace('_', ' ')} at 1)"
    counts = {"queued": 1, "failed": 1}
    assert facts(tripped) == ("job.tripped", None, "IN_PROGRESS", counts, {"reason": reason})
    assert ended.type == ("job.paused" if action == "PAUSE" else "job.canceled")
    assert ended.details == {"cause": "FAILURE_CRITERION", "reason": reason}
    assert ended.user is None


async def test_trip_of_a_stage_names_it(staged: Staged, log: EventLog) -> None:
    criterion = pb.FailureCriterion(count=1, scope=pb.FailureCriterion.STAGE)
    job = await staged(ONE, REMAINDER, failure_criteria=[criterion])

    await job.finish(0, "FAILED")

    tripped, _ = await log.new()
    assert tripped.details["stage"] == 0


async def test_trip_by_an_update_follows_it(world: World, pump: Device, log: EventLog) -> None:
    criteria = [pb.FailureCriterion(count=count) for count in (1, 2)]
    await world.operator.create(job_id="j", target_all=True, failure_criteria=criteria[1:])
    await log.new()
    await pump.update("j", "FAILED")

    await world.operator.update("j", "failure_criteria", failure_criteria=criteria[:1])

    assert [(event.type, event.user, event.status) for event in await log.new()] == [
        ("job.updated", USER, "IN_PROGRESS"),
        ("job.tripped", None, "IN_PROGRESS"),
        ("job.paused", None, "PAUSED"),
    ]


async def test_failed_gate_pauses(operator: Operator, staged: Staged, log: EventLog) -> None:
    gate = pb.Gate(min_succeeded_percent=100)
    job = await staged(ONE | {"gate": gate}, REMAINDER)

    await job.finish(0, "FAILED")

    event = await log.one()
    assert (event.type, event.user, event.status) == ("job.paused", None, "PAUSED")
    assert event.details["cause"] == "GATE_NOT_MET"
    assert event.details["reason"].startswith("stage 0 is finished")
    await expect_error("GATE_NOT_MET", operator.resume("j"))
    assert await log.new() == []


async def test_calls_of_earlier_servers_have_no_user(
    database: Database, job: Operator, log: EventLog
) -> None:
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
        await database.owner.fetch(f"SELECT jobs.{call}", job.tenant)

    events = await log.new()

    assert [event.type for event in events] == [
        "job.paused",
        "job.resumed",
        "job.updated",
        "job.retried",
        "job.canceled",
        "job.deleted",
    ]
    assert {event.user for event in events} == {None}
