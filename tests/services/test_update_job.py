"""UpdateJob: its update_mask, the settings it changes, and what it must not change."""

from collections.abc import Sequence
from datetime import UTC, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.support.callers import Device
from tests.support.failures import expect_error, invalid_fields
from tests.support.world import World

CRITERION = pb.FailureCriterion

STAGES: Sequence[pb.Stage] = (
    pb.Stage(display_name="canary", device_count=2),
    pb.Stage(display_name="some", percent=50, gate=pb.Gate(min_succeeded_percent=90)),
    pb.Stage(display_name="rest", remainder=True),
)


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    await world.add_devices([f"d{n}" for n in range(10)])


async def create(world: World, *stages: pb.Stage, **fields: Any) -> None:
    """Create job "j"; with stages, it has a rollout."""
    await world.create(**(staged(*stages) if stages else {}), **fields)


async def update_stages(world: World, *stages: pb.Stage) -> pb.Job:
    return await world.operator.update("j", "rollout.stages", **staged(*stages))


async def update_criteria(world: World, *criteria: pb.FailureCriterion) -> pb.Job:
    return await world.operator.update("j", "failure_criteria", failure_criteria=criteria)


async def fail(world: World, *devices: str, **fields: Any) -> None:
    for device in devices:
        await world.device(device).update("j", "FAILED", **fields)


def changed(stage: pb.Stage, **fields: Any) -> pb.Stage:
    """A copy of a stage with other values of some fields."""
    copy = pb.Stage()
    copy.CopyFrom(stage)
    for name in fields:
        copy.ClearField(name)  # type: ignore[arg-type]
    copy.MergeFrom(pb.Stage(**fields))
    return copy


async def release(world: World) -> tuple[Any, ...]:
    """release_end, release_base, release_rate, and release_since of job "j"."""
    columns = "release_end, release_base, release_rate, release_since"
    (row,) = await world.rows(f"SELECT {columns} FROM jobs.jobs WHERE tenant_id = $1")
    return tuple(row)


async def first_devices(world: World, job_id: str = "j") -> list[Device]:
    sql = (
        "SELECT device_id FROM jobs.job_executions WHERE tenant_id = $1 AND job_id = $2"
        " ORDER BY rank LIMIT 2"
    )
    return [world.device(row["device_id"]) for row in await world.rows(sql, job_id)]


@pytest.mark.parametrize(
    "paths",
    [(), ("rollout",), ("document_type",), ("failure_criteria", "rollout.seed"), ("\0",), ("*",)],
)
async def test_mask_must_name_fields_that_can_change(world: World, paths: Sequence[str]) -> None:
    assert await invalid_fields(world.operator.update("j", *paths)) == ["update_mask"]


def staged(*stages: pb.Stage, **fields: Any) -> dict[str, Any]:
    """The field rollout of a request."""
    return {"rollout": pb.Rollout(stages=stages, **fields)}


CRITERIA = [CRITERION(count=1), CRITERION(percent=101), CRITERION(count=1, scope=CRITERION.STAGE)]


@pytest.mark.parametrize(
    ("mask", "fields", "path"),
    [
        ("in_progress_timeout_minutes", {"in_progress_timeout_minutes": 0}, ""),
        ("failure_criteria", {"failure_criteria": CRITERIA[:2]}, "[1].percent"),
        ("rollout.max_in_progress", staged(max_in_progress=0), ""),
        ("rollout.stages", staged(pb.Stage(percent=30), pb.Stage(percent=80)), "[1].percent"),
        ("rollout.stages", {}, ""),
        # The job has no rollout.
        ("rollout.max_in_progress", {}, ""),
        ("rollout.stages", staged(*STAGES), ""),
        ("failure_criteria", {"failure_criteria": CRITERIA[::2]}, "[1].scope"),
    ],
)
async def test_fields_of_the_mask_are_checked(
    world: World, mask: str, fields: dict[str, Any], path: str
) -> None:
    await create(world)

    assert await invalid_fields(world.operator.update("j", mask, **fields)) == [mask + path]


async def test_fields_outside_the_mask_are_ignored(world: World) -> None:
    await create(world, in_progress_timeout_minutes=5)

    others = {"in_progress_timeout_minutes": 9, "rollout": pb.Rollout(max_in_progress=-1)}
    job = await world.operator.update("j", "failure_criteria", **others)

    assert job.in_progress_timeout_minutes == 5


