"""job.expired: exactly once, before all that follows the expiry, whatever notices it first."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import asyncpg
import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import DeleteDevicesRequest

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.events import Event, EventLog, stored_events
from tests.support.races import wait_for_commit
from tests.support.scale import SCALE
from tests.support.server import Server
from tests.support.staged_jobs import create_staged_job

EXPIRED, COMPLETED = "job.expired", "job.completed"


@pytest.fixture
def log(database: Database, operator: Operator) -> EventLog:
    """The events of the job "j"."""
    return EventLog(database, operator)


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    """A sweeper of all tenants."""
    async with Sweeper(database.owner_dsn) as sweeper:
        yield sweeper


async def expired_job(
    database: Database, server: Server, operator: Operator, *, started: bool, paused: bool = False
) -> None:
    """The job "j" of the devices "d1" and "d2", which has expired while d1 was started."""
    await database.add_devices(operator.tenant, ["d1", "d2"])
    await operator.create(job_id="j", target_all=True)
    if started:
        await server.device(operator.tenant, "d1").start("j")
    if paused:
        await operator.pause("j")
    await database.expire(operator.tenant, "j")


async def check_expiry(database: Database, tenant: str, events: list[Event]) -> None:
    """Both events of the expiry have its time, and no status from after it."""
    expires_at = await database.owner.fetchval(
        "SELECT expires_at FROM jobs.jobs WHERE tenant_id = $1 AND job_id = 'j'", tenant
    )
    for event in events:
        assert (event.time, event.user, event.details) == (expires_at, None, {})


async def test_sweeper_adds_expired_and_completed(
    database: Database, server: Server, operator: Operator, log: EventLog, sweeper: Sweeper
) -> None:
    await expired_job(database, server, operator, started=False)
    await log.skip()

    await sweeper.run_once()

    events = await log.new()
    assert [(event.type, event.status, event.counts) for event in events] == [
        (EXPIRED, "COMPLETED", {"timed_out": 2}),
        (COMPLETED, "COMPLETED", {"timed_out": 2}),
    ]
    await check_expiry(database, operator.tenant, events)
    await sweeper.run_once()
    assert await log.new() == []


@pytest.mark.parametrize("paused", [False, True])
async def test_job_with_a_started_device_completes_later(
    database: Database,
    server: Server,
    operator: Operator,
    log: EventLog,
    sweeper: Sweeper,
    paused: bool,
) -> None:
    await expired_job(database, server, operator, started=True, paused=paused)
    await sweeper.run_once()
    *_, expired = await log.new()
    assert (expired.type, expired.status) == (EXPIRED, "PAUSED" if paused else "IN_PROGRESS")
    assert expired.counts == {"in_progress": 1, "timed_out": 1}
    await check_expiry(database, operator.tenant, [expired])

    await server.device(operator.tenant, "d1").update("j", "SUCCEEDED")

    completed = await log.one()
    assert (completed.type, completed.status) == (COMPLETED, "COMPLETED")
    assert completed.time > expired.time


async def test_first_transaction_of_a_finalization_adds_the_events(
    database: Database, server: Server, operator: Operator, log: EventLog
) -> None:
    """The counts of readers do not change until the last one."""
    await expired_job(database, server, operator, started=False)
    await log.skip()
    finalize = "SELECT next_device_id FROM jobs.finalize_executions($1, 'j', $2, 1, 1000)"

    assert await database.owner.fetchval(finalize, operator.tenant, "") == "d1"
    assert [event.counts for event in await log.new()] == [{"timed_out": 2}] * 2
    assert await database.owner.fetchval(finalize, operator.tenant, "d1") is None

    assert await log.new() == []


async def test_job_that_ended_before_does_not_expire(
    database: Database, server: Server, operator: Operator, log: EventLog, sweeper: Sweeper
) -> None:
    await database.add_devices(operator.tenant, ["d1"])
    await operator.create(job_id="canceled", target_all=True)
    await operator.create(job_id="j", target_all=True)
    await server.device(operator.tenant, "d1").update("j", "SUCCEEDED")
    await operator.cancel("canceled")
    await database.owner.execute(
        "UPDATE jobs.jobs SET expires_at = now() WHERE tenant_id = $1", operator.tenant
    )

    await sweeper.run_once()
    await operator.update("j", "description", description="x")
    await operator.delete("canceled")

    assert await log.types() == ["job.created", COMPLETED, "job.updated"]
    canceled = await stored_events(database, operator.tenant, "canceled")
    assert [event.type for event in canceled] == ["job.created", "job.canceled", "job.deleted"]


async def test_job_expires_again_after_a_retry(
    database: Database, server: Server, operator: Operator, log: EventLog, sweeper: Sweeper
) -> None:
    await expired_job(database, server, operator, started=False)
    for _ in range(2):
        await operator.retry("j", "TIMED_OUT", expires_in_hours=1)
        await database.expire(operator.tenant, "j")
    await sweeper.run_once()

    events = await log.new()

    assert [event.type for event in events] == [
        "job.created",
        *(EXPIRED, COMPLETED, "job.retried") * 2,
        *(EXPIRED, COMPLETED),
    ]
    assert [event.status for event in events if event.type == "job.retried"] == ["IN_PROGRESS"] * 2


async def test_approval_is_awaited_again_after_the_retry_of_an_expired_job(
    database: Database, server: Server, operator: Operator, log: EventLog
) -> None:
    """Whether maintenance has finalized the job or not."""
    await database.add_devices(operator.tenant, ["d1", "d2"])
    gate = pb.Gate(require_approval=True)
    job = await create_staged_job(
        database, server, operator, {"device_count": 1, "gate": gate}, {"remainder": True}
    )
    await job.finish(0)
    await database.expire(operator.tenant, "j")

    await operator.retry("j", "TIMED_OUT", expires_in_hours=1)

    assert await log.types() == [
        "job.created",
        "job.awaiting_approval",
        *(EXPIRED, COMPLETED, "job.retried"),
        "job.awaiting_approval",
    ]


# What can follow an expiry: each changes the job in one transaction, or fails.
Step = Callable[[Database, Server, Operator], Awaitable[object]]


async def _sweep(database: Database, server: Server, operator: Operator) -> None:
    await _maintain(database, "finalize_executions($1, 'j', '', 100, 1000)", operator.tenant)


async def _time_out(database: Database, server: Server, operator: Operator) -> None:
    await _maintain(database, "time_out_executions($1, 'j', '{d1}', 1000)", operator.tenant)


async def _maintain(database: Database, call: str, tenant: str) -> None:
    """Call a function in a session of its own."""
    session = await asyncpg.connect(database.owner_dsn)
    try:
        await session.fetch(f"SELECT jobs.{call}", tenant)
    finally:
        await session.close()


async def _delete_device(database: Database, server: Server, operator: Operator) -> None:
    await server.fleet(operator.tenant).stub.DeleteDevices(
        DeleteDevicesRequest(device_ids=["d2"]), metadata=operator.metadata
    )


STEPS: dict[str, Step] = {
    "finalize": _sweep,
    "report": lambda d, s, o: s.device(o.tenant, "d1").update("j", "SUCCEEDED"),
    "time out": _time_out,
    "cancel": lambda d, s, o: o.cancel("j"),
    "force cancel": lambda d, s, o: o.cancel("j", force=True),
    "cancel execution": lambda d, s, o: o.cancel_execution("j", "d1", force=True),
    "pause": lambda d, s, o: o.pause("j"),
    "update": lambda d, s, o: o.update("j", "description", description="x"),
    "delete": lambda d, s, o: o.delete("j"),
    "delete device": _delete_device,
    "retry": lambda d, s, o: o.retry("j", "TIMED_OUT", expires_in_hours=1),
}
_ORDERS = [*itertools.permutations(STEPS, 2), *itertools.permutations(list(STEPS)[:5], 3)]
if SCALE == 1:
    _ORDERS = random.Random(1).sample(_ORDERS, 50)  # noqa: S311 - repeatable on purpose


async def _run(step: Step, database: Database, server: Server, operator: Operator) -> bool:
    """Run a step; return whether it succeeded."""
    try:
        await step(database, server, operator)
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
async def test_expired_comes_once_and_first_in_every_order(
    database: Database, server: Server, started: bool
) -> None:
    for number, order in enumerate(_ORDERS):
        operator = server.operator(f"order-{started}-{number}", "olivia")
        await expired_job(database, server, operator, started=started)
        await database.make_overdue(operator.tenant, "j")
        for name in order:
            await _run(STEPS[name], database, server, operator)
        await _sweep(database, server, operator)
        check_history(await stored_events(database, operator.tenant))


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
async def test_expired_comes_once_when_two_notice_it(
    database: Database, server: Server, operator: Operator, first: str, second: str
) -> None:
    """The second waits for the job lock of the first, which has not committed."""
    await expired_job(database, server, operator, started=True)
    await database.make_overdue(operator.tenant, "j")

    step = _run(STEPS[second], database, server, operator)
    statement = f"SELECT * FROM jobs.{FIRST[first]}"
    await (await wait_for_commit(database, step, statement, operator.tenant))

    await _sweep(database, server, operator)
    events = await stored_events(database, operator.tenant)
    check_history(events)
    assert [event.type for event in events].count(EXPIRED) == 1


async def test_event_that_fails_is_rolled_back_with_the_expiry(
    database: Database, server: Server, operator: Operator, log: EventLog
) -> None:
    """The next call adds the events of the expiry."""
    await expired_job(database, server, operator, started=False)
    await log.skip()

    assert not await _run(STEPS["pause"], database, server, operator)
    assert await log.new() == []

    assert await _run(STEPS["update"], database, server, operator)
    assert await log.types() == [EXPIRED, COMPLETED, "job.updated"]


async def test_job_that_expires_while_a_call_waits_for_its_lock(
    database: Database, server: Server, operator: Operator, log: EventLog
) -> None:
    await database.add_devices(operator.tenant, ["d1", "d2"])
    await operator.create(job_id="j", target_all=True)
    await server.device(operator.tenant, "d1").start("j")
    await log.skip()

    async with job_lock_held(database, operator.tenant, "j"):
        pausing = asyncio.create_task(operator.pause("j"))
        await database.wait_for_blocked_sessions(1)
        await database.owner.execute(
            "UPDATE jobs.jobs SET expires_at = now() WHERE tenant_id = $1",
            operator.tenant,
        )
    await pausing

    expired, paused = await log.new()
    assert (expired.type, expired.status, paused.type) == (EXPIRED, "IN_PROGRESS", "job.paused")
    assert paused.time - expired.time < timedelta(minutes=1)
