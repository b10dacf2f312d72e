"""AdvanceJob, ApproveStage, and the clock of a rollout during a pause."""

import json
import logging
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.observability import logs
from tests.support.callers import Operator
from tests.support.events import EventLog
from tests.support.failures import expect_error, invalid_fields
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("ten_devices")

APPROVAL: dict[str, Any] = {"device_count": 4, "gate": pb.Gate(require_approval=True)}
CANARY: dict[str, Any] = {"device_count": 1, "releases_per_minute": 60}
STRICT: dict[str, Any] = {"device_count": 4, "gate": pb.Gate(min_succeeded_percent=100)}
REST: dict[str, Any] = {"remainder": True}
OPEN, PASSED = pb.JobStage.OPEN, pb.JobStage.PASSED


@pytest.fixture
def approver(world: World) -> Operator:
    """A user other than the creator of the job."""
    return world.server.operator(world.tenant, user="ann")


async def test_advance_to_an_open_stage_changes_nothing(world: World) -> None:
    job = await world.create_staged({"device_count": 4}, {"device_count": 2}, REST)
    first = await job.operator.advance("j", stage=1)

    assert await job.operator.advance("j", stage=1) == first
    assert await job.operator.advance("j", stage=0) == first
    await job.operator.cancel("j")
    assert (await job.operator.advance("j", stage=1)).status == pb.Job.CANCELED


async def test_advance_is_rejected_when_there_is_no_such_next_stage(world: World) -> None:
    job = await world.create_staged({"device_count": 4}, {"device_count": 2}, REST)
    await job.operator.create(job_id="plain", target_all=True)

    async def rejected(job_id: str, **fields: int) -> str:
        failure = await expect_error("JOB_NOT_ADVANCEABLE", job.operator.advance(job_id, **fields))
        assert failure.metadata == {"jobId": job_id, "status": "IN_PROGRESS"}
        return failure.message

    no_rollout = "Job plain has no rollout, so no stage can open"
    assert await rejected("plain") == await rejected("plain", stage=0) == no_rollout
    assert await rejected("j", stage=99) == "Job j has no stage 99; its last stage is 2"
    too_early = "Stage 2 of job j can't open yet: stage 0 is open; open stage 1 first"
    assert await rejected("j", stage=2) == too_early
    await job.operator.advance("j")
    await job.operator.advance("j")
    assert await rejected("j") == "Stage 2 of job j is open, and it is the last one"


async def test_advance_is_rejected_when_job_is_finished_missing_or_changed(world: World) -> None:
    job = await world.create_staged({"device_count": 4}, REST)
    old = (await job.operator.pause("j")).etag
    await job.operator.resume("j")

    changed = await expect_error("JOB_CHANGED", job.operator.advance("j", etag=old))
    assert "its status is IN_PROGRESS, and stage 0 is open" in changed.message
    assert changed.metadata["openStage"] == "0"
    await expect_error("JOB_NOT_FOUND", job.operator.advance("missing"))
    await job.operator.cancel("j")
    failure = await expect_error("JOB_NOT_ADVANCEABLE", job.operator.advance("j"))
    assert failure.metadata == {"jobId": "j", "status": "CANCELED"}
    assert failure.message == "Cannot open a stage of job j in status CANCELED"


async def test_advance_and_approve_are_rejected_when_a_field_is_invalid(world: World) -> None:
    advance = world.operator.advance("", stage=100, etag="e" * 65)
    assert {*await invalid_fields(advance)} == {"job_id", "stage", "etag"}

    approve = world.operator.approve("", -1, comment="c" * 201)
    assert {*await invalid_fields(approve)} == {"job_id", "stage", "comment"}


async def test_advance_does_not_replace_an_approval(world: World, approver: Operator) -> None:
    job = await world.create_staged(APPROVAL, REST)

    failure = await expect_error("APPROVAL_REQUIRED", job.operator.advance("j"))
    assert failure.metadata == {"jobId": "j", "stage": "0"}

    await approver.approve("j", 0)
    assert await job.open_stage() == 0
    await job.operator.advance("j")
    assert await job.open_stage() == 1


async def test_approval_is_stored_with_user_and_comment(world: World, approver: Operator) -> None:
    job = await world.create_staged(APPROVAL, REST)
    before = await job.get()

    approved = await approver.approve("j", 0, comment="canaries are fine")

    approval = approved.stages[0].approval
    assert (approval.approved_by, approval.comment) == ("ann", "canaries are fine")
    assert approval.approved_at.ToDatetime() > before.created_at.ToDatetime()
    assert approved.etag != before.etag
    assert approved.stages[0].state == pb.JobStage.OPEN
    assert await approver.approve("j", 0, comment="again") == approved