async def test_timeout_applies_to_executions_that_start_later(world: World) -> None:
    await create(world, in_progress_timeout_minutes=5)
    early = await world.device("d0").start("j")
    field = "in_progress_timeout_minutes"

    job = await world.operator.update("j", field, in_progress_timeout_minutes=30)

    assert job.in_progress_timeout_minutes == 30
    late = await world.device("d1").start("j")
    assert late.times_out_at.seconds - late.started_at.seconds == 30 * 60
    assert (await world.device("d0").get("j")).times_out_at == early.times_out_at
    unlimited = await world.operator.update("j", field)
    assert not unlimited.HasField("in_progress_timeout_minutes")


@pytest.mark.parametrize("minutes", [{}, {"in_progress_timeout_minutes": 5}])
async def test_updates_leave_the_request_of_create(world: World, minutes: dict[str, int]) -> None:
    fields: dict[str, Any] = {"failure_criteria": [CRITERION(count=3)], **minutes}
    await create(world, *STAGES, **fields)
    for other in (7, 8):
        await world.operator.update(
            "j",
            *("in_progress_timeout_minutes", "failure_criteria", "rollout.max_in_progress"),
            in_progress_timeout_minutes=other,
            rollout=pb.Rollout(max_in_progress=3),
        )

    await create(world, *STAGES, **fields)

    updated = fields | {"in_progress_timeout_minutes": 8}
    await expect_error("JOB_ALREADY_EXISTS", create(world, *STAGES, **updated))


async def test_etag_changes_and_an_old_one_is_rejected(world: World) -> None:
    await create(world)
    before = await world.operator.get("j")

    job = await world.operator.update("j", "failure_criteria", etag=before.etag)

    assert job.etag != before.etag
    assert job.updated_at == before.updated_at
    update = world.operator.update("j", "failure_criteria", etag=before.etag)
    await expect_error("JOB_CHANGED", update)


async def test_second_update_with_the_same_etag_is_rejected_when_both_wait(world: World) -> None:
    await create(world)
    etag = (await world.operator.get("j")).etag
    updates = [world.operator.update("j", "failure_criteria", etag=etag) for _ in range(2)]

    first, second = await world.lock_in_order(*updates)

    await first
    await expect_error("JOB_CHANGED", second)


async def test_finished_job_cannot_be_updated(world: World) -> None:
    await expect_error("JOB_NOT_FOUND", update_criteria(world))
    await create(world)
    await world.operator.cancel("j")

    failure = await expect_error("JOB_NOT_UPDATABLE", update_criteria(world))

    assert failure.metadata == {"jobId": "j", "status": "CANCELED"}


async def test_lower_threshold_keeps_the_count_and_trips_at_once(world: World) -> None:
    await create(world, failure_criteria=[CRITERION(count=5)])
    await fail(world, "d0", "d1")

    job = await update_criteria(
        world,
        CRITERION(count=9, statuses=[pb.JobExecution.FAILED]),
        CRITERION(percent=20, basis=CRITERION.TARGETED, action=CRITERION.CANCEL),
    )

    assert job.status == pb.Job.CANCELED
    assert job.cancel_reason == "2 of 10 targeted executions failed (cancel at 20%)"


async def test_max_in_progress_applies_at_once(world: World) -> None:
    await create(world, pb.Stage(remainder=True))
    await world.device("d0").start("j")
    field = "rollout.max_in_progress"
    await world.operator.update("j", field, **staged(max_in_progress=1))

    await expect_error("JOB_FULL", world.device("d1").start("j"))

    await world.operator.update("j", field)
    await world.device("d1").start("j")


FIXED = [
    ("rollout.stages", lambda s: s[1:]),
    ("rollout.stages[0].device_count", lambda s: [changed(s[0], device_count=3), *s[1:]]),
    ("rollout.stages[1].percent", lambda s: [s[0], changed(s[1], percent=40), s[2]]),
    ("rollout.stages[1].group_id", lambda s: [s[0], changed(s[1], group_id="g"), s[2]]),
    ("rollout.stages[2].device_count", lambda s: [*s[:2], changed(s[2], device_count=9)]),
    (
        "rollout.stages[1].gate.require_approval",
        lambda s: [s[0], changed(s[1], gate=pb.Gate(require_approval=True)), s[2]],
    ),
]


