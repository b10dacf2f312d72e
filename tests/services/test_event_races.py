"""Readers of events while transactions are open, and while events are purged."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Literal, TypeAlias

import pytest
from fleet.jobs.v1 import events_pb2 as pb

from tests.support.callers import Events, Operator
from tests.support.database import Database, replaced_function, uncommitted
from tests.support.event_rows import store_events
from tests.support.failures import expect_error
from tests.support.postgres import Postgres, connected
from tests.support.world import World

pytestmark = pytest.mark.single_node("holds locks and transactions on one node")

Isolation: TypeAlias = Literal["read_committed", "serializable"]

_PAGE_LOCK = 7
"""An advisory lock that a page waits for."""
_PURGE = "SELECT jobs.purge_events($1, 7, 1000000, 1000)"


@pytest.fixture
async def jobs(database: Database, operator: Operator) -> Operator:
    await database.add_devices(operator.tenant, ["pump"])
    for job_id in ("a", "b"):
        await operator.create(job_id=job_id, target_all=True)
    return operator


async def types_after(events: Events, position: int) -> list[tuple[str, str]]:
    """Return the jobs and types of the events after a position, from ListEvents and a stream."""
    page = await events.list(after_position=position)
    found = [(event.job_id, event.type) for event in page.events]
    streamed: list[tuple[str, str]] = []
    async with aclosing(events.watch(after_position=position)) as responses:
        async for response in responses:
            streamed += [(event.job_id, event.type) for event in response.events]
            if response.position >= page.position:
                break
    assert streamed == found
    return found


async def next_types(stream: AsyncIterator[pb.WatchEventsResponse]) -> list[tuple[str, str]]:
    while not (response := await anext(stream)).events:
        pass
    return [(event.job_id, event.type) for event in response.events]


@pytest.mark.parametrize("isolation", ["read_committed", "serializable"])
@pytest.mark.parametrize("same_database", [False, True])
async def test_open_transaction_delays_no_event(
    world: World,
    cluster: tuple[Postgres, str],
    jobs: Operator,
    events: Events,
    isolation: Isolation,
    same_database: bool,
) -> None:
    start = (await events.list()).position
    dsn = world.database.owner_dsn if same_database else cluster[0].dsn("postgres")
    async with connected(dsn) as other, other.transaction(isolation=isolation):
        assert await other.fetchval("SELECT pg_current_xact_id()::text")  # a writer's transaction
        if same_database:
            await other.fetchval("SELECT count(*) FROM jobs.events")

        await jobs.pause("a")
        await jobs.cancel("b")

        assert await types_after(events, start) == [("a", "job.paused"), ("b", "job.canceled")]


async def test_uncommitted_change_delays_no_event_of_other_jobs(
    database: Database, jobs: Operator, events: Events
) -> None:
    start = (await events.list()).position
    pause = "SELECT jobs.pause_job($1, 'b', '', 'peter', '')"
    async with aclosing(events.watch(after_position=start)) as stream:
        async with uncommitted(database, pause, jobs.tenant):
            await jobs.pause("a")
            assert await types_after(events, start) == [("a", "job.paused")]
            assert await next_types(stream) == [("a", "job.paused")]
            position = (await events.list()).position
            await jobs.resume("a")
            assert await types_after(events, position) == [("a", "job.resumed")]
            assert await next_types(stream) == [("a", "job.resumed")]
            position = (await events.list()).position

        # Its position is that of the commit, so a reader who has passed the others still gets it.
        assert await types_after(events, position) == [("b", "job.paused")]
        assert await next_types(stream) == [("b", "job.paused")]


@asynccontextmanager
async def page_held(database: Database, where: str) -> AsyncIterator[None]:
    """Make each page wait before or after it reads the events, until the block ends."""
    lock = f"PERFORM pg_advisory_xact_lock_shared({_PAGE_LOCK});"
    definition = await database.owner.fetchval(
        "SELECT pg_get_functiondef('jobs.event_page'::regproc)"
    )
    head, begin, body = definition.partition("\nBEGIN\n")
    body, end, tail = body.rpartition("\nEND ")
    assert begin
    assert end
    held = f"{lock}\n{body}" if where == "before" else f"{body}\n{lock}"
    function = f"{head}{begin}{held}{end}{tail}"
    async with (
        replaced_function(database, "jobs.event_page", function),
        connected(database.owner_dsn) as holder,
    ):
        await holder.execute("SELECT pg_advisory_lock($1)", _PAGE_LOCK)
        yield


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("job_id", ["", "job-1"])
async def test_purge_while_a_page_is_read_is_an_error_and_no_gap(
    database: Database, events: Events, tenant: str, where: str, job_id: str
) -> None:
    old = await store_events(database, tenant, 20, days_ago=8)
    last = await store_events(database, tenant, 1)

    async with page_held(database, where):
        reading = await database.blocked(events.list(after_position=old - 10, job_id=job_id))
        await database.owner.fetchval(_PURGE, tenant)
        left = await database.owner.fetch(
            "SELECT position FROM jobs.events WHERE tenant_id = $1", tenant
        )
        assert [row["position"] for row in left] == [last]
    failure = await expect_error("EVENTS_PURGED", reading)

    assert failure.metadata["purgedPosition"] == str(old)
    page = await events.list(after_position=old)
    assert [event.position for event in page.events] == [last]


@pytest.mark.parametrize("where", ["before", "after"])
async def test_events_are_not_purged_while_a_page_from_the_oldest_is_read(
    database: Database, events: Events, tenant: str, where: str
) -> None:
    old = await store_events(database, tenant, 20, days_ago=8)

    async with page_held(database, where):
        reading = await database.blocked(events.list(after_position=0))
        assert await database.owner.fetchval(_PURGE, tenant) is None

    assert [e.position for e in (await reading).events] == list(range(old - 19, old + 1))
    await database.owner.fetchval(_PURGE, tenant)
    assert (await events.list(after_position=0)).events == []
