"""AdvanceJob, ApproveStage, and the clock of a rollout during a pause."""

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.observability import logs
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.server import Server
from tests.support.staged_jobs import StagedJob, create_staged_job

Create = Callable[..., Awaitable[StagedJob]]
FAILED_PRECONDITION = StatusCode.FAILED_PRECONDITION
APPROVAL: dict[str, Any] = {"device_count": 4, "gate": pb.Gate(require_approval=True)}
REST: dict[str, Any] = {"remainder": True}


@pytest.fixture
async def create(database: Database, server: Server, operator: Operator) -> Create:
    """A function that creates a job with these stages for 10 devices."""
    await database.add_devices(operator.tenant, 10)

    async def create(*stages: dict[str, Any], **fields: Any) -> StagedJob:
        return await create_staged_job(database, server, operator, *stages, **fields)

    return create


@pytest.fixture
def approver(server: Server, tenant: str) -> Operator:
    """A user other than the creator of the job."""
    return server.operator(tenant, user="ann")


async def test_advance_opens_the_next_stage_although_the_gate_is_not_met(create: Create) -> None:
    job = await create({"device_count": 4}, REST)
    before = await job.get()

    advanced = await job.operator.advance("j")

    assert [stage.state for stage in advanced.stages] == [pb.JobStage.PASSED, pb.JobStage.OPEN]
    assert advanced.etag != before.etag
    assert advanced.updated_at == before.updated_at
    await job.device(1).start("j")


async def test_advance_to_an_open_stage_changes_nothing(create: Create) -> None:
    job = await create({"device_count": 4}, {"device_count": 2}, REST)
    first = await job.operator.advance("j", stage=1)

    assert await job.operator.advance("j", stage=1) == first
    assert await job.operator.advance("j", stage=0) == first
    await job.operator.cancel("j")
    assert (await job.operator.advance("j", stage=1)).status == pb.Job.CANCELED


async def test_advance_is_rejected_when_there_is_no_such_next_stage(create: Create) -> None:
    job = await create({"device_count": 4}, {"device_count": 2}, REST)
    await job.operator.create(job_id="plain", target_all=True)

    for job_id, fields, message in (
        (
            "j",
            {"stage": 2},
            "Stage 2 of job j can't open yet: stage 0 is open; open stage 1 first",
        ),
        ("j", {"stage": 99}, "Job j has no stage 99; its last stage is 2"),
        ("plain", {}, "Job plain has no rollout, so no stage can open"),
        ("plain", {"stage": 0}, "Job plain has no rollout, so no stage can open"),
    ):
        with expect_failure(FAILED_PRECONDITION, "JOB_NOT_ADVANCEABLE") as failure:
            await job.operator.advance(job_id, **fields)
        assert failure.metadata == {"jobId": job_id, "status": "IN_PROGRESS"}
        assert failure.message == message

    await job.operator.advance("j")
    await job.operator.advance("j")
    with expect_failure(FAILED_PRECONDITION, "JOB_NOT_ADVANCEABLE") as failure:
        await job.operator.advance("j")
    assert failure.message == "Stage 2 of job j is open, and it is the last one"


async def test_advance_is_rejected_when_job_is_finished_missing_or_changed(create: Create) -> None:
    job = await create({"device_count": 4}, REST)
    old = (await job.operator.pause("j")).etag
    await job.operator.resume("j")

    with expect_failure(StatusCode.ABORTED, "JOB_CHANGED") as changed:
        await job.operator.advance("j", etag=old)
    assert "its status is IN_PROGRESS, and stage 0 is open" in changed.message
    assert changed.metadata["openStage"] == "0"
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await job.operator.advance("missing")
    await job.operator.cancel("j")
    with expect_failure(FAILED_PRECONDITION, "JOB_NOT_ADVANCEABLE") as failure:
        await job.operator.advance("j")
    assert failure.metadata == {"jobId": "j", "status": "CANCELED"}
    assert failure.message == "Cannot open a stage of job j in status CANCELED"


async def test_advance_and_approve_are_rejected_when_a_field_is_invalid(
    operator: Operator,
) -> None:
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.advance("", stage=100, etag="e" * 65)
    assert failure.violations.keys() == {"job_id", "stage", "etag"}

    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.approve("", -1, comment="c" * 201)
    assert failure.violations.keys() == {"job_id", "stage", "comment"}