@pytest.mark.parametrize(("path", "change"), FIXED, ids=[path for path, _ in FIXED])
async def test_sizes_and_approvals_of_stages_stay(world: World, path: str, change: Any) -> None:
    await create(world, *STAGES)

    update = update_stages(world, *change(list(STAGES)))
    failure = await expect_error("INVALID_FIELD", update)

    problem = (
        "must have 3 stages, as the job has" if path == "rollout.stages" else "must not change"
    )
    assert failure.violations == {path: f"{path} {problem}"}


async def test_rate_of_the_open_stage_continues_from_what_is_released(world: World) -> None:
    slow = pb.Stage(remainder=True, releases_per_minute=2)
    await create(world, slow)
    await world.pass_time(90)

    await update_stages(world, changed(slow, releases_per_minute=1))

    end, base, rate, since = await release(world)
    assert (end, base, rate) == (10, 3, 1)
    assert (await world.time_in(-60)).ToDatetime(UTC) < since
    # The same rate again changes nothing.
    await update_stages(world, changed(slow, releases_per_minute=1))
    assert await release(world) == (end, base, rate, since)
    # No rate: all.
    await update_stages(world, pb.Stage(remainder=True))
    assert (await release(world))[:3] == (10, 3, None)
    await update_stages(world, slow)
    assert (await release(world))[:3] == (10, 10, 2)


async def test_time_gate_needs_background_work(world: World) -> None:
    await create(world, *STAGES)

    gate = pb.Gate(bake_time=Duration(seconds=60))
    update = update_stages(world, changed(STAGES[0], gate=gate), *STAGES[1:])
    await expect_error("TIME_GATES_UNAVAILABLE", update)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("display_name", {"display_name": "other"}),
        ("releases_per_minute", {"releases_per_minute": 1}),
        ("gate", {"gate": pb.Gate(min_succeeded_percent=1)}),
    ],
)
async def test_update_is_rejected_when_stage_has_passed(
    world: World, field: str, change: dict[str, Any]
) -> None:
    await create(world, *STAGES)
    await world.operator.advance("j")

    update = update_stages(world, changed(STAGES[0], **change), *STAGES[1:])
    failure = await expect_error("INVALID_FIELD", update)

    path = f"rollout.stages[0].{field}"
    assert failure.violations == {path: f"{path} must not change: the stage has passed"}
    await update_stages(world, *STAGES)  # the same


async def test_changed_gate_opens_the_next_stage_now_or_at_the_resume(world: World) -> None:
    strict, lax = [
        pb.Stage(device_count=2, gate=pb.Gate(min_succeeded_percent=percent))
        for percent in (100, 50)
    ]
    some, rest = STAGES[1:]
    await create(world, strict, some, rest)
    succeeds, fails = await first_devices(world)
    await succeeds.update("j", "SUCCEEDED")
    assert (await release(world))[0] == 2

    await update_stages(world, lax, some, rest)
    assert (await release(world))[0] == 7

    await world.create("k", **staged(strict, rest))
    succeeds, fails = await first_devices(world, "k")
    await succeeds.update("k", "SUCCEEDED")
    await fails.update("k", "FAILED")
    assert await world.operator.status("k") == "PAUSED"
    await expect_error("GATE_NOT_MET", world.operator.resume("k"))
    await world.operator.update("k", "rollout.stages", **staged(lax, rest))
    resumed = await world.operator.resume("k")
    assert resumed.status == pb.Job.IN_PROGRESS
    assert [stage.state for stage in resumed.stages] == [pb.JobStage.PASSED, pb.JobStage.OPEN]


async def test_changed_time_of_a_gate_moves_the_time_at_which_it_opens(world: World) -> None:
    due_at = "SELECT stage_due_at - created_at FROM jobs.jobs WHERE tenant_id = $1"
    slow, fast = [
        changed(STAGES[0], gate=pb.Gate(advance_after=Duration(seconds=seconds)))
        for seconds in (600, 300)
    ]
    async with world.with_background_work() as other:
        await create(other, slow, *STAGES[1:])
        assert await world.owner_value(due_at) == timedelta(minutes=10)

        await update_stages(other, fast, *STAGES[1:])

        assert await world.owner_value(due_at) == timedelta(minutes=5)
        await update_stages(other, *STAGES)
        assert await world.owner_value(due_at) is None
