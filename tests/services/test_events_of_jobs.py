"""The events that operators, devices and rules cause: their fields, and the job after them."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import DeleteDevicesRequest
from grpc import StatusCode

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Device, Operator
from tests.support.criteria_model import Criterion
from tests.support.database import Database, moved_back
from tests.support.events import EventLog, stored_events
from tests.support.failures import expect_failure
from tests.support.retry_policies import rule
from tests.support.server import Server
from tests.support.staged_jobs import StagedJob, create_staged_job, rollout

FAILED_PRECONDITION = StatusCode.FAILED_PRECONDITION
USER = "olivia"
TWO_DAYS = "interval '2 days'"
REMAINDER: dict[str, Any] = {"remainder": True}
APPROVAL = {"gate": pb.Gate(require_approval=True)}


@pytest.fixture
async def pump(database: Database, server: Server, operator: Operator) -> Device:
    """The device "pump"; the tenant also has "valve"."""
    await database.add_devices(operator.tenant, ["pump", "valve"])
    return server.device(operator.tenant, "pump")


@pytest.fixture
def log(database: Database, operator: Operator) -> EventLog:
    """The events of the job "j"."""
    return EventLog(database, operator)


@pytest.fixture
async def job(operator: Operator, pump: Device, log: EventLog) -> Operator:
    """The operator, who has created the job "j" for both devices."""
    await operator.create(job_id="j", target_all=True)
    await log.new()
    return operator


async def staged(
    database: Database, server: Server, operator: Operator, *stages: dict[str, Any], **fields: Any
) -> StagedJob:
    """The job "j" with these stages for the tenant's devices."""
    return await create_staged_job(database, server, operator, *stages, **fields)


async def test_created_has_the_user_and_the_counts(
    operator: Operator, pump: Device, log: EventLog
) -> None:
    await operator.create(job_id="j", target_all=True)

    event = await log.one()

    assert (event.type, event.user, event.status) == ("job.created", USER, "IN_PROGRESS")
    assert (event.counts, event.details) == ({"queued": 2}, {})
    created_at = (await operator.get("j")).created_at
    assert event.time.timestamp() == pytest.approx(created_at.ToNanoseconds() / 1e9, abs=1e-6)


@pytest.mark.parametrize(
    ("first_stage", "counts"),
    [
        ({"device_count": 1}, {"queued": 1, "held": 1}),
        ({"device_count": 1, "releases_per_minute": 60}, {"held": 2}),
    ],
)
async def test_created_counts_as_queued_what_is_released(
    operator: Operator,
    pump: Device,
    log: EventLog,
    first_stage: dict[str, int],
    counts: dict[str, int],
) -> None:
    await operator.create(job_id="j", target_all=True, rollout=rollout(first_stage, REMAINDER))

    assert (await log.one()).counts == counts


async def test_repeated_create_adds_no_event(
    operator: Operator, pump: Device, log: EventLog
) -> None:
    await operator.create(job_id="j", target_all=True)
    await operator.create(job_id="j", target_all=True)
    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await operator.create(job_id="j", target_device_id="pump")

    assert await log.types() == ["job.created"]


async def test_validated_and_rejected_creates_add_no_event(
    database: Database, operator: Operator, pump: Device, log: EventLog
) -> None:
    await operator.create(job_id="j", target_all=True, validate_only=True)
    with expect_failure(StatusCode.NOT_FOUND, "DEVICE_NOT_FOUND"):
        await operator.create(job_id="j", target_device_id="none")

    assert await stored_events(database, operator.tenant) == []


async def test_created_of_a_scheduled_job_has_only_held_executions(
    operator: Operator, pump: Device, log: EventLog
) -> None:
    start_at = (await operator.create(target_all=True)).expires_at  # in a day

    await operator.create(job_id="j", target_all=True, start_at=start_at)

    event = await log.one()
    assert (event.status, event.counts) == ("SCHEDULED", {"held": 2})


async def test_pause_and_resume(job: Operator, log: EventLog) -> None:
    await job.pause("j", reason="error rate")

    event = await log.one()
    assert (event.type, event.user, event.status) == ("job.paused", USER, "PAUSED")
    assert event.details == {"cause": "OPERATOR", "reason": "error rate"}

    await job.resume("j")

    event = await log.one()
    assert (event.type, event.user, event.status) == ("job.resumed", USER, "IN_PROGRESS")
    assert (event.counts, event.details) == ({"queued": 2}, {})


