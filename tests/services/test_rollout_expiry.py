"""The expiry of jobs with a rollout: its default, and whether the rollout can end before it."""

from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.database import Database
from tests.support.failures import expect_error, invalid_fields
from tests.support.staged_jobs import rollout
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("ten_devices")

HOUR = 3600
DAY = 24 * HOUR
REST: dict[str, Any] = {"remainder": True}


@pytest.fixture(scope="module")
def server_settings(database: Database) -> dict[str, str]:
    """Settings with which the server accepts bake_time and advance_after."""
    return {"JOBS_OWNER_DATABASE_URL": database.owner_dsn}


def baking(seconds: int, **gate: Any) -> dict[str, Any]:
    return {"device_count": 1, "gate": pb.Gate(bake_time=Duration(seconds=seconds), **gate)}


async def update_expiry(world: World, seconds: float, job_id: str = "j") -> pb.Job:
    expires_at = await world.time_in(seconds)
    return await world.operator.update(job_id, "expires_at", expires_at=expires_at)


@pytest.mark.parametrize("validate_only", [False, True])
async def test_rollout_longer_than_expiry_is_rejected(world: World, validate_only: bool) -> None:
    await world.add_devices(f"more-{n:03}" for n in range(991))
    stages = rollout(baking(2 * DAY), {"remainder": True, "releases_per_minute": 5})
    request: dict[str, Any] = {"rollout": stages, "validate_only": validate_only}

    for hours, text in ((24, "1 d"), (51, "2 d 3 h")):
        create = world.create(**request, expires_in_hours=hours)
        failure = await expect_error("EXPIRY_TOO_EARLY", create)
        assert failure.message == (
            f"The rollout takes at least 2 d 3 h 20 min, but the job expires in {text}:"
            " stage 0: 2 d of bake_time; stage 1: 3 h 20 min for 1,000 devices at 5 per minute."
            " Let it expire later or never, or shorten the stages"
        )
        assert failure.metadata == {"jobId": "j", "minSeconds": str(51 * HOUR + 20 * 60)}
    assert not (await world.operator.list()).jobs

    await world.create(**request, expires_in_hours=52)
    await world.create("k", **request, never_expires=True)


async def test_rollout_that_ends_exactly_at_the_expiry_is_rejected(world: World) -> None:
    """A device that is released at expires_at can't start anymore."""
    too_long, short_enough = rollout(baking(HOUR), REST), rollout(baking(HOUR - 1), REST)

    await expect_error("EXPIRY_TOO_EARLY", world.create(expires_in_hours=1, rollout=too_long))

    await world.create(expires_in_hours=1, rollout=short_enough)


async def test_expiry_error_lists_five_stages_when_more_need_time(world: World) -> None:
    stages = rollout(baking(90, advance_after=Duration(seconds=60)), *[baking(DAY)] * 7, REST)

    create = world.create(rollout=stages, expires_in_hours=1)
    failure = await expect_error("EXPIRY_TOO_EARLY", create)

    assert failure.message.startswith(
        "The rollout takes at least 7 d 1 min, but the job expires in 1 h:"
        " stage 0: 1 min until advance_after; stage 1: 1 d of bake_time;"
    )
    assert "stage 4: 1 d of bake_time; and 3 more. Let it" in failure.message


@pytest.mark.parametrize(
    ("stages", "hours"),
    [
        ((), 24),
        (({"percent": 10}, REST), 24),
        ((baking(1), REST), 25),
        ((baking(2 * DAY), REST), 72),
        ((baking(2 * DAY, advance_after=Duration(seconds=HOUR)), REST), 25),
        (({"remainder": True, "releases_per_minute": 1},), 25),
        ((baking(30 * DAY - 1), REST), 720),
    ],
    ids=str,
)
async def test_default_expiry_leaves_a_day_for_the_devices(
    world: World, stages: tuple[dict[str, Any], ...], hours: int
) -> None:
    request = {"rollout": rollout(*stages) if stages else None}
    before = await world.time_in(0)

    validated = await world.create(**request, validate_only=True)
    created = await world.create(**request)

    for response in (validated, created):
        seconds = response.expires_at.seconds - before.seconds
        assert hours * HOUR <= seconds < hours * HOUR + 60
    assert (await world.operator.get("j")).expires_at == created.expires_at


async def test_create_is_rejected_if_rollout_exceeds_any_default(world: World) -> None:
    stages = rollout(baking(30 * DAY), REST)

    await expect_error("EXPIRY_TOO_EARLY", world.create(rollout=stages))

    await world.create(rollout=stages, never_expires=True)


async def test_repeated_request_without_expiry_is_recognized(world: World) -> None:
    stages = rollout(baking(2 * DAY), REST)
    first = await world.create("default", rollout=stages)
    await world.create("explicit", rollout=stages, expires_in_hours=72)
    await world.operator.update("default", "expires_at")

    assert await world.create("default", rollout=stages) == first
    for job_id, expiry in (
        ("default", {"expires_in_hours": 72}),
        ("default", {"expires_in_hours": 24}),
        ("default", {"never_expires": True}),
        ("explicit", {}),
    ):
        other = world.create(job_id, rollout=stages, **expiry)
        await expect_error("JOB_ALREADY_EXISTS", other)


