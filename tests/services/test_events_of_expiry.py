"""job.expired: exactly once, before all that follows the expiry, whatever notices it first."""

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.database import Database
from tests.support.events import Event, EventLog, stored_events
from tests.support.postgres import connected
from tests.support.scale import SCALE
from tests.support.world import World

EXPIRED, COMPLETED = "job.expired", "job.completed"


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    async with Sweeper(database.owner_dsn) as sweeper:
        yield sweeper


async def expired_job(world: World, *, started: bool, paused: bool = False) -> None:
    """The job "j" of the devices "d1" and "d2", which has expired while d1 was started."""
    await world.add_devices(["d1", "d2"])
    await world.create()
    if started:
        await world.device("d1").start("j")
    if paused:
        await world.operator.pause("j")
    await world.expire()


async def check_expiry(world: World, events: list[Event]) -> None:
    """Both events of the expiry have its time, and no status from after it."""
    expires_at = await world.owner_value("SELECT expires_at FROM jobs.jobs WHERE tenant_id = $1")
    for event in events:
        assert (event.time, event.user, event.details) == (expires_at, None, {})


async def test_sweeper_adds_expired_and_completed(
    world: World, log: EventLog, sweeper: Sweeper
) -> None:
    await expired_job(world, started=False)
    await log.skip()

    await sweeper.run_once()

    events = await log.new()
    assert [(event.type, event.status, event.counts) for event in events] == [
        (EXPIRED, "COMPLETED", {"timed_out": 2}),
        (COMPLETED, "COMPLETED", {"timed_out": 2}),
    ]
    await check_expiry(world, events)
    await sweeper.run_once()
    assert await log.new() == []


async def test_first_transaction_of_a_finalization_adds_the_events(
    world: World, log: EventLog
) -> None:
    """The counts of readers do not change until the last one."""
    await expired_job(world, started=False)
    await log.skip()
    finalize = "SELECT next_device_id FROM jobs.finalize_executions($1, 'j', $2, 1, 1000)"

    assert await world.owner_value(finalize, "") == "d1"
    assert [event.counts for event in await log.new()] == [{"timed_out": 2}] * 2
    assert await world.owner_value(finalize, "d1") is None

    assert await log.new() == []


async def test_job_that_ended_before_does_not_expire(
    world: World, log: EventLog, sweeper: Sweeper
) -> None:
    await world.add_devices(["d1"])
    await world.create("canceled")
    await world.create()
    await world.device("d1").update("j", "SUCCEEDED")
    await world.operator.cancel("canceled")
    await world.execute("UPDATE jobs.jobs SET expires_at = now() WHERE tenant_id = $1")

    await sweeper.run_once()
    await world.operator.update("j", "description", description="x")
    await world.operator.delete("canceled")

    assert await log.types() == ["job.created", COMPLETED, "job.updated"]
    canceled = await stored_events(world.database, world.tenant, "canceled")
    assert [event.type for event in canceled] == ["job.created", "job.canceled", "job.deleted"]


async def test_approval_is_awaited_again_after_the_retry_of_an_expired_job(
    world: World, log: EventLog
) -> None:
    """Whether maintenance has finalized the job or not."""
    await world.add_devices(["d1", "d2"])
    gate = pb.Gate(require_approval=True)
    job = await world.create_staged({"device_count": 1, "gate": gate}, {"remainder": True})
    await job.finish(0)
    await world.expire()

    await world.operator.retry("j", "TIMED_OUT", expires_in_hours=1)

    assert await log.types() == [
        "job.created",
        "job.awaiting_approval",
        *(EXPIRED, COMPLETED, "job.retried"),
        "job.awaiting_approval",
    ]


# What can follow an expiry: each changes the job in one transaction, or fails.
Step = Callable[[World], Awaitable[object]]


def maintain(call: str) -> Step:
    """A step that calls a function in a session of its own."""

    async def step(world: World) -> None:
        async with connected(world.database.owner_dsn) as session:
            await session.fetch(f"SELECT jobs.{call}", world.tenant)

    return step


finalize = maintain("finalize_executions($1, 'j', '', 100, 1000)")


