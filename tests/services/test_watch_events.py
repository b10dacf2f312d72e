"""WatchEvents: the events of a tenant as a stream, from any position."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.errors import ServerStopping
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from jobs_grpc.server.app import AppOptions
from jobs_grpc.services import event_stream
from jobs_grpc.services.event_pages import EventPage
from jobs_grpc.services.event_start import Start
from jobs_grpc.services.event_stream import EventStreams
from jobs_grpc.services.recent_events import RecentEvents
from tests.support.callers import Events
from tests.support.database import Database, shared_store
from tests.support.event_rows import queue_event, store_events
from tests.support.failures import expect_error
from tests.support.server import Server, running_server
from tests.support.waiting import wait_until_true
from tests.support.watch_hubs import polling_server
from tests.support.world import World

MIB = 1024 * 1024

Responses = AsyncGenerator[pb.WatchEventsResponse, None]


@pytest.fixture(scope="module")
async def server(database: Database) -> AsyncIterator[Server]:
    async with polling_server(database, event_stream) as running:
        yield running


@dataclass(frozen=True)
class Log(World):
    """The event log of the test's tenant."""

    async def store(self, count: int, **fields: Any) -> int:
        """Add events; return the last position."""
        return await store_events(self.database, self.tenant, count, **fields)

    async def queue(self, job_id: str = "j", type_: str = "job.updated") -> None:
        await queue_event(self.database.owner, self.tenant, job_id, type_)


@pytest.fixture
def log(world: World) -> Log:
    return Log(world.database, world.server, world.operator)


@asynccontextmanager
async def opened(events: Events, **fields: Any) -> AsyncIterator[Responses]:
    """A stream whose first response has been read."""
    async with aclosing(events.watch(**fields)) as responses:
        await anext(responses)
        yield responses


async def job_ids(responses: Responses, count: int) -> list[str]:
    """Read responses until they have this many events; return their jobs."""
    found: list[str] = []
    while len(found) < count:
        response = await anext(responses)
        found += [event.job_id for event in response.events]
    return found


async def test_stream_sends_the_events_of_calls(log: Log) -> None:
    await log.add_devices(["pump"])
    await log.create("before")

    async with aclosing(log.events.watch()) as responses:
        first = await anext(responses)
        await log.create()
        second = await anext(responses)
        await log.operator.pause("j", reason="error rate")
        third = await anext(responses)

    assert (list(first.events), first.position > 0) == ([], True)
    [created], [paused] = second.events, third.events
    assert (created.job_id, created.type) == ("j", "job.created")
    assert (paused.job_id, paused.type, paused.reason) == ("j", "job.paused", "error rate")
    assert first.position < second.position == created.position
    assert second.position < third.position == paused.position


async def test_stream_from_the_oldest_event_continues_with_new_ones(log: Log) -> None:
    last = await log.store(250)

    async with aclosing(log.events.watch(after_position=0)) as responses:
        pages = [await anext(responses) for _ in range(3)]
        await log.queue("new")
        assert await job_ids(responses, 1) == ["new"]

    assert [len(page.events) for page in pages] == [100, 100, 50]
    positions = [event.position for page in pages for event in page.events]
    assert positions == list(range(last - 249, last + 1))


async def test_resumed_stream_misses_and_repeats_nothing(log: Log) -> None:
    """It is resumed after each response."""
    position = start = (await log.events.list()).position
    found: list[str] = []
    for n in range(12):
        await log.queue(f"j{n}")
        if n % 3 == 0:
            await log.queue(f"j{n}")
        async with aclosing(log.events.watch(after_position=position)) as responses:
            response = await anext(responses)
            found += [event.job_id for event in response.events]
            position = response.position

    everything = await log.events.list_all(after_position=start)
    assert found == [event.job_id for event in everything]
    assert len(found) == 16


async def test_stream_from_a_time_begins_there(log: Log) -> None:
    await log.store(5, days_ago=2)
    last = await log.store(2, days_ago=1)

    since = datetime.now(UTC) - timedelta(days=1.5)
    async with aclosing(log.events.watch(from_time=since)) as responses:
        first = await anext(responses)

    assert [event.position for event in first.events] == [last - 1, last]


