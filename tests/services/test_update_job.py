"""UpdateJob: its update_mask, the settings it changes, and what it must not change."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import floor
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held, moved_back
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server

INVALID_ARGUMENT = StatusCode.INVALID_ARGUMENT
FAILED_PRECONDITION = StatusCode.FAILED_PRECONDITION
CRITERION = pb.FailureCriterion

STAGES: Sequence[pb.Stage] = (
    pb.Stage(display_name="canary", device_count=2),
    pb.Stage(display_name="some", percent=50, gate=pb.Gate(min_succeeded_percent=90)),
    pb.Stage(display_name="rest", remainder=True),
)


@pytest.fixture
async def devices(database: Database, operator: Operator) -> list[str]:
    """Ten devices."""
    names = [f"d{n}" for n in range(10)]
    await database.add_devices(operator.tenant, names)
    return names


async def create(operator: Operator, *stages: pb.Stage, **fields: Any) -> None:
    """Create job "j" for all devices; with stages, it has a rollout."""
    if stages:
        fields["rollout"] = pb.Rollout(stages=stages)
    await operator.create(job_id="j", target_all=True, **fields)


async def update_stages(operator: Operator, *stages: pb.Stage) -> pb.Job:
    """Change the stages of job "j"."""
    return await operator.update("j", "rollout.stages", rollout=pb.Rollout(stages=stages))


def changed(stage: pb.Stage, **fields: Any) -> pb.Stage:
    """A copy of a stage with other values of some fields."""
    copy = pb.Stage()
    copy.CopyFrom(stage)
    for name in fields:
        copy.ClearField(name)  # type: ignore[arg-type]
    copy.MergeFrom(pb.Stage(**fields))
    return copy


async def release(database: Database, operator: Operator) -> tuple[Any, ...]:
    """release_end, release_base, release_rate, and release_since of job "j"."""
    row = await database.owner.fetchrow(
        "SELECT release_end, release_base, release_rate, release_since FROM jobs.jobs"
        " WHERE tenant_id = $1",
        operator.tenant,
    )
    assert row is not None
    return tuple(row)


async def paused_since(database: Database, operator: Operator) -> datetime:
    """When job "j" was paused."""
    paused_at: datetime = await database.owner.fetchval(
        "SELECT paused_at FROM jobs.jobs WHERE tenant_id = $1", operator.tenant
    )
    return paused_at


async def first_device(database: Database, operator: Operator) -> str:
    """The device that is released first."""
    device: str = await database.owner.fetchval(
        "SELECT device_id FROM jobs.job_executions WHERE tenant_id = $1 AND rank = 1",
        operator.tenant,
    )
    return device


@pytest.mark.parametrize(
    "paths",
    [(), ("rollout",), ("document_type",), ("failure_criteria", "rollout.seed"), ("\0",), ("*",)],
)
async def test_mask_must_name_fields_that_can_change(
    operator: Operator, paths: Sequence[str]
) -> None:
    with expect_failure(INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.update("j", *paths)

    assert [*failure.violations] == ["update_mask"]


@pytest.mark.parametrize(
    ("paths", "fields", "path"),
    [
        (
            ["in_progress_timeout_minutes"],
            {"in_progress_timeout_minutes": 0},
            "in_progress_timeout_minutes",
        ),
        (
            ["failure_criteria"],
            {"failure_criteria": [CRITERION(count=1), CRITERION(percent=101)]},
            "failure_criteria[1].percent",
        ),
        (
            ["rollout.max_in_progress"],
            {"rollout": pb.Rollout(max_in_progress=0)},
            "rollout.max_in_progress",
        ),
        (
            ["rollout.stages"],
            {"rollout": pb.Rollout(stages=[pb.Stage(percent=30), pb.Stage(percent=80)])},
            "rollout.stages[1].percent",
        ),
        (["rollout.stages"], {}, "rollout.stages"),
    ],
)
async def test_fields_of_the_mask_are_checked(
    operator: Operator, paths: Sequence[str], fields: dict[str, Any], path: str
) -> None:
    with expect_failure(INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.update("j", *paths, **fields)

    assert [*failure.violations] == [path]


@pytest.mark.usefixtures("devices")
async def test_fields_outside_the_mask_are_ignored(operator: Operator) -> None:
    await create(operator, in_progress_timeout_minutes=5)

    job = await operator.update(
        "j",
        "failure_criteria",
        in_progress_timeout_minutes=9,
        failure_criteria=[CRITERION(count=1)],
        rollout=pb.Rollout(max_in_progress=-1),
    )

    assert job.in_progress_timeout_minutes == 5


@pytest.mark.usefixtures("devices")
async def test_timeout_applies_to_executions_that_start_later(
    server: Server, operator: Operator
) -> None:
    await create(operator, in_progress_timeout_minutes=5)
    early = await server.device(operator.tenant, "d0").start("j")

    job = await operator.update("j", "in_progress_timeout_minutes", in_progress_timeout_minutes=30)

    assert job.in_progress_timeout_minutes == 30
    late = await server.device(operator.tenant, "d1").start("j")
    assert late.times_out_at.seconds - late.started_at.seconds == 30 * 60
    same = await server.device(operator.tenant, "d0").get("j")
    assert same.times_out_at == early.times_out_at
    job = await operator.update("j", "in_progress_timeout_minutes")
    assert not job.HasField("in_progress_timeout_minutes")


@pytest.mark.parametrize("fields", [{}, {"in_progress_timeout_minutes": 5}])
@pytest.mark.usefixtures("devices")
async def test_create_is_safe_to_repeat_after_updates(
    operator: Operator, fields: dict[str, int]
) -> None:
    """The repeated request is compared with the first one, not with the updated job."""
    criteria = [CRITERION(count=3)]
    await create(operator, *STAGES, failure_criteria=criteria, **fields)
    for minutes in (7, 8):
        await operator.update(
            "j",
            *("in_progress_timeout_minutes", "failure_criteria", "rollout.max_in_progress"),
            in_progress_timeout_minutes=minutes,
            rollout=pb.Rollout(max_in_progress=3),
        )

    await create(operator, *STAGES, failure_criteria=criteria, **fields)

    with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
        await create(operator, *STAGES, failure_criteria=criteria, in_progress_timeout_minutes=8)


@pytest.mark.usefixtures("devices")
async def test_etag_changes_and_an_old_one_is_rejected(operator: Operator) -> None:
    await create(operator)
    before = await operator.get("j")

    job = await operator.update("j", "failure_criteria", etag=before.etag)

    assert job.etag != before.etag
    assert job.updated_at == before.updated_at
    with expect_failure(StatusCode.ABORTED, "JOB_CHANGED"):
        await operator.update("j", "failure_criteria", etag=before.etag)


@pytest.mark.usefixtures("devices")
async def test_second_update_with_the_same_etag_is_rejected_when_both_wait(
    database: Database, operator: Operator
) -> None:
    await create(operator)
    etag = (await operator.get("j")).etag

    async with job_lock_held(database, operator.tenant, "j"):
        first = asyncio.create_task(operator.update("j", "failure_criteria", etag=etag))
        await database.wait_for_blocked_sessions(1)
        second = asyncio.create_task(operator.update("j", "failure_criteria", etag=etag))
        await database.wait_for_blocked_sessions(2)

    await first
    with expect_failure(StatusCode.ABORTED, "JOB_CHANGED"):
        await second


@pytest.mark.usefixtures("devices")
async def test_finished_job_cannot_be_updated(operator: Operator) -> None:
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await operator.update("j", "failure_criteria")
    await create(operator)
    await operator.cancel("j")

    with expect_failure(FAILED_PRECONDITION, "JOB_NOT_UPDATABLE") as failure:
        await operator.update("j", "failure_criteria")

    assert failure.metadata == {"jobId": "j", "status": "CANCELED"}


@pytest.mark.usefixtures("devices")
async def test_lower_threshold_keeps_the_count_and_trips_at_once(
    server: Server, operator: Operator
) -> None:
    await create(operator, failure_criteria=[CRITERION(count=5)])
    for device in ("d0", "d1"):
        await server.device(operator.tenant, device).update("j", "FAILED")

    job = await operator.update(
        "j",
        "failure_criteria",
        failure_criteria=[
            CRITERION(count=9, statuses=[pb.JobExecution.FAILED]),
            CRITERION(percent=20, basis=CRITERION.TARGETED, action=CRITERION.CANCEL),
        ],
    )

    assert job.status == pb.Job.CANCELED
    assert job.cancel_reason == ("2 of 10 targeted executions failed (cancel at 20%)")


@pytest.mark.parametrize("change", [{"statuses": ["FAILED"]}, {"failure_codes": [""]}])
@pytest.mark.usefixtures("devices")
async def test_other_failures_are_counted_from_the_update(
    server: Server, operator: Operator, change: dict[str, Any]
) -> None:
    await create(operator, failure_criteria=[CRITERION(count=5)])
    for device in ("d0", "d1", "d2"):
        await server.device(operator.tenant, device).update("j", "FAILED")

    criteria = [CRITERION(percent=50, min_finished=2, **change)]
    job = await operator.update("j", "failure_criteria", failure_criteria=criteria)

    assert job.status == pb.Job.IN_PROGRESS
    # A retry takes back nothing that the new criterion counted.
    await operator.retry("j", "FAILED", device_ids=["d0", "d1"])
    await server.device(operator.tenant, "d0").update("j", "SUCCEEDED")
    await server.device(operator.tenant, "d1").update("j", "SUCCEEDED")
    await server.device(operator.tenant, "d3").update("j", "FAILED")
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS
    await server.device(operator.tenant, "d4").update("j", "FAILED")
    assert (await operator.get("j")).pause.reason == (
        "2 of 4 finished executions failed (pause at 50%)"
    )


@pytest.mark.usefixtures("devices")
async def test_criteria_can_be_added_and_removed(server: Server, operator: Operator) -> None:
    await create(operator)
    await server.device(operator.tenant, "d0").update("j", "FAILED")
    await operator.update("j", "failure_criteria", failure_criteria=[CRITERION(count=1)])
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS

    await operator.update("j", "failure_criteria")
    await server.device(operator.tenant, "d1").update("j", "FAILED")
    assert (await operator.get("j")).status == pb.Job.IN_PROGRESS

    await operator.update("j", "failure_criteria", failure_criteria=[CRITERION(count=1)])
    await server.device(operator.tenant, "d2").update("j", "FAILED")
    assert (await operator.get("j")).status == pb.Job.PAUSED


@pytest.mark.usefixtures("devices")
async def test_criteria_with_the_same_failures_share_their_count(
    server: Server, operator: Operator
) -> None:
    """Also if one of them is added and the order changes."""
    await create(operator, failure_criteria=[CRITERION(count=4)])
    for device in ("d0", "d1"):
        await server.device(operator.tenant, device).update("j", "FAILED")
    criteria = [
        CRITERION(count=9, action=CRITERION.FORCE_CANCEL),
        CRITERION(count=9, failure_codes=["E1"]),
        CRITERION(count=3, action=CRITERION.PAUSE),
    ]
    await operator.update("j", "failure_criteria", failure_criteria=criteria)

    await server.device(operator.tenant, "d2").update("j", "FAILED", failure_code="E1")

    assert (await operator.get("j")).pause.reason == ("3 executions failed (pause at 3)")


@pytest.mark.usefixtures("devices")
async def test_threshold_of_a_paused_job_is_checked_after_the_resume(
    server: Server, operator: Operator
) -> None:
    await create(operator, failure_criteria=[CRITERION(count=5)])
    await server.device(operator.tenant, "d0").update("j", "FAILED")
    await operator.pause("j", reason="r")

    job = await operator.update("j", "failure_criteria", failure_criteria=[CRITERION(count=1)])

    assert job.pause.reason == "r"
    assert (await operator.resume("j")).status == pb.Job.IN_PROGRESS
    await server.device(operator.tenant, "d1").update("j", "FAILED")
    assert (await operator.get("j")).status == pb.Job.PAUSED


@pytest.mark.parametrize(
    ("paths", "fields", "path"),
    [
        (["rollout.max_in_progress"], {}, "rollout.max_in_progress"),
        (["rollout.stages"], {"rollout": pb.Rollout(stages=STAGES)}, "rollout.stages"),
        (
            ["failure_criteria"],
            {"failure_criteria": [CRITERION(count=1), CRITERION(count=1, scope=CRITERION.STAGE)]},
            "failure_criteria[1].scope",
        ),
    ],
)
@pytest.mark.usefixtures("devices")
async def test_rollout_cannot_be_added(
    operator: Operator, paths: Sequence[str], fields: dict[str, Any], path: str
) -> None:
    await create(operator)

    with expect_failure(INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.update("j", *paths, **fields)

    assert [*failure.violations] == [path]


@pytest.mark.usefixtures("devices")
async def test_max_in_progress_applies_at_once(server: Server, operator: Operator) -> None:
    await create(operator, pb.Stage(remainder=True))
    await server.device(operator.tenant, "d0").start("j")
    await operator.update("j", "rollout.max_in_progress", rollout=pb.Rollout(max_in_progress=1))

    with expect_failure(FAILED_PRECONDITION, "JOB_FULL"):
        await server.device(operator.tenant, "d1").start("j")

    await operator.update("j", "rollout.max_in_progress")
    await server.device(operator.tenant, "d1").start("j")


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
@pytest.mark.usefixtures("devices")
async def test_sizes_and_approvals_of_stages_are_fixed(
    operator: Operator, path: str, change: Any
) -> None:
    await create(operator, *STAGES)

    with expect_failure(INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await update_stages(operator, *change(list(STAGES)))

    problem = (
        "must have 3 stages, as the job has" if path == "rollout.stages" else "must not change"
    )
    assert failure.violations == {path: f"{path} {problem}"}


@pytest.mark.usefixtures("devices")
async def test_rate_of_the_open_stage_continues_from_what_is_released(
    database: Database, operator: Operator
) -> None:
    slow = pb.Stage(remainder=True, releases_per_minute=2)
    await create(operator, slow)
    await database.pass_time(90)

    await update_stages(operator, changed(slow, releases_per_minute=1))

    end, base, rate, since = await release(database, operator)
    assert (end, base, rate) == (10, 3, 1)
    assert await database.owner.fetchval("SELECT jobs.now() - $1 < interval '1 minute'", since)
    # The same rate again changes nothing.
    await update_stages(operator, changed(slow, releases_per_minute=1))
    assert await release(database, operator) == (end, base, rate, since)
    # No rate: all.
    await update_stages(operator, pb.Stage(remainder=True))
    assert (await release(database, operator))[:3] == (10, 3, None)
    await update_stages(operator, slow)
    assert (await release(database, operator))[:3] == (10, 10, 2)


@pytest.mark.usefixtures("devices")
async def test_rate_of_a_paused_job_starts_at_the_pause(
    database: Database, operator: Operator
) -> None:
    slow = pb.Stage(remainder=True, releases_per_minute=1)
    await create(operator, slow)
    await operator.pause("j")
    pause = await paused_since(database, operator)
    paused_at = await database.owner.fetchval(
        "UPDATE jobs.jobs SET release_since = $2, paused_at = $3 WHERE tenant_id = $1"
        " RETURNING paused_at",
        operator.tenant,
        pause - timedelta(minutes=10),
        pause - timedelta(minutes=5),
    )

    await update_stages(operator, changed(slow, releases_per_minute=60))

    assert await release(database, operator) == (10, 5, 60, paused_at)


@pytest.mark.parametrize("rates", [[7, 11, 13], [1, 59], [300, 1]], ids=str)
async def test_release_keeps_its_fractions_when_the_rate_changes_often(
    database: Database, operator: Operator, rates: list[int]
) -> None:
    """The clock stands still during a pause, so the test moves it: half a second per change."""
    await database.add_devices(operator.tenant, 30)
    await create(
        operator, pb.Stage(device_count=29, releases_per_minute=1), pb.Stage(remainder=True)
    )
    await operator.pause("j")
    await database.owner.execute(
        "UPDATE jobs.jobs SET release_since = paused_at WHERE tenant_id = $1", operator.tenant
    )
    expected, rate = Fraction(0), 1
    earlier = moved_back("interval '0.5 seconds'", "release_since")

    for next_rate in rates * 10:
        await database.owner.execute(
            f"UPDATE jobs.jobs SET {earlier} WHERE tenant_id = $1", operator.tenant
        )
        expected += Fraction(rate, 120)
        rate = next_rate
        stages = [pb.Stage(device_count=29, releases_per_minute=rate), pb.Stage(remainder=True)]
        job = await update_stages(operator, *stages)

        assert job.stages[0].released_count == min(29, floor(expected))


@pytest.mark.usefixtures("devices")
async def test_release_keeps_its_fraction_when_the_next_stage_opens(
    database: Database, operator: Operator
) -> None:
    await create(
        operator,
        pb.Stage(device_count=4, releases_per_minute=60),
        pb.Stage(remainder=True, releases_per_minute=30),
    )
    await operator.pause("j")
    await database.owner.execute(
        "UPDATE jobs.jobs SET release_since = $2 WHERE tenant_id = $1",
        operator.tenant,
        await paused_since(database, operator) - timedelta(seconds=1.5),
    )

    await operator.advance("j")

    release_since = (await release(database, operator))[3]
    paused_at = (await operator.get("j")).pause.paused_at.ToDatetime(UTC)
    assert (await release(database, operator))[:3] == (10, 1, 30)
    assert paused_at - release_since == timedelta(seconds=1)  # half a release


@pytest.mark.usefixtures("devices")
async def test_rate_of_a_later_stage_does_not_change_the_release(
    database: Database, operator: Operator
) -> None:
    await create(operator, *STAGES)
    before = await release(database, operator)

    await update_stages(operator, STAGES[0], changed(STAGES[1], releases_per_minute=1), STAGES[2])

    assert await release(database, operator) == before


@pytest.mark.usefixtures("devices")
async def test_time_gate_needs_background_work(database: Database, operator: Operator) -> None:
    await create(operator, *STAGES)
    gate = pb.Gate(bake_time=Duration(seconds=60))

    with expect_failure(FAILED_PRECONDITION, "TIME_GATES_UNAVAILABLE"):
        await update_stages(operator, changed(STAGES[0], gate=gate), *STAGES[1:])


@pytest.mark.usefixtures("devices")
async def test_stage_that_has_passed_is_fixed(server: Server, operator: Operator) -> None:
    await create(operator, *STAGES)
    await operator.advance("j")
    changes = [
        ("display_name", changed(STAGES[0], display_name="other")),
        ("releases_per_minute", changed(STAGES[0], releases_per_minute=1)),
        ("gate", changed(STAGES[0], gate=pb.Gate(min_succeeded_percent=1))),
    ]

    for field, stage in changes:
        with expect_failure(INVALID_ARGUMENT, "INVALID_FIELD") as failure:
            await update_stages(operator, stage, *STAGES[1:])
        path = f"rollout.stages[0].{field}"
        problem = f"{path} must not change: the stage has passed"
        assert failure.violations == {path: problem}

    await update_stages(operator, *STAGES)  # the same


@pytest.mark.usefixtures("devices")
async def test_gate_that_is_met_by_the_change_opens_the_next_stage(
    database: Database, server: Server, operator: Operator
) -> None:
    strict = changed(STAGES[0], gate=pb.Gate(min_succeeded_percent=100))
    await create(operator, strict, *STAGES[1:])
    await server.device(operator.tenant, await first_device(database, operator)).update(
        "j", "SUCCEEDED"
    )
    assert (await release(database, operator))[0] == 2

    gate = pb.Gate(min_succeeded_percent=50)
    await update_stages(operator, changed(STAGES[0], gate=gate), *STAGES[1:])

    assert (await release(database, operator))[0] == 7


@pytest.mark.usefixtures("devices")
async def test_changed_gate_lets_a_job_with_a_failed_gate_resume(
    database: Database, server: Server, operator: Operator
) -> None:
    canary = pb.Stage(device_count=1, gate=pb.Gate(min_succeeded_percent=100))
    rest = pb.Stage(remainder=True)
    await create(operator, canary, rest)
    await server.device(operator.tenant, await first_device(database, operator)).update(
        "j", "FAILED"
    )
    assert (await operator.get("j")).status == pb.Job.PAUSED
    with expect_failure(FAILED_PRECONDITION, "GATE_NOT_MET"):
        await operator.resume("j")

    await update_stages(operator, pb.Stage(device_count=1), rest)

    assert (await operator.resume("j")).status == pb.Job.IN_PROGRESS
    assert (await release(database, operator))[0] == 10


@pytest.mark.usefixtures("devices")
async def test_changed_time_of_a_gate_moves_the_time_at_which_it_opens(
    database: Database, operator: Operator
) -> None:
    gate = pb.Gate(advance_after=Duration(seconds=600))
    async with running_server(
        database.request_dsn, JOBS_OWNER_DATABASE_URL=database.owner_dsn
    ) as server:
        same = server.operator(operator.tenant)
        await create(same, changed(STAGES[0], gate=gate), *STAGES[1:])
        due_at = "SELECT stage_due_at - created_at FROM jobs.jobs WHERE tenant_id = $1"
        assert await database.owner.fetchval(due_at, operator.tenant) == timedelta(minutes=10)

        gate = pb.Gate(advance_after=Duration(seconds=300))
        await update_stages(same, changed(STAGES[0], gate=gate), *STAGES[1:])

        assert await database.owner.fetchval(due_at, operator.tenant) == timedelta(minutes=5)
        await update_stages(same, *STAGES)
        assert await database.owner.fetchval(due_at, operator.tenant) is None
