"""The expiry of jobs with a rollout: its default, and whether the rollout can end before it."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs_grpc.services.rollout_json import rollout_json
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.rollout_model import Rollout, Stage
from tests.support.server import Server, running_server
from tests.support.staged_jobs import StagedJob, create_staged_job, rollout

FAILED_PRECONDITION = StatusCode.FAILED_PRECONDITION
HOUR = 3600
DAY = 24 * HOUR
REST: dict[str, Any] = {"remainder": True}


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    """A server that accepts bake_time and advance_after."""
    async with running_server(
        database.request_dsn, JOBS_OWNER_DATABASE_URL=database.owner_dsn
    ) as server:
        yield server


@pytest.fixture
async def operator(database: Database, server: Server, tenant: str) -> Operator:
    """An operator of a tenant with ten devices."""
    await database.add_devices(tenant, 10)
    return server.operator(tenant, "olivia")


@pytest.fixture
async def real_time_afterwards(database: Database) -> AsyncIterator[None]:
    """Restores the time of the database, which other tests compare with their own."""
    yield
    await database.set_time_offset(0)


def baking(seconds: int, **gate: Any) -> dict[str, Any]:
    """A stage of one device with a bake_time."""
    return {"device_count": 1, "gate": pb.Gate(bake_time=Duration(seconds=seconds), **gate)}


def at(time: datetime) -> Timestamp:
    """The time as a message."""
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp


def in_seconds(seconds: float) -> Timestamp:
    """The time after so many seconds."""
    return at(datetime.now(UTC) + timedelta(seconds=seconds))


def hours_until_expiry(response: pb.CreateJobResponse, created_after: datetime) -> int:
    """The whole hours from the creation to the expiry of a job that was just created."""
    left = response.expires_at.ToDatetime(UTC) - created_after
    assert left % timedelta(hours=1) < timedelta(minutes=1)
    return left // timedelta(hours=1)


@pytest.mark.parametrize("validate_only", [False, True])
async def test_rollout_that_cannot_end_before_the_expiry_is_rejected(
    database: Database, operator: Operator, validate_only: bool
) -> None:
    await database.add_devices(operator.tenant, (f"more-{n:03}" for n in range(991)))
    request: dict[str, Any] = {
        "job_id": "j",
        "target_all": True,
        "rollout": rollout(baking(2 * DAY), {"remainder": True, "releases_per_minute": 5}),
        "validate_only": validate_only,
    }

    for hours, text in ((24, "1 d"), (51, "2 d 3 h")):
        with expect_failure(FAILED_PRECONDITION, "EXPIRY_TOO_EARLY") as failure:
            await operator.create(**request, expires_in_hours=hours)
        assert failure.message == (
            f"The rollout takes at least 2 d 3 h 20 min, but the job expires in {text}:"
            " stage 0: 2 d of bake_time; stage 1: 3 h 20 min for 1,000 devices at 5 per minute."
            " Let it expire later or never, or shorten the stages"
        )
        assert failure.metadata == {"jobId": "j", "minSeconds": str(51 * HOUR + 20 * 60)}
    assert not (await operator.list()).jobs

    await operator.create(**request, expires_in_hours=52)
    await operator.create(**request | {"job_id": "k"}, never_expires=True)


async def test_rollout_that_ends_exactly_at_the_expiry_is_rejected(operator: Operator) -> None:
    """A device that is released at expires_at can't start anymore."""
    with expect_failure(FAILED_PRECONDITION, "EXPIRY_TOO_EARLY"):
        await operator.create(
            target_all=True, rollout=rollout(baking(HOUR), REST), expires_in_hours=1
        )

    await operator.create(
        target_all=True, rollout=rollout(baking(HOUR - 1), REST), expires_in_hours=1
    )


async def test_message_names_five_stages(operator: Operator) -> None:
    stages = rollout(baking(90, advance_after=Duration(seconds=60)), *[baking(DAY)] * 7, REST)

    with expect_failure(FAILED_PRECONDITION, "EXPIRY_TOO_EARLY") as failure:
        await operator.create(target_all=True, rollout=stages, expires_in_hours=1)

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
@pytest.mark.parametrize("validate_only", [False, True])
async def test_default_expiry_leaves_a_day_for_the_devices(
    operator: Operator, stages: tuple[dict[str, Any], ...], hours: int, validate_only: bool
) -> None:
    created_after = datetime.now(UTC)

    response = await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout(*stages) if stages else None,
        validate_only=validate_only,
    )

    assert hours_until_expiry(response, created_after) == hours
    if not validate_only:
        assert (await operator.get("j")).expires_at == response.expires_at


async def test_create_is_rejected_when_rollout_takes_longer_than_the_longest_default(
    operator: Operator,
) -> None:
    stages = rollout(baking(30 * DAY), REST)

    with expect_failure(FAILED_PRECONDITION, "EXPIRY_TOO_EARLY"):
        await operator.create(target_all=True, rollout=stages)

    await operator.create(target_all=True, rollout=stages, never_expires=True)


