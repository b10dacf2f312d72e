"""GetJobTimeline: when the devices of a job ended, and what happened to it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.services.timeline import MAX_BUCKETS, MAX_MARKS
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.world import World

# How the executions of "j" end, and the count of the timeline that includes them.
ENDS = {
    "ok": "succeeded",
    "failed": "failed",
    "refused": "failed",
    "late": "failed",
    "canceled": "canceled",
}
PENDING = {"running", "waiting"}


@pytest.fixture
async def job(world: World) -> None:
    """A job "j" whose executions end in each way, except for "running" and "waiting"."""
    await world.add_devices([*ENDS, *PENDING])
    await world.create(in_progress_timeout_minutes=1)
    await world.device("late").start("j")
    await world.make_overdue()
    await world.sweep()
    await world.device("running").update("j", "IN_PROGRESS", extend_timeout_minutes=60)
    await world.device("ok").update("j", "SUCCEEDED")
    await world.device("failed").update("j", "FAILED", failure_code="E1")
    await world.device("refused").update("j", "REJECTED")
    await world.operator.cancel_execution("j", "canceled")


def sums(timeline: pb.GetJobTimelineResponse) -> dict[str, int]:
    names = ("succeeded", "failed", "canceled", "expired")
    counts = {
        name: sum(getattr(bucket, f"{name}_count") for bucket in timeline.buckets) for name in names
    }
    return {name: count for name, count in counts.items() if count}


def counts_at(timeline: pb.GetJobTimelineResponse, time: Any) -> dict[str, int]:
    start = time.seconds - time.seconds % timeline.bucket_size.seconds
    buckets = [bucket for bucket in timeline.buckets if bucket.time.seconds == start]
    return sums(pb.GetJobTimelineResponse(buckets=buckets))


@pytest.mark.usefixtures("job")
async def test_device_counts_by_what_ended_it(world: World) -> None:
    timeline = await world.operator.timeline()

    assert sums(timeline) == {"succeeded": 1, "failed": 3, "canceled": 1}
    assert timeline.bucket_size.seconds == 1


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("end", "ended"),
    [
        ({"reason": "typo"}, {"canceled": 2}),
        ({"reason": "typo", "force": True}, {"canceled": 3}),
        (None, {"canceled": 1, "expired": 1}),
    ],
)
async def test_canceled_and_expired_executions_count_at_that_time_before_and_after_finalization(
    world: World, end: dict[str, Any] | None, ended: dict[str, int]
) -> None:
    if end is None:
        await world.expire()
        at = (await world.operator.get("j")).expires_at
    else:
        await world.pass_time(60)
        await world.operator.cancel("j", **end)
        at = (await world.operator.get("j")).updated_at

    derived = await world.operator.timeline()
    await world.sweep()
    written = await world.operator.timeline()

    assert sums(derived) == {"succeeded": 1, "failed": 3} | ended
    assert {name: counts_at(derived, at).get(name, 0) for name in ended} == ended | {
        "canceled": ended["canceled"] - 1
    }
    assert [*written.buckets] == [*derived.buckets]


@pytest.mark.usefixtures("job")
async def test_retried_device_counts_only_at_its_last_end(world: World) -> None:
    await world.operator.retry("j", "FAILED", "TIMED_OUT")
    assert sums(await world.operator.timeline()) == {"succeeded": 1, "failed": 1, "canceled": 1}

    await world.pass_time(3600)
    await world.device("failed").update("j", "SUCCEEDED")

    timeline = await world.operator.timeline()
    assert sums(timeline) == {"succeeded": 2, "failed": 1, "canceled": 1}
    assert sums(pb.GetJobTimelineResponse(buckets=timeline.buckets[-1:])) == {"succeeded": 1}
    assert (timeline.marks[-1].type, timeline.marks[-1].retried_count) == ("job.retried", 2)


@pytest.mark.parametrize(
    ("minutes_between", "bucket_seconds"), [(0, 1), (1, 15), (60, 900), (60 * 24 * 3, 86_400)]
)
async def test_buckets_are_round_and_not_too_many(
    world: World, minutes_between: int, bucket_seconds: int
) -> None:
    count = 40
    await world.add_devices(count)
    await world.create(never_expires=True)
    ended = timedelta(minutes=minutes_between)
    await world.execute(
        """WITH progress AS (
            UPDATE jobs.job_progress SET queued = 0, succeeded = queued WHERE tenant_id = $1
        ), job AS (
            UPDATE jobs.jobs SET created_at = created_at - $2::interval * 40 WHERE tenant_id = $1
        )
        UPDATE jobs.job_executions e
        SET status = 'SUCCEEDED', last_updated_at = last_updated_at - $2::interval * d.number
        FROM (SELECT device_id, row_number() OVER () AS number FROM jobs.job_executions
              WHERE tenant_id = $1) d
        WHERE e.tenant_id = $1 AND e.device_id = d.device_id""",
        ended,
    )

    timeline = await world.operator.timeline()

    assert timeline.bucket_size.seconds == bucket_seconds
    assert sums(timeline) == {"succeeded": count}
    times = [bucket.time.seconds for bucket in timeline.buckets]
    assert all(time % bucket_seconds == 0 for time in times)
    assert times == sorted(times)
    assert (times[-1] - times[0]) // bucket_seconds < MAX_BUCKETS


async def test_marks_say_what_happened_to_the_job(world: World) -> None:
    await world.add_devices(2)
    job = await world.create_staged(
        {"device_count": 1, "gate": {"require_approval": True, "allow_self_approval": True}},
        {"remainder": True},
        failure_criteria=[{"count": 1}],
    )
    await world.operator.pause("j", reason="r" * 1000)
    await world.operator.reject("j", 0, comment="hot")
    await world.operator.approve("j", 0, comment="go")
    await world.operator.resume("j")
    await job.device(0).update("j", "FAILED")
    await world.operator.cancel("j", reason="bad")
    # Reading events gives them positions; a timeline reads those without positions, too.
    before = await world.operator.timeline()
    await world.events.history("j")
    after = await world.operator.timeline()

    assert [*after.marks] == [*before.marks]
    assert [(mark.type, mark.cause, mark.reason[:2]) for mark in after.marks] == [
        ("job.paused", "OPERATOR", "rr"),
        ("job.stage_rejected", "", "ho"),
        ("job.stage_approved", "", "go"),
        ("job.resumed", "", ""),
        ("job.tripped", "", "1 "),
        ("job.paused", "FAILURE_CRITERION", "1 "),
        ("job.canceled", "OPERATOR", "ba"),
    ]
    assert (len(after.marks[0].reason), after.marks[1].stage) == (200, 0)


async def test_marks_are_the_last_ones_of_this_job(world: World) -> None:
    await world.add_devices(1)
    await world.create()
    await world.operator.pause("j")
    await world.operator.cancel("j", force=True)
    await world.operator.delete("j")
    await world.execute("SELECT jobs.purge_job($1, 'j', '', 10, 0)")
    await world.create()
    assert not (await world.operator.timeline()).marks

    for _ in range(MAX_MARKS // 2 + 1):
        await world.operator.pause("j")
        await world.operator.resume("j")

    types = [mark.type for mark in (await world.operator.timeline()).marks]
    assert types == ["job.paused", "job.resumed"] * (MAX_MARKS // 2)


async def test_job_without_ends_has_no_buckets(world: World) -> None:
    await world.add_devices(1)
    await world.create()

    timeline = await world.operator.timeline()

    assert (list(timeline.buckets), timeline.bucket_size.seconds) == ([], 1)
    assert timeline.HasField("computed_at")


async def test_timeline_uses_a_bitmap_scan_when_statistics_prefer_an_index(
    world: World, database: Database
) -> None:
    await world.add_devices(1)
    await world.create()
    # With these statistics, the planner prefers an index scan, which takes much longer once there
    # are many executions, and the session keeps the plan.
    await database.owner.execute("ANALYZE jobs.job_executions")

    read = (
        "SELECT pg_stat_get_xact_tuples_returned(oid), pg_stat_get_xact_tuples_fetched(oid)"
        " FROM pg_class WHERE relname = 'job_executions_pkey'"
    )
    async with database.owner.transaction():
        [before] = await database.owner.fetch(read)
        await database.owner.fetchrow(
            "SELECT * FROM jobs.get_job_timeline($1, 'j', 200, 200)", world.tenant
        )
        [after] = await database.owner.fetch(read)

    # By an index scan, it would be [1, 1].
    assert [end - start for end, start in zip(after, before, strict=True)] == [1, 0]


async def test_timeline_of_a_job_that_the_tenant_does_not_have_is_not_found(world: World) -> None:
    await world.add_devices(1)
    await world.create()
    other = world.server.operator("other")

    for call in (other.timeline(), world.operator.timeline("unknown")):
        await expect_error("JOB_NOT_FOUND", call)


async def test_timeline_of_one_job_of_a_tenant_is_computed_at_a_time(
    world: World, database: Database
) -> None:
    await world.add_devices(1)
    await world.create("j", "other")
    async with database.owner.transaction():
        # Briefly: the server's check of the database waits for it, too.
        await database.owner.execute("LOCK TABLE jobs.event_queue")
        first = await database.blocked_in("get_job_timeline", world.operator.timeline())
        same = [asyncio.ensure_future(world.operator.timeline()) for _ in range(3)]
        failure = await expect_error("LIMIT_EXCEEDED", world.operator.timeline("other"))
        assert await database.sessions_blocked_in("get_job_timeline") == 1
        first.cancel()  # The others still get the response.

    assert failure.retry_after == 1
    for each in same:
        assert (await each).HasField("computed_at")
    assert (await world.operator.timeline("other")).HasField("computed_at")
