"""ListEvents: the events of a tenant in one order, from any position."""

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import jobs_pb2

from tests.support.callers import Events
from tests.support.database import Database
from tests.support.event_rows import queue_event, store_events
from tests.support.failures import expect_error, invalid_fields
from tests.support.world import World


async def job_types(events: Events, **fields: Any) -> list[tuple[str, str]]:
    return [(event.job_id, event.type) for event in (await events.list(**fields)).events]


async def pages(events: Events, **fields: Any) -> list[pb.ListEventsResponse]:
    found = [await events.list(**fields)]
    while found[-1].has_more:
        found.append(await events.list(**fields, after_position=found[-1].position))
    return found


async def test_events_of_calls_are_listed_in_order(world: World) -> None:
    await world.add_devices(["pump", "valve"])
    await world.create("a", "b")
    await world.operator.pause("a", reason="error rate")
    await world.operator.resume("a")

    page = await world.events.list()

    assert [(event.job_id, event.type) for event in page.events] == [
        *(("a", "job.created"), ("b", "job.created"), ("a", "job.paused"), ("a", "job.resumed"))
    ]
    paused = page.events[2]
    assert (paused.status, paused.user_id) == (jobs_pb2.Job.PAUSED, "olivia")
    assert (paused.cause, paused.reason) == ("OPERATOR", "error rate")
    assert paused.execution_counts.queued + paused.execution_counts.held == 2
    assert (page.position, page.has_more) == (page.events[-1].position, False)


async def test_position_is_about_the_time_in_microseconds(world: World) -> None:
    before = datetime.now(UTC)
    await queue_event(world.database.owner, world.tenant, "j")
    await queue_event(world.database.owner, world.tenant, "j")

    first, second = (await world.events.list()).events

    stored_at = datetime.fromtimestamp(first.position / 1_000_000, UTC)
    assert abs(stored_at - before) < timedelta(minutes=1)
    assert second.position == first.position + 1


async def test_pages_have_each_event_once_while_events_are_added(world: World) -> None:
    for n in range(5):
        await queue_event(world.database.owner, world.tenant, f"j{n}")

    read: list[pb.Event] = []
    position = 0
    for n in range(20):
        page = await world.events.list(after_position=position, limit=2)
        read += page.events
        position = page.position
        if n < 10:
            await queue_event(world.database.owner, world.tenant, f"later-{n}")

    assert [event.job_id for event in read] == [
        *(f"j{n}" for n in range(5)),
        *(f"later-{n}" for n in range(10)),
    ]
    assert [event.position for event in read] == sorted({event.position for event in read})


async def test_events_of_a_job_keep_their_order_when_the_clock_goes_back(world: World) -> None:
    now = datetime.now(UTC)
    for job_id, type_, minutes in (
        ("a", "job.created", 0),
        ("a", "job.expired", -30),
        ("b", "job.created", -10),
        ("a", "job.completed", -30),
    ):
        at = now + timedelta(minutes=minutes)
        await queue_event(world.database.owner, world.tenant, job_id, type_, occurred_at=at)

    assert await job_types(world.events) == [
        ("b", "job.created"),
        ("a", "job.created"),
        ("a", "job.expired"),
        ("a", "job.completed"),
    ]


async def test_filters_by_type_and_job(database: Database, events: Events, tenant: str) -> None:
    for job_id in ("a", "b"):
        for type_ in ("job.created", "job.paused", "job.canceled"):
            await queue_event(database.owner, tenant, job_id, type_)
    last = (await events.list()).position

    by_type = await events.list(types=["job.paused"])
    by_job = await events.list(job_id="b", limit=2)

    assert (by_type.position, by_type.has_more) == (last, False)
    assert (by_job.position, by_job.has_more) == (by_job.events[-1].position, True)
    for filters, expected in (
        ({"types": ["job.paused"]}, ["a job.paused", "b job.paused"]),
        ({"job_id": "b", "limit": 2}, ["b job.created", "b job.paused"]),
        (
            {"job_id": "b", "types": ["job.created", "job.canceled"]},
            ["b job.created", "b job.canceled"],
        ),
    ):
        assert [" ".join(found) for found in await job_types(events, **filters)] == expected


@pytest.mark.parametrize("job_id", ["", "job-0"])
async def test_call_examines_at_most_5000_events(world: World, job_id: str) -> None:
    await store_events(world.database, world.tenant, 12_000, days_ago=1, jobs=1)
    last = await store_events(world.database, world.tenant, 1, type_="job.rare", jobs=1)

    found = await pages(world.events, types=["job.rare"], job_id=job_id)

    assert [len(page.events) for page in found] == [0, 0, 1]
    assert found[-1].position == last


async def test_page_ends_before_the_maximum_size_of_a_response(world: World) -> None:
    attempts = [
        {"device_id": f"{n:0200}", "status": "FAILED", "failure_code": "x" * 60} for n in range(100)
    ]
    last = await store_events(world.database, world.tenant, 200, details={"attempts": attempts})

    found = await pages(world.events, limit=1000)

    positions = [event.position for page in found for event in page.events]
    assert positions == list(range(last - 199, last + 1))
    assert len(found) > 1
    assert found[0].events[0].attempts[99].status == jobs_pb2.JobExecution.FAILED


async def test_from_time_begins_at_the_first_event_of_this_time(world: World) -> None:
    await store_events(world.database, world.tenant, 3, days_ago=2)
    last = await store_events(world.database, world.tenant, 2, days_ago=1)
    now = datetime.now(UTC)

    for from_time, expected in (
        (now - timedelta(days=1.5), [last - 1, last]),
        (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=last), [last]),
        (now + timedelta(seconds=2), []),
    ):
        page = await world.events.list(from_time=from_time)
        assert [event.position for event in page.events] == expected
        assert (page.position, page.has_more) == (last, False)
    assert len((await world.events.list(from_time=datetime(2000, 1, 1, tzinfo=UTC))).events) == 5


async def test_from_time_in_the_future_is_rejected(events: Events) -> None:
    later = datetime.now(UTC) + timedelta(minutes=1)
    failure = await expect_error("INVALID_FIELD", events.list(from_time=later))
    assert {*failure.violations} == {"from_time"}
    assert failure.violations["from_time"] == "from_time must not be later than now"

    async with aclosing(events.watch(from_time=later)) as responses:
        assert await invalid_fields(anext(responses)) == ["from_time"]


async def test_unknown_position_is_rejected(world: World) -> None:
    last = await store_events(world.database, world.tenant, 3)

    failure = await expect_error("POSITION_UNKNOWN", world.events.list(after_position=last + 1))

    assert failure.metadata == {"position": str(last + 1), "lastPosition": str(last)}


async def test_tenant_without_events_has_a_position(events: Events) -> None:
    first = await events.list()
    second = await events.list(after_position=first.position)

    assert first.position > 0
    assert second == first


async def test_events_of_other_tenants_are_not_listed(world: World) -> None:
    await queue_event(world.database.owner, world.tenant, "j")
    other = world.server.events(f"{world.tenant}-2")
    await queue_event(world.database.owner, other.tenant, "j2")

    assert await job_types(world.events) == [("j", "job.updated")]
    assert await job_types(other) == [("j2", "job.updated")]
    assert await job_types(other, job_id="j") == []


async def test_invalid_fields_are_rejected(events: Events) -> None:
    assert {
        *await invalid_fields(
            events.list(after_position=-1, types=["Job Created"], job_id="a b", limit=0)
        )
    } == {"after_position", "types[0]", "job_id", "limit"}