async def test_approval_by_the_creator_is_rejected_unless_it_is_allowed(world: World) -> None:
    job = await world.create_staged(APPROVAL, REST)
    gate = pb.Gate(require_approval=True, allow_self_approval=True)
    await world.create_staged({"device_count": 4, "gate": gate}, REST, job_id="self")

    failure = await expect_error("SELF_APPROVAL", job.operator.approve("j", 0))
    assert failure.metadata == {"jobId": "j", "stage": "0"}
    await expect_error("SUBJECT_REQUIRED", world.server.operator(world.tenant).approve("j", 0))
    approved = await job.operator.approve("self", 0)
    assert approved.stages[0].approval.approved_by == "olivia"


async def test_approval_is_rejected_unless_it_is_awaited(world: World, approver: Operator) -> None:
    await world.create_staged(APPROVAL, APPROVAL, REST)

    async def rejected(stage: int) -> str:
        failure = await expect_error("STAGE_NOT_APPROVABLE", approver.approve("j", stage))
        assert failure.metadata == {"jobId": "j", "stage": str(stage)}
        return failure.message

    assert await rejected(1) == "Stage 1 of job j is not open; stage 0 is"
    assert await rejected(2) == "Stage 2 of job j requires no approval"
    assert await rejected(3) == "Job j has no stage 3"
    await expect_error("JOB_NOT_FOUND", approver.approve("missing", 0))
    await approver.cancel("j")
    assert await rejected(0) == (
        "Stage 0 of job j can be neither approved nor rejected in status CANCELED"
    )


async def test_rejection_pauses_the_job_until_a_resume_and_an_approval(
    world: World, approver: Operator, log: EventLog
) -> None:
    job = await world.create_staged(APPROVAL, REST)
    await job.finish(0)

    rejected = await approver.reject("j", 0, comment="too hot")

    assert (rejected.status, rejected.pause.cause) == (pb.Job.PAUSED, pb.Pause.STAGE_REJECTED)
    assert (rejected.pause.paused_by, rejected.pause.reason) == ("ann", "too hot")
    assert rejected.waits_for[0].message == "ann rejected a stage of the rollout: too hot"
    again = await job.operator.reject("j", 0, etag=rejected.etag)
    await expect_error("JOB_CHANGED", job.operator.reject("j", 0, etag=rejected.etag))
    assert again.pause == rejected.pause
    assert [(e.type, e.user, e.details) for e in (await log.new())[-3:]] == [
        ("job.stage_rejected", "ann", {"stage": 0, "reason": "too hot"}),
        ("job.paused", "ann", {"cause": "STAGE_REJECTED", "reason": "too hot"}),
        ("job.stage_rejected", "olivia", {"stage": 0}),
    ]
    resumed = await job.operator.resume("j")
    assert (resumed.status, resumed.stages[0].awaiting_approval) == (pb.Job.IN_PROGRESS, True)
    assert (await approver.approve("j", 0)).stages[0].state == PASSED


async def test_rejection_is_refused_unless_the_stage_needs_an_approval(
    world: World, approver: Operator
) -> None:
    job = await world.create_staged(APPROVAL, APPROVAL, REST)

    async def refused(stage: int) -> str:
        failure = await expect_error("STAGE_NOT_APPROVABLE", approver.reject("j", stage))
        return failure.message

    assert await refused(1) == "Stage 1 of job j is not open; stage 0 is"
    assert await refused(2) == "Stage 2 of job j requires no approval"
    assert await refused(3) == "Job j has no stage 3"
    await expect_error("JOB_NOT_FOUND", approver.reject("missing", 0))
    await expect_error("JOB_CHANGED", approver.reject("j", 0, etag="9"))
    await approver.approve("j", 0)
    assert await refused(0) == "Stage 0 of job j is approved already; pause the job instead"
    await job.operator.cancel("j")
    with_status = "can be neither approved nor rejected in status CANCELED"
    assert await refused(1) == f"Stage 1 of job j {with_status}"