async def test_repeated_request_with_the_default_expiry_returns_the_first_response(
    operator: Operator,
) -> None:
    request: dict[str, Any] = {"target_all": True, "rollout": rollout(baking(2 * DAY), REST)}
    first = await operator.create(job_id="default", **request)
    await operator.create(job_id="explicit", **request, expires_in_hours=72)
    await operator.update("default", "expires_at")

    assert await operator.create(job_id="default", **request) == first
    for job_id, expiry in (
        ("default", {"expires_in_hours": 72}),
        ("default", {"expires_in_hours": 24}),
        ("default", {"never_expires": True}),
        ("explicit", {}),
    ):
        with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
            await operator.create(job_id=job_id, **request, **expiry)


async def test_request_without_an_expiry_differs_from_the_default_only_with_a_rollout(
    operator: Operator,
) -> None:
    """Even if the rollout needs no more than the default of 24 hours."""
    for job_id, fields in (("all", {}), ("staged", {"rollout": rollout(REST)})):
        absent = {"job_id": job_id, "target_all": True, **fields}
        first = await operator.create(**absent)

        if fields:
            with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
                await operator.create(**absent, expires_in_hours=24)
        else:
            assert await operator.create(**absent, expires_in_hours=24) == first


def _seconds(low: int, high: int) -> st.SearchStrategy[Fraction]:
    return st.integers(low // 6, high // 6).map(lambda n: Fraction(6 * n, 60))


_STAGES = st.builds(
    Stage,
    count=st.integers(1, 4),
    rate=st.sampled_from([None, 1, 2, 3]),
    min_succeeded_percent=st.sampled_from([None, 1, 50, 51, 100]),
    bake=_seconds(0, 120),
    advance_after=st.none() | _seconds(6, 240),
    require_approval=st.booleans(),
)


@given(stages=st.lists(_STAGES, min_size=1, max_size=4), devices=st.integers(1, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_minimum_time_is_that_of_a_simulated_rollout(
    database: Database, stages: list[Stage], devices: int
) -> None:
    stages[-1].count = None
    model = Rollout(stages, "s")
    model.fill([f"d{n}" for n in range(devices)])
    message = pb.Rollout(
        stages=[
            pb.Stage(
                device_count=stage.count or 1,
                releases_per_minute=stage.rate,
                gate=pb.Gate(
                    min_succeeded_percent=stage.min_succeeded_percent,
                    bake_time=Duration(seconds=int(60 * stage.bake)),
                    advance_after=None
                    if stage.advance_after is None
                    else Duration(seconds=int(60 * stage.advance_after)),
                    require_approval=stage.require_approval,
                ),
            )
            for stage in stages
        ]
    )
    simulated = 60 * model.minimum_minutes()

    result = await database.owner.fetchval(
        "SELECT jobs.minimum_rollout_time($1::jsonb -> 'stages', $2, now())",
        json.dumps(rollout_json(message)),
        [len(stage.devices) for stage in stages],
    )

    # Each step of the simulation is a second, so each stage can end up to a second late.
    seconds = json.loads(result)["seconds"]
    assert simulated - len(stages) < seconds <= simulated
    assert seconds == pytest.approx(sum(s["seconds"] for s in json.loads(result)["stages"]))


async def test_update_changes_the_expiry(operator: Operator) -> None:
    await operator.create(job_id="j", target_all=True)
    before = await operator.get("j")
    year = in_seconds(365 * DAY)

    job = await operator.update("j", "expires_at", expires_at=year)

    assert job.expires_at.ToMicroseconds() == year.ToMicroseconds()
    assert (job.etag != before.etag, job.updated_at) == (True, before.updated_at)
    job = await operator.update("j", "expires_at")
    assert not job.HasField("expires_at")
    job = await operator.update("j", "failure_criteria", expires_at=year)  # not in the mask
    assert not job.HasField("expires_at")


@pytest.mark.parametrize(
    "expires_at",
    [
        Timestamp(),
        in_seconds(-1),
        in_seconds(367 * DAY),
        Timestamp(seconds=2**50),
        Timestamp(seconds=2**33, nanos=-1),
    ],
    ids=["1970", "past", "too late", "year 35 million", "nanos"],
)
async def test_update_rejects_an_expiry_that_is_out_of_range(
    operator: Operator, expires_at: Timestamp
) -> None:
    await operator.create(job_id="j", target_all=True)

    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as failure:
        await operator.update("j", "expires_at", expires_at=expires_at)

    assert list(failure.violations) == ["expires_at"]


async def test_update_of_the_expiry_of_an_expired_job_is_rejected(
    database: Database, server: Server, operator: Operator
) -> None:
    for job_id in ("finished", "started"):
        await operator.create(
            job_id=job_id, target_all=True, rollout=rollout({"percent": 50}, REST)
        )
    device = await database.owner.fetchval(
        "SELECT device_id FROM jobs.job_executions"
        " WHERE tenant_id = $1 AND job_id = 'started' AND rank = 1",
        operator.tenant,
    )
    await server.device(operator.tenant, device).start("started")
    for job_id, status in (("finished", "COMPLETED"), ("started", "IN_PROGRESS")):
        await database.expire(operator.tenant, job_id)
        with expect_failure(FAILED_PRECONDITION, "JOB_NOT_UPDATABLE") as failure:
            await operator.update(job_id, "expires_at", expires_at=in_seconds(HOUR))
        assert failure.metadata == {"jobId": job_id, "status": status}
    assert "RetryExecutions" in failure.message

    # Other settings still apply to the executions that are IN_PROGRESS and to a retry.
    stages = rollout({"percent": 50}, {"remainder": True, "releases_per_minute": 1})
    await operator.update("started", "rollout.stages", rollout=stages)
    await operator.retry("started", "TIMED_OUT", expires_in_hours=2)
    await operator.update("started", "expires_at", expires_at=in_seconds(HOUR))


async def create(
    database: Database, server: Server, operator: Operator, *stages: dict[str, Any], **fields: Any
) -> StagedJob:
    """Create job "j" with these stages."""
    return await create_staged_job(database, server, operator, *stages, **fields)


async def test_update_checks_that_the_rest_of_the_rollout_can_end(
    database: Database, server: Server, operator: Operator
) -> None:
    await create(database, server, operator, baking(2 * DAY), REST)

    with expect_failure(FAILED_PRECONDITION, "EXPIRY_TOO_EARLY") as failure:
        await operator.update("j", "expires_at", expires_at=in_seconds(DAY))
    assert "takes at least 2 d, but" in failure.message
    assert failure.metadata == {"jobId": "j", "minSeconds": str(2 * DAY)}
    with expect_failure(FAILED_PRECONDITION, "EXPIRY_TOO_EARLY"):
        await operator.update("j", "rollout.stages", rollout=rollout(baking(4 * DAY), REST))
    job = await operator.get("j")
    assert job.rollout == rollout(baking(2 * DAY), REST)

    # Together, they fit; and an update of another field is not checked.
    job = await operator.update(
        "j",
        "rollout.stages",
        "expires_at",
        rollout=rollout(baking(DAY), REST),
        expires_at=in_seconds(DAY + 60),
    )
    await database.owner.execute(
        "UPDATE jobs.job_stages SET bake_seconds = 9000000 WHERE tenant_id = $1 AND stage = 0",
        operator.tenant,
    )
    await operator.update("j", "rollout.max_in_progress")


@pytest.mark.usefixtures("real_time_afterwards")
@pytest.mark.parametrize("paused", [False, True])
async def test_update_counts_only_what_remains(
    database: Database, server: Server, operator: Operator, paused: bool
) -> None:
    """Of the bake time, the advance_after and the releases; a pause stops their clocks."""
    stages = (
        {"device_count": 2, "releases_per_minute": 1, "gate": baking(5 * HOUR)["gate"]},
        baking(3 * DAY, advance_after=Duration(seconds=2 * HOUR)),
        {"remainder": True, "releases_per_minute": 1},
    )
    job = await create(database, server, operator, *stages, never_expires=True)

    async def check(remaining: float) -> None:
        """The job takes this long, give or take what the test takes."""
        now = await database.owner.fetchval("SELECT jobs.now()")
        with expect_failure(FAILED_PRECONDITION, "EXPIRY_TOO_EARLY") as failure:
            await operator.update("j", "expires_at", expires_at=at(now + timedelta(seconds=10)))
        assert remaining - 50 < int(failure.metadata["minSeconds"]) <= remaining

    async def pass_time(seconds: float) -> None:
        await job.database.pass_time(seconds)
        if paused:
            await operator.pause("j")
            await job.database.pass_time(7 * HOUR)

    await check(2 * 60 + 5 * HOUR + 2 * HOUR + 7 * 60)
    await pass_time(90)  # one device is released
    await check(30 + 5 * HOUR + 2 * HOUR + 7 * 60)
    if paused:
        await operator.resume("j")
    await job.database.pass_time(60)
    await job.finish(0)
    await pass_time(HOUR)  # the gate is met
    await check(4 * HOUR + 2 * HOUR + 7 * 60)
    if paused:
        await operator.resume("j")
    await operator.advance("j")
    await pass_time(HOUR)
    await check(HOUR + 7 * 60)


async def test_stages_that_have_no_queued_execution_need_no_time(
    database: Database, server: Server, operator: Operator
) -> None:
    slow = {"device_count": 5, "releases_per_minute": 1}
    job = await create(database, server, operator, slow, {"remainder": True}, never_expires=True)
    for device in job.devices(0):
        await operator.cancel_execution("j", device.name)
    assert await job.open_stage() == 1

    await operator.update("j", "expires_at", expires_at=in_seconds(60))