async def test_advance_does_not_replace_an_approval(create: Create, approver: Operator) -> None:
    job = await create(APPROVAL, REST)

    with expect_failure(FAILED_PRECONDITION, "APPROVAL_REQUIRED") as failure:
        await job.operator.advance("j")
    assert failure.metadata == {"jobId": "j", "stage": "0"}

    await approver.approve("j", 0)
    assert await job.open_stage() == 0
    await job.operator.advance("j")
    assert await job.open_stage() == 1


async def test_advance_of_a_paused_job_leaves_it_paused(create: Create) -> None:
    failing = {"device_count": 4, "gate": pb.Gate(min_succeeded_percent=100)}
    job = await create(failing, REST)
    await job.finish(0, "FAILED")

    advanced = await job.operator.advance("j")

    assert advanced.status == pb.Job.PAUSED
    assert advanced.pause.cause == pb.Pause.GATE_NOT_MET
    with expect_failure(FAILED_PRECONDITION, "JOB_PAUSED"):
        await job.device(1).start("j")
    await job.operator.resume("j")
    await job.device(1).start("j")


async def test_advance_continues_over_empty_stages(create: Create) -> None:
    job = await create({"device_count": 4}, {"group_id": "nobody", "allow_empty": True}, REST)

    await job.operator.advance("j")

    assert await job.open_stage() == 2


async def test_approval_is_stored_with_its_user_and_comment(
    create: Create, approver: Operator
) -> None:
    job = await create(APPROVAL, REST)
    before = await job.get()

    approved = await approver.approve("j", 0, comment="canaries are fine")

    approval = approved.stages[0].approval
    assert (approval.approved_by, approval.comment) == ("ann", "canaries are fine")
    assert approval.approved_at.ToDatetime() > before.created_at.ToDatetime()
    assert approved.etag != before.etag
    assert approved.stages[0].state == pb.JobStage.OPEN
    assert await approver.approve("j", 0, comment="again") == approved


async def test_approval_opens_the_next_stage_when_the_rest_of_the_gate_is_met(
    create: Create, approver: Operator
) -> None:
    job = await create(APPROVAL, REST)
    await job.finish(0)
    assert (await job.get()).stages[0].awaiting_approval

    approved = await approver.approve("j", 0)

    assert [stage.state for stage in approved.stages] == [pb.JobStage.PASSED, pb.JobStage.OPEN]
    # Safe to repeat, although the stage has passed.
    assert await approver.approve("j", 0) == approved


async def test_approval_of_a_paused_job_takes_effect_when_it_is_resumed(
    create: Create, approver: Operator
) -> None:
    job = await create(APPROVAL, REST)
    await job.finish(0)
    await job.operator.pause("j")

    approved = await approver.approve("j", 0)

    assert approved.stages[0].state == pb.JobStage.OPEN
    assert not approved.stages[0].awaiting_approval
    await job.operator.resume("j")
    assert await job.open_stage() == 1


async def test_approval_by_the_creator_is_rejected_unless_it_is_allowed(create: Create) -> None:
    job = await create(APPROVAL, REST)
    gate = pb.Gate(require_approval=True, allow_self_approval=True)
    await create({"device_count": 4, "gate": gate}, REST, job_id="self")

    with expect_failure(StatusCode.PERMISSION_DENIED, "SELF_APPROVAL") as failure:
        await job.operator.approve("j", 0)
    assert failure.metadata == {"jobId": "j", "stage": "0"}
    approved = await job.operator.approve("self", 0)
    assert approved.stages[0].approval.approved_by == "olivia"


async def test_approval_is_rejected_when_the_user_is_unknown(
    create: Create, server: Server, tenant: str
) -> None:
    await create(APPROVAL, REST)

    with expect_failure(StatusCode.PERMISSION_DENIED, "SUBJECT_REQUIRED"):
        await server.operator(tenant).approve("j", 0)


async def test_approval_needs_the_role_approver(
    create: Create, server: Server, tenant: str
) -> None:
    await create(APPROVAL, REST)

    def caller(role: str) -> Operator:
        return server.caller(("x-tenant-id", tenant), ("x-user-id", "ann"), ("x-roles", role))

    for role in ("viewer", "operator"):
        with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await caller(role).approve("j", 0)
    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await caller("approver").advance("j")
    await caller("approver").approve("j", 0)