async def test_audit_log_has_who_approved_which_stage_and_why(
    world: World, approver: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    job = await world.create_staged(APPROVAL, REST)
    caplog.set_level(logging.INFO, "jobs_grpc.audit")
    caplog.clear()

    await approver.approve("j", 0, comment="canaries are fine")
    await job.operator.advance("j", stage=1)
    await job.operator.pause("j")

    as_json = logs.JsonFormatter()
    names = ("message", "subject", "job_id", "stage", "comment")
    audited = [
        json.loads(as_json.format(record))
        for record in caplog.records
        if record.name == "jobs_grpc.audit"
    ]
    assert [tuple(line.get(name) for name in names) for line in audited] == [
        ("audit ApproveStage", "ann", "j", 0, "canaries are fine"),
        ("audit AdvanceJob", "olivia", "j", 1, None),
        ("audit PauseJob", "olivia", "j", None, None),
    ]
    assert audited[0]["time"]


@pytest.mark.parametrize("gate", ["bake_seconds", "advance_after_seconds"])
async def test_pause_stops_the_time_of_a_gate(world: World, gate: str) -> None:
    job = await world.create_staged({"device_count": 1}, REST)
    await job.set_gate(0, **{gate: 600})
    if gate == "bake_seconds":
        await job.finish(0)
    await world.pass_time(500)
    await job.operator.pause("j")
    await world.pass_time(5000)
    await job.operator.resume("j")

    await job.pass_time(90)
    assert await job.open_stage() == 0
    await job.pass_time(10)
    assert await job.open_stage() == 1


async def test_clocks_that_begin_during_a_pause_start_at_the_resume(world: World) -> None:
    job = await world.create_staged({"device_count": 4, "releases_per_minute": 60}, CANARY, REST)
    await world.pass_time(2)
    await job.operator.pause("j")
    await job.operator.advance("j")
    await job.set_gate(1, bake_seconds=600)
    await world.pass_time(1000)

    resumed = await job.operator.resume("j")

    # The leftovers come first, at the rate of the open stage.
    assert [stage.released_count for stage in resumed.stages] == [2, 0, 0]
    await world.pass_time(3)
    assert [stage.released_count for stage in (await job.get()).stages] == [4, 1, 0]
    await job.device(1).start("j")
    await job.operator.pause("j")
    await job.finish(1)
    await world.pass_time(1000)
    await job.operator.resume("j")
    assert await job.open_stage() == 1
    await job.pass_time(600)
    assert await job.open_stage() == 2


@pytest.mark.parametrize("advance_after", [None, 600])
async def test_resume_is_rejected_when_gate_has_failed_unless_advance_after_is_set(
    world: World, advance_after: int | None
) -> None:
    job = await world.create_staged(STRICT, REST)
    await job.set_gate(0, advance_after_seconds=advance_after)
    for device in job.devices(0):
        await device.start("j")
    await job.operator.pause("j", reason="lunch")
    await job.finish(0, "FAILED")

    if advance_after:
        resumed = await job.operator.resume("j")
        assert (resumed.status, resumed.stages[0].state) == (pb.Job.IN_PROGRESS, pb.JobStage.OPEN)
    else:
        await expect_error("GATE_NOT_MET", job.operator.resume("j"))
        paused = await job.get()
        assert (paused.status, paused.pause.reason) == (pb.Job.PAUSED, "lunch")


_WRITES = """
    SELECT sum(pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
               + pg_stat_get_xact_tuples_deleted(c.oid))::integer
    FROM pg_class c
    WHERE c.relnamespace = 'jobs'::regnamespace AND c.relkind = 'r'
"""


@pytest.mark.single_node("counts the rows that the session itself writes")
async def test_rows_written_by_operators_do_not_depend_on_the_devices(world: World) -> None:
    calls = [
        "SELECT jobs.pause_job($1, 'j', 'r', NULL, '')",
        "SELECT jobs.advance_job($1, 'j', NULL, '')",
        "SELECT jobs.resume_job($1, 'j', '')",
        "SELECT jobs.approve_stage($1, 'j', 1, 'ann', '')",
        "SELECT jobs.cancel_job($1, 'j', 'r', false)",
    ]
    written = {}
    for devices in (10, 1000):
        operator = world.server.operator(f"writes-{devices}", user="olivia")
        other = World(world.database, world.server, operator)
        await other.add_devices(devices)
        gated = {"percent": 25} | {"gate": APPROVAL["gate"]}
        await other.create_staged({"percent": 50}, gated, REST)
        counts = []
        for call in calls:
            async with world.database.owner.transaction():
                before = await world.database.owner.fetchval(_WRITES)
                await world.database.owner.fetch(call, operator.tenant)
                counts.append(await world.database.owner.fetchval(_WRITES) - before)
        written[devices] = counts

    assert written[10] == written[1000]
    assert max(written[10]) <= 6