async def test_streams_send_only_what_their_filters_include(log: Log) -> None:
    filters: list[dict[str, Any]] = [{"job_id": "a"}, {"types": ["job.paused"]}, {"job_id": "z"}]
    async with AsyncExitStack() as stack:
        every, of_job, of_type, of_other = [
            await stack.enter_async_context(opened(log.events, **fields))
            for fields in ({}, *filters)
        ]
        for job_id, type_ in (("a", "job.created"), ("b", "job.paused"), ("a", "job.resumed")):
            await log.queue(job_id, type_)

        assert await job_ids(every, 3) == ["a", "b", "a"]
        assert await job_ids(of_job, 2) == ["a", "a"]
        assert await job_ids(of_type, 1) == ["b"]
        await log.queue("z")
        assert await job_ids(of_other, 1) == ["z"]


async def test_other_tenants_events_are_not_sent(log: Log) -> None:
    other = log.server.events(f"{log.tenant}-2")
    async with opened(log.events) as responses, opened(other) as others:
        await log.queue("mine")
        await queue_event(log.database.owner, other.tenant, "theirs")

        assert [event.job_id for event in (await anext(responses)).events] == ["mine"]
        assert [event.job_id for event in (await anext(others)).events] == ["theirs"]


async def test_own_event_is_sent_before_the_poll(log: Log) -> None:
    await log.add_devices(["pump"])
    await log.create()
    async with (
        polling_server(log.database, event_stream, 3600) as server,
        opened(server.events(log.tenant)) as responses,
    ):
        operator = server.operator(log.tenant)
        for change in (operator.pause, operator.resume):
            await change("j")
            assert await job_ids(responses, 1) == ["j"]


async def test_purged_position_is_rejected(log: Log) -> None:
    old = await log.store(5, days_ago=8)
    await log.store(5)
    await log.owner_value("SELECT jobs.purge_events($1, 7, 1000, 1000)")

    async with aclosing(log.events.watch(after_position=old - 1)) as responses:
        failure = await expect_error("EVENTS_PURGED", anext(responses))
    async with aclosing(log.events.watch(after_position=old)) as responses:
        assert len((await anext(responses)).events) == 5

    assert failure.metadata == {"position": str(old - 1), "purgedPosition": str(old)}


async def test_position_of_a_database_that_was_restored_is_unknown(log: Log) -> None:
    """Also to a stream that is open while the database is restored."""
    last = await log.store(5)

    async with opened(log.events) as responses:
        await log.owner_value(
            "UPDATE jobs.event_heads SET position = position - 5 WHERE tenant_id = $1"
        )
        failure = await expect_error("POSITION_UNKNOWN", anext(responses))
    async with aclosing(log.events.watch(after_position=last)) as responses:
        await expect_error("POSITION_UNKNOWN", anext(responses))

    assert failure.metadata == {"position": str(last), "lastPosition": str(last - 5)}


async def test_stream_continues_when_database_sessions_are_terminated(log: Log) -> None:
    async with opened(log.events) as responses:
        await log.database.terminate_request_sessions()
        await log.queue()

        assert await job_ids(responses, 1) == ["j"]


async def test_stream_ends_with_server_stopping_when_the_server_stops(log: Log) -> None:
    async with (
        log.on_another_server(JOBS_SHUTDOWN_GRACE="600") as other,
        opened(other.events) as one,
        opened(other.events, job_id="j") as two,
    ):
        other.server.app.stopping.set()

        for responses in (one, two):
            await expect_error("SERVER_STOPPING", anext(responses))


async def test_idle_stream_sends_its_position_as_a_heartbeat(log: Log) -> None:
    assert AppOptions().event_heartbeat <= 15
    options = AppOptions(event_heartbeat=0.01)
    async with running_server(log.database.request_dsn, options) as server:
        events = server.events(log.tenant)
        async with aclosing(events.watch(job_id="j")) as responses:
            first = await anext(responses)
            assert await anext(responses) == first

            # Events that the filter excludes move the position.
            await log.queue("other")
            while (response := await anext(responses)) == first:
                pass
            last = (await events.list()).position
            assert (list(response.events), response.position) == ([], last)


@asynccontextmanager
async def event_streams(
    log: Log, memory: MemoryLimit, stopping: asyncio.Event | None = None
) -> AsyncIterator[EventStreams]:
    """Streams on a session of their own, which poll every 10 ms."""

    async def pause(_: str) -> None:
        await asyncio.sleep(0)

    async with shared_store(log.database) as store:
        yield EventStreams(store, memory, stopping or asyncio.Event(), pause, interval=0.01)