async def test_repeated_pause_resume_and_approval_add_no_event(
    database: Database, server: Server, operator: Operator, pump: Device, log: EventLog
) -> None:
    stages = ({"device_count": 1} | APPROVAL, REMAINDER)
    await staged(database, server, operator, *stages)
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


@pytest.mark.parametrize("force", [False, True])
async def test_cancel_has_the_reason_and_the_counts(
    job: Operator, pump: Device, log: EventLog, force: bool
) -> None:
    await pump.start("j")

    await job.cancel("j", reason="recalled", force=force)

    event = await log.one()
    assert (event.type, event.user, event.status) == ("job.canceled", USER, "CANCELED")
    assert event.details == {"cause": "OPERATOR", "reason": "recalled"}
    assert event.counts == ({"rejected": 2} if force else {"in_progress": 1, "rejected": 1})


async def test_rejected_calls_add_no_event(job: Operator, log: EventLog) -> None:
    await job.cancel("j")
    await log.new()

    for call, reason in (
        (job.cancel("j"), "JOB_NOT_CANCELABLE"),
        (job.pause("j"), "JOB_NOT_PAUSABLE"),
        (job.resume("j"), "JOB_NOT_RESUMABLE"),
        (job.retry("j", "REJECTED"), "JOB_NOT_RETRYABLE"),
    ):
        with expect_failure(FAILED_PRECONDITION, reason):
            await call
    with expect_failure(StatusCode.ABORTED, "JOB_CHANGED"):
        await job.update("j", "description", description="x", etag="99")

    assert await log.new() == []


async def test_update_names_the_fields(job: Operator, log: EventLog) -> None:
    await job.update("j", "labels", "description", labels={"a": "b"}, description="x")

    event = await log.one()
    assert (event.type, event.user) == ("job.updated", USER)
    assert event.details == {"updated_fields": ["description", "labels"]}


async def test_update_of_a_finished_job_has_its_status(job: Operator, log: EventLog) -> None:
    await job.cancel("j")
    await log.new()

    await job.update("j", "description", description="x")

    event = await log.one()
    assert (event.type, event.status) == ("job.updated", "CANCELED")


async def test_last_report_completes_the_job(
    server: Server, job: Operator, pump: Device, log: EventLog
) -> None:
    await pump.update("j", "SUCCEEDED")
    assert await log.new() == []

    await server.device(job.tenant, "valve").update("j", "FAILED")

    event = await log.one()
    assert (event.type, event.user, event.status) == ("job.completed", None, "COMPLETED")
    assert (event.counts, event.details) == ({"succeeded": 1, "failed": 1}, {})


async def test_completion_by_a_call_of_an_operator_has_the_user(
    server: Server, job: Operator, log: EventLog
) -> None:
    fleet = server.fleet(job.tenant)

    await job.cancel_execution("j", "valve")
    await fleet.stub.DeleteDevices(DeleteDevicesRequest(device_ids=["pump"]), metadata=job.metadata)

    event = await log.one()
    assert (event.type, event.user, event.counts) == ("job.completed", USER, {"rejected": 2})


async def test_retry_has_the_number_of_executions(
    server: Server, job: Operator, pump: Device, log: EventLog
) -> None:
    await pump.update("j", "FAILED")
    await server.device(job.tenant, "valve").update("j", "SUCCEEDED")
    await log.new()

    await job.retry("j", "FAILED")
    event = await log.one()
    assert (event.type, event.user, event.status) == ("job.retried", USER, "IN_PROGRESS")
    assert (event.counts, event.details) == ({"queued": 1, "succeeded": 1}, {"retried_count": 1})

    await job.retry("j", "FAILED")
    assert await log.new() == []


async def test_automatic_retry_adds_no_event(
    operator: Operator, pump: Device, log: EventLog
) -> None:
    await operator.create(
        job_id="j",
        target_device_id="pump",
        retry_policy=pb.RetryPolicy(rules=[rule(max_attempts=2)]),
    )
    await log.new()

    await pump.update("j", "FAILED")

    assert await log.new() == []
    assert (await operator.get("j")).executions[0].execution_number == 2