async def test_request_without_expiry_differs_only_with_a_rollout(world: World) -> None:
    """From one with the default of 24 hours, even if the rollout needs no more than that."""
    first = await world.create("all")
    assert await world.create("all", expires_in_hours=24) == first

    await world.create("staged", rollout=rollout(REST))
    other = world.create("staged", rollout=rollout(REST), expires_in_hours=24)
    await expect_error("JOB_ALREADY_EXISTS", other)


async def test_update_changes_the_expiry(world: World) -> None:
    await world.create()
    before = await world.operator.get("j")
    year = await world.time_in(365 * DAY)

    job = await world.operator.update("j", "expires_at", expires_at=year)

    assert job.expires_at == year
    assert (job.etag != before.etag, job.updated_at) == (True, before.updated_at)
    job = await world.operator.update("j", "expires_at")
    assert not job.HasField("expires_at")
    job = await world.operator.update("j", "failure_criteria", expires_at=year)  # not in the mask
    assert not job.HasField("expires_at")


async def test_update_rejects_an_expiry_that_is_out_of_range(world: World) -> None:
    await world.create()

    for expires_at in (
        Timestamp(),
        await world.time_in(-1),
        await world.time_in(367 * DAY),
        Timestamp(seconds=2**50),  # year 35 million
        Timestamp(seconds=2**33, nanos=-1),
    ):
        update = world.operator.update("j", "expires_at", expires_at=expires_at)
        assert await invalid_fields(update) == ["expires_at"]


async def test_update_of_the_expiry_of_an_expired_job_is_rejected(world: World) -> None:
    await world.create_staged({"percent": 50}, REST, job_id="finished")
    started = await world.create_staged({"percent": 50}, REST, job_id="started")
    await started.device(0).start("started")
    for job_id, status in (("finished", "COMPLETED"), ("started", "IN_PROGRESS")):
        await world.expire(job_id)
        failure = await expect_error("JOB_NOT_UPDATABLE", update_expiry(world, HOUR, job_id))
        assert failure.metadata == {"jobId": job_id, "status": status}
    assert "RetryExecutions" in failure.message

    # Other settings still apply to the executions that are IN_PROGRESS and to a retry.
    stages = rollout({"percent": 50}, {"remainder": True, "releases_per_minute": 1})
    await world.operator.update("started", "rollout.stages", rollout=stages)
    await world.operator.retry("started", "TIMED_OUT", expires_in_hours=2)
    await update_expiry(world, HOUR, "started")


async def test_update_checks_that_the_rest_of_the_rollout_can_end(world: World) -> None:
    await world.create_staged(baking(2 * DAY), REST)

    failure = await expect_error("EXPIRY_TOO_EARLY", update_expiry(world, DAY))
    assert "takes at least 2 d, but" in failure.message
    assert failure.metadata == {"jobId": "j", "minSeconds": str(2 * DAY)}
    longer = world.operator.update("j", "rollout.stages", rollout=rollout(baking(4 * DAY), REST))
    await expect_error("EXPIRY_TOO_EARLY", longer)
    assert (await world.operator.get("j")).rollout == rollout(baking(2 * DAY), REST)

    # Together, they fit; and an update of another field is not checked.
    fields = {"rollout": rollout(baking(DAY), REST), "expires_at": await world.time_in(DAY + 60)}
    await world.operator.update("j", "rollout.stages", "expires_at", **fields)
    await world.owner_value(
        "UPDATE jobs.job_stages SET bake_seconds = 9000000 WHERE tenant_id = $1 AND stage = 0"
    )
    await world.operator.update("j", "rollout.max_in_progress")


@pytest.mark.parametrize("paused", [False, True])
async def test_update_counts_only_what_remains(world: World, paused: bool) -> None:
    """Of the bake time, the advance_after and the releases; a pause stops their clocks."""
    stages = (
        {"device_count": 2, "releases_per_minute": 1, "gate": baking(5 * HOUR)["gate"]},
        baking(3 * DAY, advance_after=Duration(seconds=2 * HOUR)),
        {"remainder": True, "releases_per_minute": 1},
    )
    job = await world.create_staged(*stages, never_expires=True)

    async def check(remaining: float) -> None:
        """The job takes this long, give or take what the test takes."""
        failure = await expect_error("EXPIRY_TOO_EARLY", update_expiry(world, 10))
        assert remaining - 50 < int(failure.metadata["minSeconds"]) <= remaining

    async def pass_time(seconds: float) -> None:
        await world.pass_time(seconds)
        if paused:
            await world.operator.pause("j")
            await world.pass_time(7 * HOUR)

    await check(2 * 60 + 5 * HOUR + 2 * HOUR + 7 * 60)
    await pass_time(90)  # one device is released
    await check(30 + 5 * HOUR + 2 * HOUR + 7 * 60)
    if paused:
        await world.operator.resume("j")
    await world.pass_time(60)
    await job.finish(0)
    await pass_time(HOUR)  # the gate is met
    await check(4 * HOUR + 2 * HOUR + 7 * 60)
    if paused:
        await world.operator.resume("j")
    await world.operator.advance("j")
    await pass_time(HOUR)
    await check(HOUR + 7 * 60)


async def test_stages_that_have_no_queued_execution_need_no_time(world: World) -> None:
    slow = {"device_count": 5, "releases_per_minute": 1}
    job = await world.create_staged(slow, REST, never_expires=True)
    for device in job.devices(0):
        await world.operator.cancel_execution("j", device.name)
    assert await job.open_stage() == 1

    await update_expiry(world, 60)