class Client:
    """Reads a stream. While `reads` is not set, it blocks the stream."""

    def __init__(self, streams: EventStreams, tenant: str, job_id: str = "") -> None:
        self.found: list[pb.Event] = []
        self.opened, self.reads = asyncio.Event(), asyncio.Event()
        self.reads.set()
        self.task = asyncio.create_task(
            streams.run(tenant, Start(), frozenset(), job_id, self._write)
        )

    async def _write(self, raw: bytes) -> None:
        await self.reads.wait()
        self.found += pb.WatchEventsResponse.FromString(raw).events
        self.opened.set()

    async def wait_for(self, count: int) -> None:
        await wait_until_true(lambda: len(self.found) >= count)


@asynccontextmanager
async def reading(streams: EventStreams, log: Log, *job_ids: str) -> AsyncIterator[list[Client]]:
    """Clients that have begun to read, each with the events of a job ("": of all jobs)."""
    clients = [Client(streams, log.tenant, job_id) for job_id in job_ids]
    for client in clients:
        await client.opened.wait()
    yield clients
    for client in clients:
        client.task.cancel()
    await asyncio.wait([client.task for client in clients])


async def test_slow_client_holds_bounded_memory_and_misses_nothing(log: Log) -> None:
    memory = MemoryLimit(64 * MIB, 32 * MIB)
    held = []
    async with event_streams(log, memory) as streams, reading(streams, log, "", "") as clients:
        fast, slow = clients
        slow.reads.clear()
        for n in range(30):
            await log.store(100, details={"reason": "x" * 1000})
            await fast.wait_for(100 * (n + 1))
            held.append(memory.held)

        slow.reads.set()
        await slow.wait_for(3000)

    assert [e.position for e in slow.found] == [e.position for e in fast.found]
    assert len(slow.found) == 3000
    assert max(held) < 20 * MIB
    assert memory.held == 0


async def test_streams_survive_an_internal_error(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    append, errors = RecentEvents.append, [RuntimeError("a test")]

    def fail_once(recent: RecentEvents, page: EventPage, reservation: Reservation) -> None:
        if errors:
            raise errors.pop()
        append(recent, page, reservation)

    monkeypatch.setattr(RecentEvents, "append", fail_once)
    memory = MemoryLimit(64 * MIB, 32 * MIB)
    async with event_streams(log, memory) as streams, reading(streams, log, "") as (client,):
        for count in (1, 2, 3):
            await log.queue()
            await client.wait_for(count)
    assert not errors
    assert memory.held == 0


async def test_idle_streams_hold_no_bytes(log: Log) -> None:
    memory = MemoryLimit(64 * MIB, 32 * MIB)

    async with event_streams(log, memory) as streams:
        async with reading(streams, log, *[""] * 5) as clients:
            await log.queue()
            for client in clients:
                await client.wait_for(1)

            await wait_until_true(lambda: memory.held == 0)
            assert streams.open_streams == 5
        assert streams.open_streams == 0


async def test_stream_that_waits_for_bytes_ends_when_the_server_stops(log: Log) -> None:
    memory, stopping = MemoryLimit(MIB, MIB), asyncio.Event()
    Reservation(memory, log.tenant).set_size(MIB)

    async with event_streams(log, memory, stopping) as streams:
        client = Client(streams, log.tenant)
        await wait_until_true(lambda: memory.waiting > 0)

        stopping.set()

        with pytest.raises(ServerStopping):
            await client.task


async def test_new_events_are_read_once_for_all_streams(log: Log) -> None:
    memory = MemoryLimit(64 * MIB, 32 * MIB)
    jobs = [f"j{n % 3}" for n in range(30)]
    calls = 0
    async with event_streams(log, memory) as streams, reading(streams, log, *jobs) as clients:
        list_events = streams._store.list_events

        async def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return await list_events(*args, **kwargs)

        streams._store.list_events = counted
        for n in range(9):
            await log.queue(f"j{n % 3}")
        for client in clients:
            await client.wait_for(3)

    # One per event at most, not one per stream.
    assert calls <= 9
    assert all(len(client.found) == 3 for client in clients)
