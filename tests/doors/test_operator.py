"""What the calls of operators do, through each door. tests/services has every case."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from grpc import StatusCode

from tests.doors.doors import Door, refused, shown
from tests.support.database import Database
from tests.support.server import Server
from tests.support.world import World

PUMP, VALVE = "d00001", "d00002"
JOB = {"job_id": "j"}
REBOOT = {"document_type": "reboot", "target_all": True}


@pytest.fixture(autouse=True)
async def devices(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, 2, group="north")


@pytest.fixture
async def job(door: Door) -> None:
    await door("CreateJob", **JOB, **REBOOT)


async def test_created_job_has_the_fields_of_the_request(door: Door) -> None:
    fields: dict[str, Any] = {
        "document_type": "update",
        "document_params": {"version": "2", "delay": 5, "ratio": 0.5},
        "target_group_id": "north",
        "in_progress_timeout_minutes": 9,
        "labels": {"team": "a,b"},
        "description": "Second try",
    }
    rollout = {"stages": [{"device_count": 1}, {"remainder": True}], "max_in_progress": 3}
    criterion = {"percent": 5, "min_finished": 20, "action": "CANCEL"}

    created = await door(
        "CreateJob", **JOB, **fields, rollout=rollout, failure_criteria=[criterion]
    )
    job = await door("GetJob", **JOB)

    expected = {"job_id": "j", "status": "IN_PROGRESS", "execution_count": 2}
    assert shown(created, expected) == expected
    expected = JOB | fields | {"created_by": "olivia", "rollout": rollout}
    expected |= {"failure_criteria": [criterion], "execution_counts": {"queued": 1, "held": 1}}
    expected |= {"stages": [{"state": "OPEN"}, {"state": "PENDING"}]}
    assert shown(job, expected) == expected


async def test_create_is_idempotent(door: Door) -> None:
    first = await door("CreateJob", **JOB, **REBOOT)

    assert await door("CreateJob", **JOB, **REBOOT) == first
    with refused(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await door("CreateJob", **JOB, document_type="update", target_all=True)


async def test_jobs_are_listed_by_filters(door: Door) -> None:
    fields: dict[str, Any] = {"document_type": "reboot", "labels": {"team": "a,b"}}
    await door("CreateJob", job_id="one", **fields, target_device_id=PUMP)
    await door("CreateJob", job_id="north", document_type="update", target_group_id="north")
    await door("CreateJob", job_id="all", **REBOOT)
    await door("CancelJob", job_id="all")
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["all", "north", "one"]),
        ({"statuses": ["CANCELED"]}, ["all"]),
        ({"statuses": ["CANCELED", "IN_PROGRESS"], "target_all": True}, ["all"]),
        ({"document_type": "update"}, ["north"]),
        ({"created_by": "nobody"}, []),
        ({"target_device_id": PUMP}, ["one"]),
        ({"target_group_id": "north"}, ["north"]),
        ({"selector": 'team="a,b"'}, ["one"]),
        ({"selector": "!team"}, ["all", "north"]),
        ({"job_id_prefix": "no"}, ["north"]),
    ]

    listed = [
        (filters, [job["job_id"] for job in await door("ListJobs", **filters)])
        for filters, _ in expected
    ]

    assert listed == expected


@pytest.mark.usefixtures("job")
async def test_pause_and_resume_change_the_status_and_check_the_etag(door: Door) -> None:
    paused = await door("PauseJob", **JOB, reason="too hot")
    pause = {"reason": "too hot", "paused_by": "olivia", "cause": "OPERATOR"}
    assert shown(paused, {"status": "", "pause": pause}) == {"status": "PAUSED", "pause": pause}

    resumed = await door("ResumeJob", **JOB, etag=paused["etag"])

    assert (resumed["status"], resumed.get("pause")) == ("IN_PROGRESS", None)
    with refused(StatusCode.ABORTED, "JOB_CHANGED"):
        await door("PauseJob", **JOB, etag=paused["etag"])


async def test_stages_are_approved_and_advanced(door: Door) -> None:
    gate = {"require_approval": True, "allow_self_approval": True}
    stages = [{"device_count": 1, "gate": gate}, {"remainder": True}]
    await door("CreateJob", **JOB, **REBOOT, rollout={"stages": stages})

    rejected = await door("RejectStage", **JOB, stage=0, comment="too hot")
    assert (rejected["pause"]["cause"], rejected["pause"]["reason"]) == (
        "STAGE_REJECTED",
        "too hot",
    )
    await door("ResumeJob", **JOB)
    approved = await door("ApproveStage", **JOB, stage=0, comment="go")
    advanced = await door("AdvanceJob", **JOB, stage=1)

    approval = {"approved_by": "olivia", "comment": "go"}
    assert shown(approved["stages"][0]["approval"], approval) == approval
    assert [stage["state"] for stage in advanced["stages"]] == ["PASSED", "OPEN"]


async def test_start_is_approved_by_another_user_or_rejected(
    door: Door, server: Server, tenant: str
) -> None:
    ann = server.operator(tenant, user="ann")
    await ann.create(job_id="j", target_all=True, require_start_approval=True)
    with refused(StatusCode.FAILED_PRECONDITION, "START_NOT_APPROVED"):
        await door("ResumeJob", **JOB)
    approved = await door("ApproveStart", **JOB, comment="go")
    approval = {"approved_by": "olivia", "comment": "go"}
    assert shown(approved["start_approval"], approval) == approval

    created = await door("CreateJob", job_id="k", **REBOOT, require_start_approval=True)
    assert created["status"] == "PAUSED"
    rejected = await door("RejectStart", job_id="k", comment="not today")
    assert (rejected["status"], rejected["cancel_reason"]) == ("CANCELED", "not today")


async def test_update_changes_what_it_names(door: Door) -> None:
    stages = [{"device_count": 1}, {"remainder": True}]
    await door("CreateJob", **JOB, **REBOOT, rollout={"stages": stages}, description="kept")
    changes = {
        "in_progress_timeout_minutes": 7,
        "labels": {"wave": "2"},
        "failure_criteria": [{"count": 7}],
    }

    updated = await door("UpdateJob", **JOB, **changes)

    expected = JOB | changes | {"description": "kept", "rollout": {"stages": stages}}
    assert shown(updated, expected) == expected


@pytest.mark.usefixtures("job")
async def test_cancel_ends_what_has_not_started(door: Door, server: Server, tenant: str) -> None:
    await server.device(tenant, PUMP).start("j")

    canceled = await door("CancelJob", **JOB, reason="wrong group")

    assert canceled == JOB | {"status": "CANCELED"}
    counts = {"in_progress": 1, "rejected": 1}
    expected = {"status": "CANCELED", "cancel_reason": "wrong group", "execution_counts": counts}
    assert shown(await door("GetJob", **JOB), expected) == expected


@pytest.mark.usefixtures("job")
async def test_cancel_with_force_ends_what_is_in_progress(world: World, door: Door) -> None:
    await world.device(PUMP).start("j")

    await door("CancelJob", **JOB, force=True)

    assert (await door("GetJob", **JOB))["execution_counts"]["rejected"] == 2


@pytest.mark.usefixtures("job")
async def test_execution_in_progress_is_canceled_only_with_force(world: World, door: Door) -> None:
    await world.device(PUMP).start("j")
    execution = JOB | {"device_id": PUMP}

    with refused(StatusCode.FAILED_PRECONDITION, "EXECUTION_IN_PROGRESS"):
        await door("CancelExecution", **execution)
    canceled = await door("CancelExecution", **execution, reason="spare", force=True)

    expected = {"device_id": PUMP, "status_details": {"reason": "spare"}}
    assert shown(canceled, expected) == expected
    assert (await door("GetJob", **JOB))["execution_counts"]["rejected"] == 1


@pytest.mark.usefixtures("job")
async def test_failures_are_counted_explained_and_retried(world: World, door: Door) -> None:
    for name, code in ((PUMP, "E1"), (VALVE, "E2")):
        await world.device(name).update("j", "FAILED", failure_code=code)

    summary = await door("GetFailureSummary", **JOB, statuses=["FAILED"], failure_codes=["E1"])
    statuses = {"statuses": ["FAILED", "TIMED_OUT"]}
    of_code = await door("RetryExecutions", **JOB, **statuses, failure_codes=["E1"])
    of_others = await door("RetryExecutions", **JOB, **statuses, device_ids=[PUMP])
    attempts = await door("ListExecutionAttempts", **JOB, device_id=PUMP)
    explained = await door("ExplainExecution", **JOB, device_id=PUMP)

    failure = {"status": "FAILED", "failure_code": "E1", "execution_count": 1, "device_ids": [PUMP]}
    assert shown(summary["failures"], [failure]) == [failure]
    assert (of_code["retried_count"], of_others["retried_count"]) == (1, 0)
    assert [attempt["execution_number"] for attempt in attempts] == [2, 1]
    assert [blocker["kind"] for blocker in explained["blockers"]] == ["WAITING_FOR_DEVICE"]


@pytest.mark.usefixtures("job")
async def test_timeline_has_ends_and_marks(door: Door) -> None:
    await door("PauseJob", **JOB, reason="too hot")
    await door("CancelExecution", **JOB, device_id=PUMP)

    timeline = await door("GetJobTimeline", **JOB)

    mark = {"type": "job.paused", "user_id": "olivia", "cause": "OPERATOR", "reason": "too hot"}
    expected = {"bucket_size": "1s", "buckets": [{"canceled_count": 1}], "marks": [mark]}
    assert shown(timeline, expected) == expected


@pytest.mark.usefixtures("job")
async def test_retry_changes_the_expiry(door: Door) -> None:
    await door("CancelExecution", **JOB, device_id=PUMP)

    await door("RetryExecutions", **JOB, statuses=["REJECTED"], expires_in_hours=48)

    job = await door("GetJob", **JOB)
    created, expires = (
        datetime.fromisoformat(job[f"{name}_at"]) for name in ("created", "expires")
    )
    assert expires - created >= timedelta(hours=48)


@pytest.mark.usefixtures("job")
async def test_job_is_deleted_when_it_is_finished(door: Door) -> None:
    with refused(StatusCode.FAILED_PRECONDITION, "JOB_NOT_DELETABLE"):
        await door("DeleteJob", **JOB)
    await door("CancelJob", **JOB)

    await door("DeleteJob", **JOB)

    assert await door("ListJobs") == []


@pytest.mark.usefixtures("job")
async def test_executions_are_listed_by_status(door: Door, server: Server, tenant: str) -> None:
    await server.device(tenant, PUMP).update("j", "SUCCEEDED", status_details={"version": "2"})

    everything = await door("ListJobExecutions", **JOB)
    succeeded = await door("ListJobExecutions", **JOB, status="SUCCEEDED")

    expected = {"device_id": PUMP, "status": "SUCCEEDED", "status_details": {"version": "2"}}
    assert [execution["device_id"] for execution in everything] == [PUMP, VALVE]
    assert shown(succeeded, [expected]) == [expected]


@pytest.mark.usefixtures("job")
async def test_history_has_the_changes_of_a_job(door: Door) -> None:
    await door("PauseJob", **JOB, reason="why")

    events = await door("ListJobEvents", **JOB)

    expected = [{"type": "job.created"}, {"type": "job.paused", "reason": "why"}]
    assert shown(events, expected) == expected
    assert {event["user_id"] for event in events} == {"olivia"}


async def test_devices_and_groups_are_listed_previewed_and_deleted(
    door: Door, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["other"])
    await database.add_labels(tenant, {PUMP: {"model": "x200"}})

    by_label = await door("ListDevices", selector="model=x200")
    by_prefix = await door("ListDevices", device_id_prefix="oth")
    groups = await door("ListGroups", group_id_prefix="no")
    preview = await door("PreviewTarget", target_selector="group=north")
    deleted = await door("DeleteDevices", device_ids=[PUMP, "unknown"])

    expected = {"device_id": PUMP, "labels": {"model": "x200"}, "group_ids": ["north"]}
    assert shown(by_label, [expected]) == [expected]
    assert [device["device_id"] for device in by_prefix] == ["other"]
    assert groups == [{"group_id": "north", "device_count": 2}]
    assert (preview["device_count"], preview["device_ids"]) == (2, [PUMP, VALVE])
    assert deleted["deleted_count"] == 1


async def test_fleet_is_summarized_with_its_labels(world: World, door: Door) -> None:
    await world.database.add_labels(world.tenant, {PUMP: {"model": "x200"}})
    await door("CreateJob", **JOB, **REBOOT)
    await world.device(PUMP).update("j", "FAILED", failure_code="E1")

    summary = await door("GetFleetSummary")
    labels = await door("ListLabels")

    failure = {"status": "FAILED", "failure_code": "E1", "execution_count": 1, "job_ids": ["j"]}
    expected = {"device_count": 2, "jobs": {"in_progress": 1}, "failures": [failure]}
    assert shown(summary, expected) == expected
    model = {"key": "model", "values": [{"value": "x200", "device_count": 1}]}
    north = {"group_id": "north", "device_count": 2}
    expected = {"labels": [model], "groups": [north], "complete": True}
    assert shown(labels, expected) == expected


async def test_caller_is_the_one_who_called(door: Door, tenant: str) -> None:
    caller = await door("GetCaller")

    assert (caller["tenant_id"], caller["user_id"]) == (tenant, "olivia")
    assert "fleet.jobs.v1.JobService.GetCaller" in caller["methods"]


INVALID = StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"


@pytest.mark.parametrize(
    ("method", "fields", "error"),
    [
        ("CancelExecution", {"device_id": "x"}, (StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND")),
        ("CreateJob", {"target_device_id": "x"}, (StatusCode.NOT_FOUND, "DEVICE_NOT_FOUND")),
        (
            "CreateJob",
            {"target_group_id": "nort"},
            (StatusCode.FAILED_PRECONDITION, "GROUP_EMPTY", "target_group_id"),
        ),
        ("CreateJob", {"target_all": True, "job_id": "a/b"}, (*INVALID, "job_id")),
        (
            "CreateJob",
            {"target_all": True, "document_params": {"a": "\0"}},
            (*INVALID, "document_params.a"),
        ),
    ],
)
async def test_call_is_refused_with_its_reason_and_the_fields(
    door: Door, method: str, fields: dict[str, Any], error: Any
) -> None:
    if method == "CreateJob":
        fields = {"document_type": "reboot"} | fields
    with refused(*error):
        await door(method, **JOB | fields)


@pytest.mark.parametrize("exists_elsewhere", [False, True])
async def test_job_is_not_found(world: World, door: Door, exists_elsewhere: bool) -> None:
    """Neither one that does not exist, nor one of another tenant."""
    if exists_elsewhere:
        await world.database.add_devices(f"{world.tenant}-other", 1)
        await world.server.operator(f"{world.tenant}-other").create(job_id="j", target_all=True)
    fields: dict[str, Any] = {
        "UpdateJob": {"description": "x"},
        "RetryExecutions": {"statuses": ["FAILED"]},
    }

    assert await door("ListJobs") == []
    for method in (
        *("GetJob", "ListJobExecutions", "GetFailureSummary", "GetJobTimeline", "PauseJob"),
        *("ResumeJob", "AdvanceJob", "UpdateJob", "RetryExecutions", "CancelJob", "DeleteJob"),
    ):
        with refused(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            await door(method, **JOB, **fields.get(method, {}))
