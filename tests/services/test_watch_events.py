"""WatchEvents: the events of a tenant as a stream, from any position."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from fleet.jobs.v1 import events_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.connection_pool import prepare_connection
from jobs_grpc.db.migrate import RequestRole
from jobs_grpc.errors import ServerStopping
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from jobs_grpc.server.app import AppOptions
from jobs_grpc.services import watch_hub
from jobs_grpc.services.event_pages import EventPage
from jobs_grpc.services.event_start import Start
from jobs_grpc.services.event_stream import EventStreams
from jobs_grpc.services.recent_events import RecentEvents
from tests.support.callers import Events, Operator
from tests.support.database import Database, request_session
from tests.support.event_rows import queue_event, store_events
from tests.support.failures import expect_failure
from tests.support.server import Server, running_server
from tests.support.waiting import wait_until

MIB = 1024 * 1024

Responses = AsyncGenerator[pb.WatchEventsResponse, None]


@pytest.fixture
def events(server: Server, tenant: str) -> Events:
    return server.events(tenant)


async def job_ids(responses: Responses, count: int) -> list[str]:
    """Read responses until they have this many events; return their jobs."""
    found: list[str] = []
    while len(found) < count:
        response = await anext(responses)
        found += [event.job_id for event in response.events]
    return found


async def test_stream_sends_the_events_of_calls(
    database: Database, operator: Operator, events: Events
) -> None:
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="before", target_all=True)

    async with aclosing(events.watch()) as responses:
        first = await anext(responses)
        await operator.create(job_id="j", target_all=True)
        second = await anext(responses)
        await operator.pause("j", reason="error rate")
        third = await anext(responses)

    assert (list(first.events), first.position > 0) == ([], True)
    [created], [paused] = second.events, third.events
    assert (created.job_id, created.type) == ("j", "job.created")
    assert (paused.job_id, paused.type, paused.reason) == ("j", "job.paused", "error rate")
    assert first.position < second.position == created.position
    assert second.position < third.position == paused.position


async def test_stream_from_the_oldest_event_continues_with_new_ones(
    database: Database, events: Events, tenant: str
) -> None:
    last = await store_events(database, tenant, 250)

    async with aclosing(events.watch(after_position=0)) as responses:
        pages = [await anext(responses) for _ in range(3)]
        await queue_event(database.owner, tenant, "new")
        new = await anext(responses)

    assert [len(page.events) for page in pages] == [100, 100, 50]
    positions = [event.position for page in pages for event in page.events]
    assert positions == list(range(last - 249, last + 1))
    assert [event.job_id for event in new.events] == ["new"]


async def test_resumed_stream_misses_and_repeats_nothing(
    database: Database, events: Events, tenant: str
) -> None:
    """It is resumed after each response."""
    start = (await events.list()).position
    found: list[str] = []
    position = start
    for n in range(12):
        await queue_event(database.owner, tenant, f"j{n}")
        if n % 3 == 0:
            await queue_event(database.owner, tenant, f"j{n}")
        async with aclosing(events.watch(after_position=position)) as responses:
            response = await anext(responses)
            found += [event.job_id for event in response.events]
            position = response.position

    everything = await events.list_all(after_position=start)
    assert found == [event.job_id for event in everything]
    assert len(found) == 16


async def test_stream_from_a_time_begins_there(
    database: Database, events: Events, tenant: str
) -> None:
    await store_events(database, tenant, 5, days_ago=2)
    last = await store_events(database, tenant, 2, days_ago=1)

    since = datetime.now(UTC) - timedelta(days=1.5)
    async with aclosing(events.watch(from_time=since)) as responses:
        first = await anext(responses)

    assert [event.position for event in first.events] == [last - 1, last]


async def test_streams_send_only_what_their_filters_include(
    database: Database, events: Events, tenant: str
) -> None:
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(aclosing(events.watch(**fields)))
            for fields in ({}, {"job_id": "a"}, {"types": ["job.paused"]}, {"job_id": "z"})
        ]
        for responses in streams:
            await anext(responses)
        for job_id, type_ in (("a", "job.created"), ("b", "job.paused"), ("a", "job.resumed")):
            await queue_event(database.owner, tenant, job_id, type_)

        every, of_job, of_type, of_other = streams
        assert await job_ids(every, 3) == ["a", "b", "a"]
        assert await job_ids(of_job, 2) == ["a", "a"]
        assert await job_ids(of_type, 1) == ["b"]
        await queue_event(database.owner, tenant, "z")
        assert await job_ids(of_other, 1) == ["z"]


async def test_other_tenants_events_are_not_sent(
    database: Database, server: Server, events: Events, tenant: str
) -> None:
    other = server.events(f"{tenant}-2")
    async with aclosing(events.watch()) as responses, aclosing(other.watch()) as others:
        await anext(responses)
        await anext(others)
        await queue_event(database.owner, tenant, "mine")
        await queue_event(database.owner, other.tenant, "theirs")

        assert [event.job_id for event in (await anext(responses)).events] == ["mine"]
        assert [event.job_id for event in (await anext(others)).events] == ["theirs"]


async def test_event_of_the_same_server_is_sent_before_the_next_poll(
    database: Database, operator: Operator, events: Events
) -> None:
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    clock = asyncio.get_running_loop().time
    async with aclosing(events.watch()) as responses:
        await anext(responses)
        began = clock()
        for number in range(8):
            await (operator.pause("j") if number % 2 == 0 else operator.resume("j"))
            await job_ids(responses, 1)

    assert clock() - began < 8 * watch_hub.POLL_INTERVAL / 2


async def test_open_change_of_another_job_delays_no_events(
    database: Database, events: Events, tenant: str
) -> None:
    changing = await asyncpg.connect(database.owner_dsn)
    async with aclosing(events.watch()) as responses, AsyncExitStack() as stack:
        stack.push_async_callback(changing.close)
        await anext(responses)
        async with changing.transaction():
            await queue_event(changing, tenant, "open")
            await queue_event(database.owner, tenant, "other")
            assert await job_ids(responses, 1) == ["other"]
        assert await job_ids(responses, 1) == ["open"]


@pytest.mark.single_node("needs a second database")
async def test_idle_transaction_delays_no_events(
    database: Database, events: Events, tenant: str
) -> None:
    """Not even one with a transaction id and a snapshot that is older than the events."""
    async with request_session(database) as (connection, _), connection.transaction():
        await connection.execute("SELECT pg_current_xact_id()")
        async with aclosing(events.watch()) as responses:
            await anext(responses)
            await queue_event(database.owner, tenant, "j")
            assert await job_ids(responses, 1) == ["j"]


async def test_purged_position_is_rejected(database: Database, events: Events, tenant: str) -> None:
    old = await store_events(database, tenant, 5, days_ago=8)
    await store_events(database, tenant, 5)
    await database.owner.fetchval("SELECT jobs.purge_events($1, 7, 1000, 1000)", tenant)

    async with aclosing(events.watch(after_position=old - 1)) as responses:
        with expect_failure(StatusCode.OUT_OF_RANGE, "EVENTS_PURGED") as failure:
            await anext(responses)
    async with aclosing(events.watch(after_position=old)) as responses:
        assert len((await anext(responses)).events) == 5

    assert failure.metadata == {"position": str(old - 1), "purgedPosition": str(old)}


async def test_position_of_a_database_that_was_restored_is_unknown(
    database: Database, events: Events, tenant: str
) -> None:
    """Also to a stream that is open while the database is restored."""
    last = await store_events(database, tenant, 5)

    async with aclosing(events.watch()) as responses:
        await anext(responses)
        await database.owner.execute(
            "UPDATE jobs.event_heads SET position = position - 5 WHERE tenant_id = $1", tenant
        )
        with expect_failure(StatusCode.OUT_OF_RANGE, "POSITION_UNKNOWN") as failure:
            await anext(responses)
    async with aclosing(events.watch(after_position=last)) as responses:
        with expect_failure(StatusCode.OUT_OF_RANGE, "POSITION_UNKNOWN"):
            await anext(responses)

    assert failure.metadata == {"position": str(last), "lastPosition": str(last - 5)}


async def test_stream_continues_when_database_sessions_are_terminated(
    database: Database, events: Events, tenant: str
) -> None:
    async with aclosing(events.watch()) as responses:
        await anext(responses)
        await database.owner.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1"
            " AND datname = current_database()",
            RequestRole.from_dsn(database.request_dsn).name,
        )
        await queue_event(database.owner, tenant, "j")

        assert await job_ids(responses, 1) == ["j"]


async def test_stream_ends_with_server_stopping_when_the_server_stops(
    database: Database, tenant: str
) -> None:
    async with running_server(database.request_dsn, JOBS_SHUTDOWN_GRACE="600") as server:
        events = server.events(tenant)
        async with aclosing(events.watch()) as one, aclosing(events.watch(job_id="j")) as two:
            await anext(one)
            await anext(two)
            server.app.stopping.set()

            for responses in (one, two):
                with expect_failure(StatusCode.UNAVAILABLE, "SERVER_STOPPING"):
                    await anext(responses)


async def test_idle_stream_sends_its_position_as_a_heartbeat(
    database: Database, tenant: str
) -> None:
    options = AppOptions(event_heartbeat=0.01)
    async with running_server(database.request_dsn, options) as server:
        events = server.events(tenant)
        async with aclosing(events.watch(job_id="j")) as responses:
            first = await anext(responses)
            assert await anext(responses) == first

            # Events that the filter excludes move the position.
            await queue_event(database.owner, tenant, "other")
            while (response := await anext(responses)) == first:
                pass
            last = (await events.list()).position
            assert (list(response.events), response.position) == ([], last)


def test_heartbeat_is_sent_within_15_seconds() -> None:
    assert AppOptions().event_heartbeat <= 15


async def test_all_streams_of_a_tenant_receive_all_events(
    database: Database, events: Events, tenant: str
) -> None:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(aclosing(events.watch())) for _ in range(20)]
        for responses in streams:
            await anext(responses)
        for n in range(5):
            await queue_event(database.owner, tenant, f"j{n}")

        for responses in streams:
            assert await job_ids(responses, 5) == [f"j{n}" for n in range(5)]


@asynccontextmanager
async def event_streams(
    database: Database, memory: MemoryLimit, stopping: asyncio.Event, **options: Any
) -> AsyncIterator[EventStreams]:
    """Streams on a session of their own, which poll every 10 ms."""

    async def pause(_: str) -> None:
        await asyncio.sleep(0)

    async with request_session(database) as (connection, store):
        await prepare_connection(connection)
        lock = asyncio.Lock()
        fetch = store._database.fetch

        async def one_at_a_time(*args: Any) -> Any:
            async with lock:
                return await fetch(*args)

        session: Any = store._database
        session.fetch = session.fetch_for_tenants = one_at_a_time
        yield EventStreams(store, memory, stopping, pause, interval=0.01, **options)


class Client:
    """Reads a stream. While `reads` is not set, it blocks the stream."""

    def __init__(self, streams: EventStreams, tenant: str, start: Start, job_id: str = "") -> None:
        self.found: list[pb.Event] = []
        self.responses = 0
        self.position = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self.task = asyncio.create_task(
            streams.run(tenant, start, frozenset(), job_id, self._write)
        )

    async def _write(self, raw: bytes) -> None:
        await self.reads.wait()
        response = pb.WatchEventsResponse.FromString(raw)
        self.responses += 1
        self.found += response.events
        self.position = response.position

    async def wait_for(self, count: int) -> None:
        """Wait until this many events have arrived."""

        async def arrived() -> bool:
            return len(self.found) >= count

        await wait_until(arrived)

    async def close(self) -> None:
        """Cancel the stream."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def test_slow_client_holds_bounded_memory_and_misses_nothing(
    database: Database, tenant: str
) -> None:
    memory = MemoryLimit(64 * MIB, 32 * MIB)
    details = {"reason": "x" * 1000}
    async with event_streams(database, memory, asyncio.Event()) as streams:
        fast = Client(streams, tenant, Start())
        slow = Client(streams, tenant, Start())
        for client in (fast, slow):
            await wait_until_open(client)
        slow.reads.clear()
        held = []
        for n in range(30):
            await store_events(database, tenant, 100, details=details)
            await fast.wait_for(100 * (n + 1))
            held.append(memory.held)

        slow.reads.set()
        await slow.wait_for(3000)
        for client in (fast, slow):
            await client.close()

    assert [e.position for e in slow.found] == [e.position for e in fast.found]
    assert len(slow.found) == 3000
    assert max(held) < 20 * MIB
    assert memory.held == 0