async def test_delete_adds_the_last_event_of_a_job(
    database: Database, job: Operator, log: EventLog
) -> None:
    await job.cancel("j")
    await log.new()

    await job.delete("j")

    event = await log.one()
    assert (event.type, event.user, event.status) == ("job.deleted", USER, "CANCELED")
    assert (event.counts, event.details) == ({"rejected": 2}, {"cause": "OPERATOR"})
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await job.delete("j")
    assert await log.new() == []


async def test_retention_deletes_without_a_user(
    database: Database, job: Operator, log: EventLog
) -> None:
    await job.cancel("j")
    await log.new()
    async with Sweeper(database.owner_dsn, retention_days=1) as sweeper:
        await database.owner.execute(
            f"UPDATE jobs.jobs SET {moved_back(TWO_DAYS, 'updated_at')} WHERE tenant_id = $1",
            job.tenant,
        )
        await sweeper.run_once()

    deleted = (await log.new())[-1]
    assert (deleted.type, deleted.user, deleted.status) == ("job.deleted", None, "CANCELED")
    assert deleted.details == {"cause": "RETENTION"}


async def test_stage_opens_by_its_gate(
    database: Database, server: Server, operator: Operator, pump: Device, log: EventLog
) -> None:
    job = await staged(database, server, operator, {"device_count": 1}, REMAINDER)
    assert (await log.one()).counts == {"queued": 1, "held": 1}

    await job.finish(0)

    event = await log.one()
    assert (event.type, event.user) == ("job.stage_opened", None)
    assert event.details == {"stage": 1, "cause": "GATE"}
    assert event.counts == {"queued": 1, "succeeded": 1}


async def test_stage_opens_by_an_operator_and_the_next_by_its_gate(
    database: Database, server: Server, operator: Operator, pump: Device, log: EventLog
) -> None:
    await database.add_devices(operator.tenant, ["third"])
    empty = {"group_id": "none", "allow_empty": True}
    await staged(database, server, operator, {"device_count": 1}, empty, REMAINDER)
    await log.new()

    await operator.advance("j")

    by_operator, by_gate = await log.new()
    assert (by_operator.type, by_operator.user) == ("job.stage_opened", USER)
    assert by_operator.details == {"stage": 1, "cause": "OPERATOR"}
    assert by_operator.counts == {"queued": 1, "held": 2}
    assert (by_gate.type, by_gate.user) == ("job.stage_opened", None)
    assert by_gate.details == {"stage": 2, "cause": "GATE"}
    assert by_gate.counts == {"queued": 3}


async def test_empty_first_stage_opens_the_next_at_creation(
    operator: Operator, pump: Device, log: EventLog
) -> None:
    empty = {"group_id": "none", "allow_empty": True}
    await operator.create(job_id="j", target_all=True, rollout=rollout(empty, REMAINDER))

    created, opened = await log.new()

    assert (created.type, created.counts) == ("job.created", {"held": 2})
    assert (opened.type, opened.counts) == ("job.stage_opened", {"queued": 2})
    assert opened.details == {"stage": 1, "cause": "GATE"}


async def test_empty_first_stage_of_a_scheduled_job_opens_the_next_at_creation(
    operator: Operator, pump: Device, log: EventLog
) -> None:
    """The start adds no event, as that of the first stage does not."""
    empty = {"group_id": "none", "allow_empty": True}
    start_at = (await operator.create(target_all=True)).expires_at  # in a day

    await operator.create(
        job_id="j", target_all=True, start_at=start_at, rollout=rollout(empty, REMAINDER)
    )

    created, opened = await log.new()
    assert (created.type, created.status) == ("job.created", "SCHEDULED")
    assert (opened.type, opened.status) == ("job.stage_opened", "SCHEDULED")
    assert created.counts == opened.counts == {"held": 2}
    assert created.time == opened.time


async def test_approval_is_awaited_once_and_precedes_the_stage(
    database: Database, server: Server, operator: Operator, pump: Device, log: EventLog
) -> None:
    job = await staged(database, server, operator, {"device_count": 1} | APPROVAL, REMAINDER)
    await log.new()

    await job.finish(0)

    waits = await log.one()
    assert (waits.type, waits.user, waits.details) == ("job.awaiting_approval", None, {"stage": 0})

    await operator.pause("j")
    await operator.resume("j")
    await operator.update("j", "in_progress_timeout_minutes", in_progress_timeout_minutes=5)
    assert await log.types() == ["job.paused", "job.resumed", "job.updated"]

    await server.operator(operator.tenant, "anna").approve("j", 0, comment="looks good")

    approved, opened = await log.new()
    assert (approved.type, approved.user) == ("job.approved", "anna")
    assert approved.details == {"stage": 0, "reason": "looks good"}
    assert (opened.type, opened.user) == ("job.stage_opened", "anna")
    assert opened.details == {"stage": 1, "cause": "GATE"}


