"""Continuous jobs: devices that match the target later join them."""

from typing import Any

import pytest
from fleet.jobs.v1 import fleet_pb2 as fleet_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.events import EventLog
from tests.support.failures import expect_error, invalid_fields
from tests.support.joins import join
from tests.support.postgres import connected
from tests.support.rows_read import reads
from tests.support.world import World

NEW: dict[str, Any] = {"target_selector": "new=yes", "continuous": True}


async def register(world: World, *devices: str, new: str = "yes") -> None:
    updates = [fleet_pb.Device(device_id=device, labels={"new": new}) for device in devices]
    await world.fleet.update(*updates, mask=["labels"], allow_missing=True)


async def test_registered_device_joins(world: World, operator: Operator, log: EventLog) -> None:
    created = await world.create(**NEW)
    assert (created.execution_count, created.HasField("expires_at")) == (0, False)
    await register(world, "a", "c")
    await register(world, "b", new="no")
    await log.skip()

    assert await join(world, "a", "b", "missing") == 1
    assert await join(world, "a", "b") == 0
    assert await join(world) == 1  # a full range

    job = await operator.get("j")
    assert (job.continuous, job.joins.joined_count, job.total_executions) == (True, 2, 2)
    assert job.joins.last_joined_at == job.executions[1].queued_at
    assert await operator.status("j") == "IN_PROGRESS"
    joined = await log.new()
    assert [(e.type, e.details) for e in joined] == [
        ("job.devices_joined", {"joined_count": 1})
    ] * 2
    assert await world.create(**NEW) == created
    explained = await operator.explain("j", "c")
    assert explained.joined_at == explained.execution.queued_at

    for device in ("a", "c"):
        await world.device(device).update("j", "SUCCEEDED")
    assert await operator.status("j") == "IN_PROGRESS"
    await operator.update("j", "continuous")
    job = await operator.get("j")
    assert (job.status, job.continuous, job.joins.joined_count) == (pb.Job.COMPLETED, False, 2)
    await register(world, "d")
    assert await join(world, "d") is None


async def test_empty_stages_pass_at_once(world: World, operator: Operator) -> None:
    await world.create_staged({"percent": 10}, {"remainder": True}, **NEW)
    await register(world, "a")
    await join(world)
    job = await operator.get("j")
    assert [stage.state for stage in job.stages] == [pb.JobStage.PASSED, pb.JobStage.OPEN]
    assert await operator.counts("j") == {"queued": 1}

    rollout = pb.Rollout(stages=[pb.Stage(selector="site=x"), pb.Stage(remainder=True)])
    for validate_only in (True, False):
        empty = operator.create(job_id="e", rollout=rollout, validate_only=validate_only, **NEW)
        await expect_error("STAGE_EMPTY", empty)


async def test_brake_lets_exactly_the_limit_join_and_pauses_the_job(
    world: World, operator: Operator, log: EventLog
) -> None:
    await world.create(max_joins_per_hour=3, **NEW)
    await register(world, *"abcde")
    assert await join(world, "a") == 1
    assert await join(world, "b") == 1
    assert await join(world) == 1
    assert await join(world) == 0

    job = await operator.get("j")
    assert (job.pause.cause, job.joins.behind, job.joins.joined_count) == (pb.Pause.JOINS, True, 3)
    assert "3 that may join in an hour" in job.pause.reason
    await world.pass_time(7200)
    assert await join(world) == 0

    await operator.resume("j")
    assert (await operator.get("j")).joins.behind
    rescan = "SELECT rescan_at <= jobs.now() FROM jobs.continuous_jobs WHERE tenant_id = $1"
    assert await world.owner_value(rescan)
    assert await join(world) == 2
    # The third of the hour; without more candidates, the brake stays open.
    await register(world, "f")
    assert await join(world) == 1
    assert await operator.status("j") == "IN_PROGRESS"