async def wait_until_open(client: Client) -> None:
    async def opened() -> bool:
        return client.responses > 0

    await wait_until(opened)


async def test_stream_reads_the_database_when_the_reader_of_its_tenant_has_an_internal_error(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, errors = RecentEvents.append, [RuntimeError("a test")]

    def fail_once(recent: RecentEvents, page: EventPage, reservation: Reservation) -> None:
        if errors:
            raise errors.pop()
        append(recent, page, reservation)

    monkeypatch.setattr(RecentEvents, "append", fail_once)
    memory = MemoryLimit(64 * MIB, 32 * MIB)
    async with event_streams(database, memory, asyncio.Event()) as streams:
        client = Client(streams, tenant, Start())
        await wait_until_open(client)
        for count in (1, 2, 3):
            await queue_event(database.owner, tenant)
            await client.wait_for(count)
        await client.close()
    assert not errors
    assert memory.held == 0


async def test_idle_streams_hold_no_bytes(database: Database, tenant: str) -> None:
    memory = MemoryLimit(64 * MIB, 32 * MIB)
    async with event_streams(database, memory, asyncio.Event()) as streams:
        clients = [Client(streams, tenant, Start()) for _ in range(5)]
        for client in clients:
            await wait_until_open(client)
        await queue_event(database.owner, tenant, "j")
        for client in clients:
            await client.wait_for(1)

        async def released() -> bool:
            return memory.held == 0

        await wait_until(released)
        assert streams.open_streams == 5
        for client in clients:
            await client.close()
        assert streams.open_streams == 0


async def test_stream_that_waits_for_bytes_ends_when_the_server_stops(
    database: Database, tenant: str
) -> None:
    memory = MemoryLimit(MIB, MIB)
    Reservation(memory, tenant).set_size(MIB)
    stopping = asyncio.Event()

    async def waits_for_bytes() -> bool:
        return memory.waiting > 0

    async with event_streams(database, memory, stopping) as streams:
        client = Client(streams, tenant, Start())
        await wait_until(waits_for_bytes)

        stopping.set()

        with pytest.raises(ServerStopping):
            await client.task


async def test_new_events_are_read_once_for_all_streams(database: Database, tenant: str) -> None:
    memory = MemoryLimit(64 * MIB, 32 * MIB)
    async with event_streams(database, memory, asyncio.Event()) as streams:
        clients = [Client(streams, tenant, Start(), job_id=f"j{n % 3}") for n in range(30)]
        for client in clients:
            await wait_until_open(client)
        calls = 0
        list_events = streams._store.list_events

        async def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return await list_events(*args, **kwargs)

        streams._store.list_events = counted
        for n in range(9):
            await queue_event(database.owner, tenant, f"j{n % 3}")
        for client in clients:
            await client.wait_for(3)
        for client in clients:
            await client.close()

    # One per event at most, not one per stream.
    assert calls <= 9
    assert all(len(client.found) == 3 for client in clients)