async def test_approval_before_the_gate_is_met_adds_only_its_event(
    database: Database, server: Server, operator: Operator, pump: Device, log: EventLog
) -> None:
    job = await staged(database, server, operator, {"device_count": 1} | APPROVAL, REMAINDER)
    await log.new()

    await server.operator(operator.tenant, "anna").approve("j", 0)
    assert (await log.one()).details == {"stage": 0}
    await job.finish(0)

    opened = await log.one()
    assert (opened.type, opened.user) == ("job.stage_opened", None)


async def test_approval_is_awaited_again_after_a_retry_of_its_stage(
    database: Database, server: Server, operator: Operator, pump: Device, log: EventLog
) -> None:
    job = await staged(database, server, operator, {"device_count": 1} | APPROVAL, REMAINDER)
    await job.finish(0, "FAILED")
    await log.new()

    await operator.retry("j", "FAILED")
    assert await log.types() == ["job.retried"]
    await job.finish(0)

    assert await log.types() == ["job.awaiting_approval"]


@pytest.mark.parametrize("action", ["PAUSE", "CANCEL", "FORCE_CANCEL"])
async def test_trip_precedes_what_it_does(
    operator: Operator, pump: Device, log: EventLog, action: str
) -> None:
    await operator.create(
        job_id="j", target_all=True, failure_criteria=[Criterion(count=1, action=action).message]
    )
    await log.new()

    await pump.update("j", "FAILED")

    tripped, ended = await log.new()
    assert (tripped.type, tripped.user, tripped.status) == ("job.tripped", None, "IN_PROGRESS")
    assert tripped.counts == {"queued": 1, "failed": 1}
    reason = tripped.details["reason"]
    assert reason.startswith("1 execution failed")
    assert tripped.details == {"reason": reason}
    assert ended.type == ("job.paused" if action == "PAUSE" else "job.canceled")
    assert ended.details == {"cause": "FAILURE_CRITERION", "reason": reason}
    assert ended.user is None


async def test_trip_of_a_stage_names_it(
    database: Database, server: Server, operator: Operator, pump: Device, log: EventLog
) -> None:
    job = await staged(
        database,
        server,
        operator,
        {"device_count": 1},
        REMAINDER,
        failure_criteria=[Criterion(count=1, scope="STAGE").message],
    )
    await log.new()

    await job.finish(0, "FAILED")

    tripped, _ = await log.new()
    assert tripped.details["stage"] == 0


async def test_trip_by_an_update_follows_it(
    operator: Operator, pump: Device, log: EventLog
) -> None:
    await operator.create(
        job_id="j", target_all=True, failure_criteria=[Criterion(count=2).message]
    )
    await log.new()
    await pump.update("j", "FAILED")

    await operator.update("j", "failure_criteria", failure_criteria=[Criterion(count=1).message])

    updated, tripped, paused = await log.new()
    assert (updated.type, updated.user, updated.status) == ("job.updated", USER, "IN_PROGRESS")
    assert (tripped.type, tripped.user) == ("job.tripped", None)
    assert (paused.type, paused.user) == ("job.paused", None)


async def test_failed_gate_pauses(
    database: Database, server: Server, operator: Operator, pump: Device, log: EventLog
) -> None:
    gate = pb.Gate(min_succeeded_percent=100)
    job = await staged(database, server, operator, {"device_count": 1, "gate": gate}, REMAINDER)
    await log.new()

    await job.finish(0, "FAILED")

    event = await log.one()
    assert (event.type, event.user, event.status) == ("job.paused", None, "PAUSED")
    assert event.details["cause"] == "GATE_NOT_MET"
    assert event.details["reason"].startswith("stage 0 is finished")
    with expect_failure(FAILED_PRECONDITION, "GATE_NOT_MET"):
        await operator.resume("j")
    assert await log.new() == []


async def test_calls_of_earlier_servers_have_no_user(
    database: Database, job: Operator, pump: Device, log: EventLog
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
