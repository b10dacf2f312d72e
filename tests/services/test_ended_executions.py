"""A device learns of attempts that others ended, until it acknowledges them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import ended_of
from tests.support.database import edited_function, uncommitted
from tests.support.failures import expect_error, invalid_fields
from tests.support.retry_policies import rule
from tests.support.world import World

CANCELED, TIMED_OUT = ("j", 1, "JOB_CANCELED"), ("j", 1, "TIMEOUT")


async def _cancel_job(world: World) -> None:
    await world.operator.cancel("j", force=True)


async def _cancel_job_and_finalize(world: World) -> None:
    await world.operator.cancel("j", force=True)
    await world.sweep()


async def _cancel_execution(world: World) -> None:
    await world.operator.cancel_execution("j", "pump", force=True)


async def _time_out(world: World) -> None:
    await world.make_overdue("j")
    await world.sweep()


ENDS: dict[str, tuple[Callable[[World], Awaitable[None]], str]] = {
    "forced cancel": (_cancel_job, "JOB_CANCELED"),
    "forced cancel that was finalized": (_cancel_job_and_finalize, "JOB_CANCELED"),
    "cancel of the execution": (_cancel_execution, "EXECUTION_CANCELED"),
    "timeout": (_time_out, "TIMEOUT"),
}
each_end = pytest.mark.parametrize(("end", "cause"), ENDS.values(), ids=ENDS)


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    await world.add_devices(["pump", "valve"])


async def start(world: World, **fields: Any) -> None:
    """Create the job "j", and start it on "pump"."""
    await world.create(in_progress_timeout_minutes=30, **fields)
    await world.pump.start("j")


@each_end
async def test_each_response_has_what_others_ended_until_it_is_acknowledged(
    world: World, end: Callable[[World], Awaitable[None]], cause: str
) -> None:
    await start(world)
    await world.create("other")
    assert await world.pump.ended() == []
    responses = world.pump.watch()
    assert ended_of(await anext(responses)) == []

    await end(world)

    ended = [("j", 1, cause)]
    assert ended_of(await anext(responses)) == ended
    assert ended_of(await world.pump.pending(limit=1)) == ended
    for _ in range(2):
        response = await world.pump.start_next_response()
        assert (response.execution.job_id, ended_of(response)) == ("other", ended)
    await world.pump.update("other", "SUCCEEDED")
    response = await world.pump.start_next_response()
    assert (response.HasField("execution"), ended_of(response)) == (False, ended)
    assert await world.device("valve").ended() == []
    before = await world.operator.get("j")

    await world.pump.acknowledge(("j", 1))
    await world.pump.acknowledge(("j", 1))

    assert await world.pump.ended() == []
    assert ended_of(await world.pump.start_next_response()) == []
    assert ended_of(await anext(world.pump.watch())) == []
    assert await world.operator.get("j") == before
    await world.sweep()
    assert await world.operator.get("j") == before
    assert await world.pump.ended() == []


@each_end
async def test_a_deleted_job_is_left_out(
    world: World, end: Callable[[World], Awaitable[None]], cause: str
) -> None:
    await start(world, target_device_id="pump")
    await end(world)
    await world.operator.delete("j")

    assert await world.pump.ended() == []
    await world.pump.acknowledge(("j", 1))
    assert await world.pump.ended() == []


async def test_an_execution_that_the_device_had_not_started_is_left_out(world: World) -> None:
    await world.create("canceled", "canceled-too")
    await world.create("expired", expires_in_hours=1)
    await world.operator.cancel("canceled", force=True)
    await world.operator.cancel_execution("canceled-too", "pump", force=True)
    await world.expire("expired")

    assert await world.pump.ended() == []
    await world.sweep()
    assert await world.pump.ended() == []


@pytest.mark.single_node("an advisory lock is of one node")
async def test_response_is_of_one_moment(world: World) -> None:
    """The device starts a job that is canceled after its pending executions were read."""
    await world.create("canceled", "later")
    await world.pump.start("canceled")
    await world.operator.cancel("canceled", force=True)
    part = "GET DIAGNOSTICS"
    wait = f"PERFORM pg_advisory_xact_lock(4711); {part}"
    async with edited_function(world.database, "list_pending_executions", part, wait):
        async with world.database.owner.transaction():
            await world.database.owner.execute("SELECT pg_advisory_xact_lock(4711)")
            reading = await world.blocked(world.pump.pending())
            await world.pump.start("later")
            await world.operator.cancel("later", force=True)
        response = await reading

    assert [each.job_id for each in response.executions] == ["later"]
    assert ended_of(response) == [("canceled", 1, "JOB_CANCELED")]


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "REJECTED"])
async def test_what_the_device_ended_is_left_out(world: World, status: str) -> None:
    await start(world)
    await world.pump.update("j", status)

    assert await world.pump.ended() == []


async def test_a_retried_attempt_is_known_until_the_next_one_starts(world: World) -> None:
    await start(world, retry_policy=pb.RetryPolicy(rules=[rule()]))
    await _time_out(world)

    assert (await world.pump.get("j")).execution_number == 2
    assert await world.pump.ended() == [TIMED_OUT]
    await world.pass_time(301)
    response = await world.pump.start_next_response()
    assert (response.execution.execution_number, ended_of(response)) == (2, [])
    assert await world.pump.ended() == []


async def test_a_retried_attempt_can_be_acknowledged(world: World) -> None:
    await start(world, retry_policy=pb.RetryPolicy(rules=[rule()]))
    await _time_out(world)
    before = await world.pump.get("j")

    await world.pump.acknowledge(("j", 2))
    assert await world.pump.ended() == [TIMED_OUT]
    await world.pump.acknowledge(("j", 1))

    assert await world.pump.ended() == []
    assert await world.pump.get("j") == before


@pytest.mark.parametrize("forced", [False, True])
async def test_an_earlier_attempt_stays_known_when_the_next_one_is_canceled(
    world: World, forced: bool
) -> None:
    await start(world, retry_policy=pb.RetryPolicy(rules=[rule()]))
    await _time_out(world)

    await world.operator.cancel("j", force=forced)
    assert await world.pump.ended() == [TIMED_OUT]
    await world.sweep()

    assert await world.pump.ended() == [TIMED_OUT]
    await world.pump.acknowledge(("j", 1))
    assert await world.pump.ended() == []


async def test_an_earlier_attempt_stays_known_when_the_next_one_expires(world: World) -> None:
    await start(world, retry_policy=pb.RetryPolicy(rules=[rule()]), expires_in_hours=24)
    await _time_out(world)
    await world.expire()
    assert await world.pump.ended() == [TIMED_OUT]
    await world.sweep()
    assert await world.pump.ended() == [TIMED_OUT]

    await world.operator.retry("j", "TIMED_OUT", expires_in_hours=1)

    assert (await world.pump.get("j")).execution_number == 3
    assert await world.pump.ended() == [TIMED_OUT]
    await world.pump.update("j", "SUCCEEDED", execution_number=3)
    assert await world.pump.ended() == []


async def test_a_cancel_of_an_operator_stays_known_after_a_retry(world: World) -> None:
    await start(world)
    await _cancel_execution(world)
    await world.operator.retry("j", "REJECTED")

    assert await world.pump.ended() == [("j", 1, "EXECUTION_CANCELED")]
    await world.pump.start("j")
    await _cancel_execution(world)
    assert await world.pump.ended() == [("j", 2, "EXECUTION_CANCELED")]


async def test_acknowledgement_before_finalization_writes_the_same(world: World) -> None:
    await world.create(rollout=pb.Rollout(stages=[pb.Stage(remainder=True)]))
    for name in ("pump", "valve"):
        await world.device(name).start("j")
    await world.operator.cancel("j", reason="smoke", force=True)
    await world.pump.acknowledge(("j", 1))
    columns = (
        "status::text, version, execution_number, canceled_by_operator, started_at IS NULL,"
        " last_updated_at, status_details, failure_code, end_cause, times_out_at"
    )
    sql = f"SELECT {columns} FROM jobs.job_executions WHERE tenant_id = $1 AND device_id = $2"
    (acknowledged,) = await world.rows(sql, "pump")

    await world.sweep()

    assert await world.rows(sql, "pump") == [acknowledged]
    assert await world.rows(sql, "valve") == [acknowledged]
    assert await world.device("valve").ended() == [CANCELED]


async def test_acknowledgement_waits_for_finalization(world: World) -> None:
    await start(world)
    await world.operator.cancel("j", force=True)

    finalize = "SELECT jobs.finalize_executions($1, 'j', '', 10, 0)"
    async with uncommitted(world.database, finalize, world.tenant):
        call = asyncio.create_task(world.pump.acknowledge(("j", 1)))
        assert await world.pump.ended() == [CANCELED]
    await call

    assert await world.pump.ended() == []


async def test_acknowledgements_of_a_locked_job_delay_no_others(world: World) -> None:
    await start(world)
    await world.create("other")
    for device in (world.pump, world.device("valve")):
        await device.start("other")
    for job in ("j", "other"):
        await world.operator.cancel(job, force=True)

    async with world.lock_held():
        call = asyncio.create_task(world.pump.acknowledge(("j", 1), ("other", 1)))
        await world.device("valve").acknowledge(("other", 1))
        assert await world.database.blocked_sessions() == 0
        await expect_error("DATABASE_UNAVAILABLE", call)

    assert await world.device("valve").ended() == []
    assert await world.pump.ended() == [CANCELED]
    await world.pump.acknowledge(("j", 1))
    assert await world.pump.ended() == []


async def test_a_device_acknowledges_only_its_own_attempts(world: World) -> None:
    await start(world)
    await _time_out(world)

    await world.device("valve").acknowledge(("j", 1))
    await world.pump.acknowledge(("unknown", 1), ("j", 7))

    assert await world.pump.ended() == [TIMED_OUT]


async def test_many_attempts_are_returned_in_parts(world: World) -> None:
    jobs = [f"j{n:03}" for n in range(102)]
    await world.create(*jobs)
    for job in jobs:
        await world.pump.start(job)
        await world.operator.cancel_execution(job, "pump", force=True)

    known: set[str] = set()
    for number in (100, 2, 0):
        ended = await world.pump.ended()
        assert len(ended) == number
        known |= {job for job, _, _ in ended}
        if ended:
            await world.pump.acknowledge(*((job, attempt) for job, attempt, _ in ended))
    assert known == {*jobs}


async def test_invalid_acknowledgements_are_rejected(world: World) -> None:
    assert await invalid_fields(world.pump.acknowledge()) == ["executions"]
    assert await invalid_fields(world.pump.acknowledge(*[("j", 1)] * 101)) == ["executions"]
    assert await invalid_fields(world.pump.acknowledge(("", 0))) == [
        "executions[0].job_id",
        "executions[0].execution_number",
    ]
    await world.pump.acknowledge(*[("j", 1)] * 100)


async def test_ended_executions_are_on_the_first_page(world: World) -> None:
    await start(world)
    await _time_out(world)
    await world.create("a", "b")

    first = await world.pump.pending(limit=1)
    second: device_pb.ListPendingExecutionsResponse = await world.pump.pending(
        limit=1, page_token=first.next_page_token
    )

    assert (ended_of(first), ended_of(second)) == ([TIMED_OUT], [])