async def test_brake_only_marks_a_paused_job_and_begins_a_new_hour(
    world: World, operator: Operator
) -> None:
    await world.create(max_joins_per_hour=1, **NEW)
    await operator.pause("j", reason="lunch")
    paused = (await operator.get("j")).pause
    await register(world, "a", "b")
    assert await join(world) == 1

    job = await operator.get("j")
    assert (job.pause, job.joins.behind) == (paused, True)
    assert [wait.kind for wait in job.waits_for] == [pb.JobWait.RESUME, pb.JobWait.JOINS_LIMIT]
    await operator.resume("j")
    assert await join(world) == 1
    await world.pass_time(3601)
    await register(world, "c")
    assert await join(world) == 1


async def test_default_brake_is_5_percent_of_the_devices(world: World, operator: Operator) -> None:
    await world.add_devices(2400)
    await world.create(target_all=True, continuous=True)
    await world.add_devices(f"e{n}" for n in range(200))
    assert await join(world) == 120


async def test_joins_stop_at_the_maximum_of_targets(world: World, operator: Operator) -> None:
    await world.create(**NEW)
    await register(world, *"abcd")
    assert await join(world, max_targets=2) == 2
    async with world.lock_held():  # a full job takes no lock
        assert await join(world, max_targets=2, wait_ms=1) == 0

    job = await operator.get("j")
    assert (job.status, job.waits_for[0].kind) == (pb.Job.IN_PROGRESS, pb.JobWait.JOINS_LIMIT)
    assert await join(world, max_targets=4) == 2
    assert not (await operator.get("j")).waits_for


async def test_deleted_device_gets_its_execution_back(world: World, operator: Operator) -> None:
    await register(world, "a", "b")
    await world.create(max_joins_per_hour=1, **NEW)
    await world.device("b").start("j")
    await world.fleet.delete("a", "b")
    assert await join(world) == 0
    await register(world, "a", "b")

    assert await join(world) == 1  # not b, which is IN_PROGRESS

    a, _ = (await operator.get("j")).executions
    assert (a.status, a.execution_number) == (pb.JobExecution.QUEUED, 2)
    (_, first) = await operator.attempts("j", "a")
    assert (first.status, first.end_cause) == (
        pb.JobExecution.REJECTED,
        pb.JobExecution.DEVICE_DELETED,
    )
    assert (await operator.get("j")).joins.joined_count == 0
    await register(world, "c")
    assert await join(world) == 0
    assert await operator.status("j") == "PAUSED"


@pytest.mark.single_node("counts the rows that the session itself reads")
async def test_device_that_joins_again_does_not_read_the_others_that_are_gone(world: World) -> None:
    devices = [f"d{n}" for n in range(50)]
    await register(world, *devices)
    await world.create(**NEW)
    await world.fleet.delete(*devices)
    await register(world, "d0")
    call = "SELECT * FROM jobs.join_devices($1, 'j', '{d0}', NULL, NULL, 1000, 1000)"
    async with connected(world.database.request_dsn) as connection:
        joined = await reads(connection, connection.fetch(call, world.tenant))
    assert (joined["job_executions_rejected"], joined["job_executions_pkey"] < 20) == (0, True)


async def test_criterion_trips_when_devices_join_and_fail_one_by_one(
    world: World, operator: Operator
) -> None:
    """Pause at 5 %, when no device is pending."""
    criterion = pb.FailureCriterion(percent=5, min_finished=20, action=pb.FailureCriterion.PAUSE)
    await world.create(failure_criteria=[criterion], **NEW)
    for n in range(20):
        await register(world, f"d{n}")
        assert await join(world, f"d{n}") == 1
        await world.device(f"d{n}").update("j", "FAILED" if n == 19 else "SUCCEEDED")
    assert (await operator.get("j")).pause.cause == pb.Pause.FAILURE_CRITERION


async def test_join_pauses_a_job_whose_gate_has_failed(world: World, operator: Operator) -> None:
    await register(world, "a")
    gate = pb.Gate(min_succeeded_percent=100)
    await world.create_staged({"device_count": 1, "gate": gate}, {"remainder": True}, **NEW)
    await world.device("a").update("j", "FAILED")
    assert await operator.status("j") == "IN_PROGRESS"
    await register(world, "b")
    assert await join(world) == 1
    assert (await operator.get("j")).pause.cause == pb.Pause.GATE_NOT_MET