STEPS: dict[str, Step] = {
    "finalize": finalize,
    "report": lambda world: world.device("d1").update("j", "SUCCEEDED"),
    "time out": maintain("time_out_executions($1, 'j', '{d1}', 1000)"),
    "cancel": lambda world: world.operator.cancel("j"),
    "force cancel": lambda world: world.operator.cancel("j", force=True),
    "cancel execution": lambda world: world.operator.cancel_execution("j", "d1", force=True),
    "pause": lambda world: world.operator.pause("j"),
    "update": lambda world: world.operator.update("j", "description", description="x"),
    "delete": lambda world: world.operator.delete("j"),
    "delete device": lambda world: world.fleet.delete("d2"),
    "retry": lambda world: world.operator.retry("j", "TIMED_OUT", expires_in_hours=1),
}
_ORDERS = [*itertools.permutations(STEPS, 2), *itertools.permutations(list(STEPS)[:5], 3)]
if SCALE == 1:
    _ORDERS = random.Random(1).sample(_ORDERS, 50)  # noqa: S311 - repeatable on purpose


async def run(step: Step, world: World) -> bool:
    """Run a step; return whether it succeeded."""
    try:
        await step(world)
    except grpc.aio.AioRpcError:
        return False
    return True


def check_history(events: list[Event]) -> None:
    """Fail unless each expiry has one event, before all that follows it.

    job.completed is the next one if nothing was started. A job that has ended changes no more,
    until it is retried.
    """
    types = [event.type for event in events]
    assert types.index(EXPIRED) == 1
    assert types.count(EXPIRED) <= 1 + types.count("job.retried")
    has_ended = False
    for event, following in zip(events, [*events[1:], None], strict=True):
        assert not has_ended or event.type in ("job.retried", "job.updated", "job.deleted"), types
        if event.type == EXPIRED and "in_progress" not in event.counts:
            assert event.status == "COMPLETED"
            assert following is not None
            assert (following.type, following.time) == (COMPLETED, event.time)
            continue
        if event.type in (COMPLETED, "job.canceled", "job.retried"):
            has_ended = event.type != "job.retried"
        assert (event.status in ("COMPLETED", "CANCELED")) == has_ended, types


@pytest.mark.slow
@pytest.mark.parametrize("started", [False, True])
async def test_expired_comes_once_and_first_in_every_order(world: World, started: bool) -> None:
    orders = _ORDERS[started::2] if SCALE == 1 else _ORDERS
    for number, order in enumerate(orders):
        operator = world.server.operator(f"order-{started}-{number}", "olivia")
        world = World(world.database, world.server, operator)
        await expired_job(world, started=started)
        await world.make_overdue()
        for name in order:
            await run(STEPS[name], world)
        await finalize(world)
        check_history(await stored_events(world.database, world.tenant))


FIRST = {
    "finalize": "finalize_executions($1, 'j', '', 100, 1000)",
    "report": "update_executions($1, 1000, '{j}', '{f}', '{d1}', '{SUCCEEDED}', '{NULL}',"
    " '{NULL}', '{NULL}', '{NULL}', '{f}', '{NULL}')",
    "cancel": "cancel_job($1, 'j', 'r')",
    "retry": "retry_executions($1, 'j', '{TIMED_OUT}', 1, false, NULL)",
}


@pytest.mark.slow
@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", [name for name in STEPS if name != "delete device"])
async def test_expired_comes_once_when_two_notice_it(world: World, first: str, second: str) -> None:
    """The second waits for the job lock of the first, which has not committed."""
    await expired_job(world, started=True)
    await world.make_overdue()

    statement = f"SELECT * FROM jobs.{FIRST[first]}"
    await (await world.wait_for_commit(run(STEPS[second], world), statement))

    await finalize(world)
    events = await stored_events(world.database, world.tenant)
    check_history(events)
    assert [event.type for event in events].count(EXPIRED) == 1


async def test_event_that_fails_is_rolled_back_with_the_expiry(world: World, log: EventLog) -> None:
    """The next call adds the events of the expiry."""
    await expired_job(world, started=False)
    await log.skip()

    assert not await run(STEPS["pause"], world)
    assert await log.new() == []

    assert await run(STEPS["update"], world)
    assert await log.types() == [EXPIRED, COMPLETED, "job.updated"]


async def test_job_that_expires_while_a_call_waits_for_its_lock(
    world: World, log: EventLog
) -> None:
    await world.add_devices(["d1", "d2"])
    await world.create()
    await world.device("d1").start("j")
    await log.skip()

    async with world.lock_held():
        pausing = await world.blocked(world.operator.pause("j"))
        await world.execute("UPDATE jobs.jobs SET expires_at = now() WHERE tenant_id = $1")
    await pausing

    expired, paused = await log.new()
    assert (expired.type, expired.status, paused.type) == (EXPIRED, "IN_PROGRESS", "job.paused")
    assert paused.time - expired.time < timedelta(minutes=1)