async def test_approval_is_rejected_when_the_stage_is_not_open_or_needs_none(
    create: Create, approver: Operator
) -> None:
    await create(APPROVAL, APPROVAL, REST)

    messages = {
        1: "Stage 1 of job j is not open; stage 0 is",
        2: "Stage 2 of job j requires no approval",
        3: "Job j has no stage 3",
    }
    for stage, message in messages.items():
        with expect_failure(FAILED_PRECONDITION, "STAGE_NOT_APPROVABLE") as failure:
            await approver.approve("j", stage)
        assert failure.metadata == {"jobId": "j", "stage": str(stage)}
        assert failure.message == message
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await approver.approve("missing", 0)
    await approver.cancel("j")
    with expect_failure(FAILED_PRECONDITION, "STAGE_NOT_APPROVABLE") as failure:
        await approver.approve("j", 0)
    assert failure.message == "Cannot approve stage 0 of job j in status CANCELED"


async def test_audit_log_has_who_approved_which_stage_and_why(
    create: Create, approver: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    job = await create(APPROVAL, REST)
    caplog.set_level(logging.INFO, "jobs_grpc.audit")
    caplog.clear()

    await approver.approve("j", 0, comment="canaries are fine")
    await job.operator.advance("j", stage=1)
    await job.operator.pause("j")

    as_json = logs.JsonFormatter()
    approve, advance, pause = (
        json.loads(as_json.format(record))
        for record in caplog.records
        if record.name == "jobs_grpc.audit"
    )
    assert (approve["message"], approve["subject"], approve["job_id"], approve["stage"]) == (
        *("audit ApproveStage", "ann", "j", 0),
    )
    assert approve["comment"] == "canaries are fine"
    assert approve["time"]
    assert (advance["message"], advance["stage"]) == ("audit AdvanceJob", 1)
    assert not {"stage", "comment"} & pause.keys()


async def test_pause_stops_the_release_rate(create: Create) -> None:
    job = await create({"remainder": True, "releases_per_minute": 2})
    await job.database.pass_time(45)  # One and a half releases.
    await job.operator.pause("j")
    await job.database.pass_time(600)
    paused = await job.get()
    assert paused.stages[0].released_count == 1

    resumed = await job.operator.resume("j")

    assert resumed.stages[0].released_count == 1
    await job.database.pass_time(15)
    assert (await job.get()).stages[0].released_count == 2


async def test_repeated_pauses_do_not_delay_the_release_further(create: Create) -> None:
    job = await create({"remainder": True, "releases_per_minute": 1})
    for _ in range(4):
        await job.database.pass_time(20)
        await job.operator.pause("j")
        await job.database.pass_time(300)
        await job.operator.resume("j")

    assert (await job.get()).stages[0].released_count == 1


@pytest.mark.parametrize("gate", ["bake_seconds", "advance_after_seconds"])
async def test_pause_stops_the_time_of_a_gate(create: Create, gate: str) -> None:
    job = await create({"device_count": 4, "gate": pb.Gate(min_succeeded_percent=25)}, REST)
    await job.set_gate(0, **{gate: 600})
    if gate == "bake_seconds":
        await job.device(0).update("j", "SUCCEEDED")
    await job.database.pass_time(500)
    await job.operator.pause("j")
    await job.database.pass_time(5000)
    await job.operator.resume("j")

    row = await job.row()
    assert row["open_stage"] == 0
    await job.database.pass_time(90)
    await job.apply_rules()
    assert await job.open_stage() == 0
    await job.database.pass_time(10)
    await job.apply_rules()
    assert await job.open_stage() == 1


async def test_stage_that_opens_during_a_pause_starts_its_clock_at_the_resume(
    create: Create,
) -> None:
    job = await create(
        {"device_count": 4, "releases_per_minute": 60},
        {"device_count": 4, "releases_per_minute": 60},
        REST,
    )
    await job.database.pass_time(2)
    await job.operator.pause("j")
    await job.database.pass_time(100)
    await job.operator.advance("j")
    await job.set_gate(1, advance_after_seconds=600)
    await job.database.pass_time(1000)

    resumed = await job.operator.resume("j")

    # The two leftovers come first, at the rate of the open stage.
    assert [stage.released_count for stage in resumed.stages] == [2, 0, 0]
    await job.database.pass_time(3)
    assert [stage.released_count for stage in (await job.get()).stages] == [4, 1, 0]
    row, stage = await job.row(), await job.stage_row(1)
    assert row["open_stage"] == 1
    assert (row["stage_due_at"] - stage["active_since"]).total_seconds() == 600


async def test_gate_that_is_met_during_a_pause_bakes_from_the_resume(create: Create) -> None:
    job = await create({"device_count": 4, "gate": pb.Gate(min_succeeded_percent=25)}, REST)
    await job.set_gate(0, bake_seconds=600)
    await job.device(0).start("j")
    await job.operator.pause("j")
    await job.device(0).update("j", "SUCCEEDED")
    await job.database.pass_time(1000)

    await job.operator.resume("j")

    row = await job.row()
    assert row["open_stage"] == 0
    await job.database.pass_time(600)
    await job.apply_rules()
    assert await job.open_stage() == 1


async def test_resume_opens_the_next_stage_when_the_gate_was_met_during_the_pause(
    create: Create,
) -> None:
    job = await create({"device_count": 4}, REST)
    for device in job.devices(0):
        await device.start("j")
    await job.operator.pause("j")
    await job.finish(0)
    assert await job.open_stage() == 0

    resumed = await job.operator.resume("j")

    assert resumed.status == pb.Job.IN_PROGRESS
    assert resumed.stages[1].state == pb.JobStage.OPEN


async def test_resume_is_rejected_when_the_gate_failed_during_the_pause(create: Create) -> None:
    job = await create({"device_count": 4, "gate": pb.Gate(min_succeeded_percent=100)}, REST)
    for device in job.devices(0):
        await device.start("j")
    await job.operator.pause("j", reason="lunch")
    await job.finish(0, "FAILED")

    with expect_failure(FAILED_PRECONDITION, "GATE_NOT_MET"):
        await job.operator.resume("j")

    paused = await job.get()
    assert (paused.status, paused.pause.reason) == (pb.Job.PAUSED, "lunch")


async def test_resume_waits_for_advance_after_when_the_gate_failed_during_the_pause(
    create: Create,
) -> None:
    job = await create({"device_count": 4, "gate": pb.Gate(min_succeeded_percent=100)}, REST)
    await job.set_gate(0, advance_after_seconds=600)
    for device in job.devices(0):
        await device.start("j")
    await job.operator.pause("j")
    await job.finish(0, "FAILED")

    resumed = await job.operator.resume("j")

    assert resumed.status == pb.Job.IN_PROGRESS
    assert resumed.stages[0].state == pb.JobStage.OPEN


_WRITES = """
    SELECT sum(pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
               + pg_stat_get_xact_tuples_deleted(c.oid))::integer
    FROM pg_class c
    WHERE c.relnamespace = 'jobs'::regnamespace AND c.relkind = 'r'
"""


@pytest.mark.single_node("counts the rows that the session itself writes")
async def test_rows_written_by_operators_do_not_depend_on_the_devices(
    database: Database, server: Server
) -> None:
    calls = [
        "SELECT jobs.pause_job($1, 'j', 'r', NULL, '')",
        "SELECT jobs.advance_job($1, 'j', NULL, '')",
        "SELECT jobs.resume_job($1, 'j', '')",
        "SELECT jobs.approve_stage($1, 'j', 1, 'ann', '')",
        "SELECT jobs.cancel_job($1, 'j', 'r', false)",
    ]
    written = {}
    for devices in (10, 1000):
        operator = server.operator(f"writes-{devices}", user="olivia")
        await database.add_devices(operator.tenant, devices)
        await create_staged_job(
            database,
            server,
            operator,
            {"percent": 50},
            {"percent": 25} | {"gate": APPROVAL["gate"]},
            REST,
        )
        counts = []
        for call in calls:
            async with database.owner.transaction():
                before = await database.owner.fetchval(_WRITES)
                await database.owner.fetch(call, operator.tenant)
                counts.append(await database.owner.fetchval(_WRITES) - before)
        written[devices] = counts

    assert written[10] == written[1000]
    assert max(written[10]) <= 6