async def test_expired_job_is_not_continuous(world: World, operator: Operator) -> None:
    await register(world, "a")
    await world.create(expires_in_hours=1, **NEW)
    await world.expire()
    assert not (await operator.get("j")).continuous
    await operator.retry("j", "TIMED_OUT", never_expires=True)
    assert not (await operator.get("j")).continuous
    await register(world, "b")
    assert await join(world) is None
    await world.device("a").update("j", "SUCCEEDED")
    assert await operator.status("j") == "COMPLETED"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"target_device_id": "a", "continuous": True}, "continuous"),
        ({"target_device_ids": ["a"], "continuous": True}, "continuous"),
        ({"target_failed_in": pb.FailedIn(job_id="o"), "continuous": True}, "continuous"),
        ({"max_joins_per_hour": 1}, "max_joins_per_hour"),
        (
            {"rollout": pb.Rollout(stages=[pb.Stage(percent=50), pb.Stage(percent=50)]), **NEW},
            "rollout.stages[1]",
        ),
    ],
)
async def test_create_is_rejected(world: World, fields: dict[str, Any], field: str) -> None:
    if "target_device_ids" in fields:
        fields = fields | {"target_device_ids": pb.DeviceIds(device_ids=["a"])}
    assert await invalid_fields(world.create(**fields)) == [field]


async def test_only_continuous_jobs_can_change_their_joins(
    world: World, operator: Operator, ten_devices: None
) -> None:
    await world.create("fixed")
    await operator.update("fixed", "continuous")
    assert await invalid_fields(operator.update("fixed", "continuous", continuous=True)) == [
        "continuous"
    ]
    assert await invalid_fields(
        operator.update("fixed", "max_joins_per_hour", max_joins_per_hour=1)
    ) == ["max_joins_per_hour"]
    await world.create(**NEW)
    job = await operator.update(
        "j", "continuous", "max_joins_per_hour", continuous=True, max_joins_per_hour=7
    )
    assert (job.continuous, job.max_joins_per_hour) == (True, 7)


async def test_tenant_has_at_most_20_continuous_jobs(world: World, operator: Operator) -> None:
    names = [f"j{n}" for n in range(20)]
    await world.create(*names, **NEW)
    for validate_only in (True, False):
        await expect_error("LIMIT_EXCEEDED", world.create(validate_only=validate_only, **NEW))
    await world.create("j", replaces_job_id="j3", **NEW)
    assert await operator.status("j3") == "CANCELED"
    await operator.update("j4", "continuous")
    await world.create("k", **NEW)
    await expect_error("LIMIT_EXCEEDED", world.create("l", **NEW))
    assert (
        await world.owner_value("SELECT count(*) FROM jobs.continuous_jobs WHERE tenant_id = $1")
        == 20
    )


async def test_preview_warns_of_facts_that_are_not_reported_yet(
    world: World, operator: Operator
) -> None:
    for selector, count in (("fact.v!=2,model!=x", 1), ("fact.v,fact.v!=2", 0)):
        preview = operator.create(validate_only=True, target_selector=selector, continuous=True)
        hints = list((await preview).preview.hints)
        assert [hint for hint in hints if "fact.v" in hint] == hints[:count]


async def test_preview_of_an_empty_target_names_what_may_be_wrong(
    world: World, operator: Operator
) -> None:
    await register(world, "a")
    rollout = pb.Rollout(stages=[pb.Stage(percent=10), pb.Stage(remainder=True)])
    target = {"target_selector": "neww=yes", "rollout": rollout}
    response = await operator.create(validate_only=True, continuous=True, **target)
    assert list(response.preview.hints) == [
        "no device has the label neww; did you mean new?",
        "empty stages pass at once: devices that join later have no canary",
    ]


async def test_full_job_stays_full_when_a_removed_device_joins_again(world: World) -> None:
    await world.add_devices(["a"])
    await world.create(target_all=True, continuous=True)
    await world.fleet.delete("a")
    await world.add_devices(["b"])
    assert await join(world, max_targets=1) == 0
    await world.add_devices(["a"])
    assert await join(world, "a", max_targets=1) == 1
    is_full = "SELECT is_full FROM jobs.continuous_jobs WHERE tenant_id = $1"
    assert await world.owner_value(is_full) is True
