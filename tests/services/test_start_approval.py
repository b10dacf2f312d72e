"""With require_start_approval, no device starts before ApproveStart; RejectStart cancels it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.callers import Operator
from tests.support.failures import expect_error, invalid_fields
from tests.support.windows import set_time
from tests.support.world import World

FRIDAY = datetime(2027, 6, 4, 12, tzinfo=UTC)
MONDAY = FRIDAY + timedelta(days=3)
SATURDAYS = pb.StartWindow(
    days=[pb.StartWindow.SATURDAY], start_time="02:00", duration=Duration(seconds=7200)
)
NEXT_OPENING = datetime(2027, 6, 12, 2, tzinfo=UTC)
HOURS = {"expires_in_hours": 2}
REST: dict[str, Any] = {"remainder": True}


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    await world.add_devices(["pump", "valve"])


@pytest.fixture
def approver(world: World) -> Operator:
    """A user other than the creator of the job."""
    return world.server.operator(world.tenant, user="ann")


async def create(world: World, **fields: Any) -> pb.CreateJobResponse:
    return await world.create(require_start_approval=True, **fields)


def hours(since: Timestamp, until: Timestamp) -> float:
    return (until.ToNanoseconds() - since.ToNanoseconds()) / 3.6e12


async def event_types(world: World) -> list[tuple[str, str]]:
    """The type and the cause of each event of the job."""
    return [(event.type, event.cause) for event in (await world.events.history("j")).events]


def actions(job: pb.Job) -> str:
    return " ".join(map(pb.Job.Action.Name, job.possible_actions)).lower()


def waits(job: pb.Job) -> list[tuple[str, str]]:
    """The kinds and messages."""
    return [(pb.JobWait.Kind.Name(wait.kind), wait.message) for wait in job.waits_for]


NEEDED = ("START_APPROVAL", "The start of the job needs an approval from a user other than olivia.")


async def test_no_device_starts_before_the_approval(world: World, approver: Operator) -> None:
    created = await create(world)
    assert created.status == pb.Job.PAUSED
    job = await world.operator.get("j", executions_limit=0)
    assert (job.status, job.pause.cause) == (pb.Job.PAUSED, pb.Pause.START_APPROVAL)
    assert job.HasField("start_approval")
    assert not job.start_approval.HasField("approved_at")
    assert (waits(job), actions(job)) == (
        [NEEDED],
        "pause cancel update approve_start reject_start",
    )
    await expect_error("JOB_PAUSED", world.pump.start("j"))
    blocker = (await world.operator.explain("j", "pump")).blockers[0]
    assert blocker.message == "The start of the job needs an approval."
    failure = await expect_error("START_NOT_APPROVED", world.operator.resume("j"))
    assert failure.message == "The start of job j is not approved; call ApproveStart first"

    approved = await approver.approve_start(comment="checked")

    approval = approved.start_approval
    assert (approval.approved_by, approval.comment) == ("ann", "checked")
    assert approval.approved_at == approved.updated_at
    assert (approved.status, waits(approved)) == (pb.Job.IN_PROGRESS, [])
    assert actions(approved) == "pause cancel update"
    assert await approver.approve_start(comment="again", etag="old") == approved
    assert await world.pump.start_next_job() == "j"
    assert await event_types(world) == [
        ("job.created", ""),
        ("job.paused", "START_APPROVAL"),
        ("job.start_approved", ""),
        ("job.resumed", ""),
    ]
    statuses = [event.status for event in (await world.events.history("j")).events]
    assert statuses == [pb.Job.PAUSED] * 3 + [pb.Job.IN_PROGRESS]


async def test_repeated_create_returns_the_first_response(world: World, approver: Operator) -> None:
    created = await create(world, **HOURS)
    await approver.approve_start()

    assert await create(world, **HOURS) == created
    await expect_error("JOB_ALREADY_EXISTS", world.create(**HOURS))
    checked = await create(world, **HOURS, validate_only=True)
    assert checked.status == pb.Job.PAUSED


async def test_rejection_cancels_the_job(world: World, approver: Operator) -> None:
    await create(world)
    old = (await world.operator.get("j")).etag
    await world.operator.update("j", "description", description="new")
    await expect_error("JOB_CHANGED", approver.reject_start(etag=old))
    await expect_error("JOB_CHANGED", approver.approve_start(etag=old))

    rejected = await approver.reject_start(comment="not today")

    assert (rejected.status, rejected.cancel_reason) == (pb.Job.CANCELED, "not today")
    assert not rejected.start_approval.HasField("approved_at")
    event = (await world.events.history("j", newest_first=True)).events[0]
    assert (event.type, event.cause, event.user_id, event.reason) == (
        *("job.canceled", "START_REJECTED", "ann", "not today"),
    )
    failure = await expect_error("START_NOT_APPROVABLE", approver.approve_start())
    assert failure.metadata == {"jobId": "j", "status": "CANCELED"}
    await expect_error("START_NOT_APPROVABLE", approver.reject_start())


async def test_start_is_not_approvable_when_it_needs_none_or_is_approved(
    world: World, approver: Operator
) -> None:
    await world.create("plain")
    await create(world)
    await approver.approve_start()

    failure = await expect_error("START_NOT_APPROVABLE", approver.approve_start("plain"))
    assert failure.message == "The start of job plain needs no approval"
    await expect_error("START_NOT_APPROVABLE", approver.reject_start("plain"))
    failure = await expect_error("START_NOT_APPROVABLE", approver.reject_start())
    assert "is approved already" in failure.message
    await expect_error("JOB_NOT_FOUND", approver.approve_start("missing"))


async def test_approval_needs_another_known_user(world: World) -> None:
    unknown = world.server.operator(world.tenant)
    target = {"target_all": True, "require_start_approval": True}
    await expect_error("SUBJECT_REQUIRED", unknown.create(job_id="j", **target))
    await create(world)

    assert (await unknown.create(job_id="j", **target)).status == pb.Job.PAUSED
    await expect_error("SUBJECT_REQUIRED", unknown.approve_start())
    failure = await expect_error("SELF_APPROVAL", world.operator.approve_start())
    assert failure.metadata == {"jobId": "j"}
    assert failure.message == "The creator of job j must not approve its start; ask another user"


async def test_pause_of_an_operator_outlasts_the_approval(world: World, approver: Operator) -> None:
    await create(world)
    before = (await world.operator.get("j")).pause.paused_at
    paused = await world.operator.pause("j", reason="holidays")
    assert (paused.pause.cause, paused.pause.paused_at) == (pb.Pause.OPERATOR, before)
    resume = ("RESUME", "olivia paused the job: holidays")
    assert (waits(paused), actions(paused)) == (
        *([NEEDED, resume], "cancel update approve_start reject_start"),
    )
    blocker = (await world.operator.explain("j", "pump")).blockers[0]
    assert blocker.message.endswith("holidays The start of the job needs an approval as well.")
    await expect_error("START_NOT_APPROVED", world.operator.resume("j"))

    approved = await approver.approve_start()

    assert (approved.status, waits(approved)) == (pb.Job.PAUSED, [resume])
    assert (await world.operator.resume("j")).status == pb.Job.IN_PROGRESS


@pytest.mark.parametrize(
    "calls", [("approve_start", "reject_start"), ("reject_start", "approve_start")]
)
async def test_first_of_two_decisions_counts(
    world: World, approver: Operator, calls: tuple[str, str]
) -> None:
    await create(world)
    first, second = (getattr(approver, call)() for call in calls)
    await world.second_fails("START_NOT_APPROVABLE", first, second)


async def test_pause_before_a_concurrent_approval_stays(world: World, approver: Operator) -> None:
    await create(world)
    pause, approval = await world.lock_in_order(world.operator.pause("j"), approver.approve_start())
    await pause
    assert (await approval).status == pb.Job.PAUSED


async def test_stages_stay_closed_until_the_approval(world: World, approver: Operator) -> None:
    """The first stage, which is empty, passes at the approval, and the rate counts from it."""
    empty: dict[str, Any] = {"group_id": "nobody", "allow_empty": True}
    job = await world.create_staged(
        empty, REST | {"releases_per_minute": 1}, require_start_approval=True
    )
    assert "advance" not in actions(await job.get())
    await expect_error("START_NOT_APPROVED", world.operator.advance("j"))
    await world.pass_time(600)
    assert await world.operator.counts() == {"held": 2}

    approved = await approver.approve_start()

    assert [stage.state for stage in approved.stages] == [pb.JobStage.PASSED, pb.JobStage.OPEN]
    await world.pass_time(70)
    assert await world.operator.counts() == {"held": 1, "queued": 1}


async def test_approval_is_stored_when_a_gate_pauses_the_job_at_once(
    world: World, approver: Operator
) -> None:
    strict: dict[str, Any] = {"device_count": 1, "gate": pb.Gate(min_succeeded_percent=100)}
    job = await world.create_staged(strict, REST, require_start_approval=True)
    await world.operator.cancel_execution("j", job.names[0][0])

    approved = await approver.approve_start()

    assert approved.start_approval.approved_by == "ann"
    assert approved.pause.cause == pb.Pause.GATE_NOT_MET
    assert (await world.operator.advance("j")).stages[1].state == pb.JobStage.OPEN


async def test_job_that_replaces_another_needs_no_approval(world: World) -> None:
    await world.create()
    replacement = world.create("n", require_start_approval=True, replaces_job_id="j")
    assert await invalid_fields(replacement) == ["require_start_approval"]


# The expiry


async def test_hours_until_the_expiry_count_from_the_approval(
    world: World, approver: Operator
) -> None:
    created = await create(world, **HOURS)
    job = await world.operator.get("j")
    assert hours(job.created_at, created.expires_at) == 720
    assert job.expires_at == created.expires_at
    await world.pass_time(5 * 24 * 3600)

    approved = await approver.approve_start()

    assert hours(approved.start_approval.approved_at, approved.expires_at) == 2


async def test_expiry_of_an_update_stays(world: World, approver: Operator) -> None:
    await create(world, **HOURS)
    expires_at = await world.time_in(1000 * 3600)
    await world.operator.update("j", "expires_at", expires_at=expires_at)
    assert (await approver.approve_start()).expires_at == expires_at


async def test_job_that_never_expires_does_not_expire(world: World, approver: Operator) -> None:
    assert not (await create(world, never_expires=True)).HasField("expires_at")
    assert not (await approver.approve_start()).HasField("expires_at")


async def test_job_whose_start_is_not_approved_expires(world: World, approver: Operator) -> None:
    await create(world)
    await world.pass_time(721 * 3600)

    assert await world.operator.counts() == {"timed_out": 2}
    failure = await expect_error("START_NOT_APPROVABLE", approver.approve_start())
    assert failure.metadata["status"] == "COMPLETED"


@pytest.mark.parametrize("hours_after_start", [None, 48])
async def test_job_of_friday_that_is_approved_on_monday_runs_on_saturday(
    world: World, approver: Operator, hours_after_start: int | None
) -> None:
    """Or the approval is refused, if the request has an expiry that is too early by then."""
    await set_time(world.database, FRIDAY)
    created = await create(
        world,
        expires_in_hours=hours_after_start,
        start_windows=[SATURDAYS],
        target_device_id="pump",
    )
    assert created.execution_count == 1
    await set_time(world.database, FRIDAY + timedelta(hours=15))
    await expect_error("JOB_PAUSED", world.pump.start("j"))  # the window is open
    await set_time(world.database, MONDAY)
    if hours_after_start:
        failure = await expect_error("EXPIRY_TOO_EARLY", approver.approve_start())
        assert "the job expires in 2 d" in failure.message
        assert await world.operator.status() == "PAUSED"
        expires_at = Timestamp()
        expires_at.FromDatetime(NEXT_OPENING + timedelta(hours=1))
        await world.operator.update("j", "expires_at", expires_at=expires_at)

    await approver.approve_start()

    await expect_error("EXECUTION_NOT_DUE", world.pump.start("j"))
    await set_time(world.database, NEXT_OPENING + timedelta(minutes=5))
    assert await world.pump.start_next_job() == "j"


async def test_expiry_that_no_approval_can_meet_is_refused_at_creation(world: World) -> None:
    paced = pb.Rollout(stages=[pb.Stage(remainder=True, releases_per_minute=1)])
    await world.add_devices(200)
    failure = await expect_error(
        "EXPIRY_TOO_EARLY", create(world, rollout=paced, expires_in_hours=3)
    )
    assert "but the job expires in 3 h" in failure.message


# Lists


async def test_lists_name_jobs_that_wait_for_the_approval(world: World, approver: Operator) -> None:
    await world.create("plain")
    await create(world)
    assert (await world.fleet.summary()).jobs.awaiting_approval == 1

    async def waiting() -> list[tuple[str, bool]]:
        """The jobs, and whether they are approved."""
        jobs = (await world.operator.list(awaiting_approval=True)).jobs
        return [(job.job_id, job.start_approval.HasField("approved_at")) for job in jobs]

    assert await waiting() == [("j", False)]
    await world.operator.pause("j")
    assert await waiting() == [("j", False)]
    await approver.approve_start()
    assert await waiting() == []


async def test_rejection_of_a_stage_outlasts_the_approval_of_the_start(
    world: World, approver: Operator
) -> None:
    gated: dict[str, Any] = {"device_count": 1, "gate": pb.Gate(require_approval=True)}
    await world.create_staged(gated, REST, require_start_approval=True)
    await approver.reject("j", 0, comment="not this one")

    approved = await approver.approve_start()

    assert (approved.status, approved.pause.cause) == (pb.Job.PAUSED, pb.Pause.STAGE_REJECTED)
