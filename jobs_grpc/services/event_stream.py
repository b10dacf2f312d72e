"""Streams the events of tenants."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from jobs_grpc.db.store import Store
from jobs_grpc.errors import JobsError
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation, response_bytes
from jobs_grpc.services.batch_reader import BatchReader
from jobs_grpc.services.event_pages import EventPage, EventQuery, read_pages, response
from jobs_grpc.services.event_start import Start
from jobs_grpc.services.recent_events import RecentEvents
from jobs_grpc.services.watch_group import Changed, Watch
from jobs_grpc.services.watch_hub import POLL_INTERVAL, WatchHub

HEARTBEAT_SECONDS = 15.0
"""After this time without a response, a stream sends a heartbeat with its position."""

# The hub watches one key per tenant, regardless of its number of streams.
_HEAD = 0

# Seconds per stream over which their messages are spread, so that other calls get through. With
# many streams, several events share a message.
_PAUSE_PER_STREAM = 0.001
_MAX_PAUSE = 1.0

# Streams that wake in one iteration of the event loop, so that other calls get through.
_STREAMS_PER_ITERATION = 8

Write = Callable[[bytes], Awaitable[None]]


class EventStreams:
    """Streams the events of tenants, which are polled every `interval` seconds.

    The streams of a tenant share one reader of new events. A stream that is slower, or has just
    opened, reads the database itself. `yield_now` lets other calls run while events are encoded.
    `stopping` is set when the server begins to stop.
    """

    def __init__(
        self,
        store: Store,
        memory: MemoryLimit,
        stopping: asyncio.Event,
        yield_now: Callable[[str], Awaitable[None]],
        interval: float = POLL_INTERVAL,
        heartbeat: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._store = store
        self._memory = memory
        self._stopping = stopping
        self._heartbeat = heartbeat
        self._tenants: dict[str, _TenantStreams] = {}
        self.open_streams = 0
        self._hub = WatchHub(self._changed_heads, interval, stopping)
        store.on_write(self._hub.note_write)
        self._pages = BatchReader[EventQuery, EventPage](
            partial(read_pages, store), memory, interval, stopping, yield_now, noun="events"
        )

    async def run(
        self, tenant_id: str, start: Start, types: frozenset[str], job_id: str, write: Write
    ) -> None:
        """Write responses with events, and one with the position at least every `heartbeat`.

        Never returns. Raises EventsPurged, PositionUnknown, and ServerStopping when the server
        stops.
        """
        query = EventQuery(start, types, job_id)
        reservation = Reservation(self._memory, tenant_id)
        stream = _Stream(self._pages, tenant_id, query, reservation, write, self._heartbeat)
        with self._streams_of(tenant_id) as streams:
            watch = Watch(tenant_id, _HEAD, self._stopping)
            try:
                await stream.run(streams, watch)
            finally:
                streams.recent.leave(watch)
                reservation.release()

    @contextmanager
    def _streams_of(self, tenant_id: str) -> "Iterator[_TenantStreams]":
        streams = self._tenants.get(tenant_id)
        if streams is None:
            streams = _TenantStreams(
                tenant_id, self._hub, self._pages, self._memory, self._stopping
            )
            self._tenants[tenant_id] = streams
        streams.count += 1
        self.open_streams += 1
        try:
            yield streams
        finally:
            self.open_streams -= 1
            streams.count -= 1
            if not streams.count:
                del self._tenants[tenant_id]
                streams.close()

    async def _changed_heads(
        self, tenant_ids: list[str], _: list[int], positions: list[int | None]
    ) -> Changed:
        return await self._store.changed_event_heads(tenant_ids, positions=positions)


class _TenantStreams:
    """Reads the new events of a tenant once for all its streams."""

    def __init__(
        self,
        tenant_id: str,
        hub: WatchHub[int],
        pages: BatchReader[EventQuery, EventPage],
        memory: MemoryLimit,
        stopping: asyncio.Event,
    ) -> None:
        self._tenant_id = tenant_id
        self._hub = hub
        self._pages = pages
        self._memory = memory
        self._stopping = stopping
        self.recent = RecentEvents()
        self.count = 0
        self._task: asyncio.Task[None] | None = None

    def begin(self, position: int) -> None:
        """Start reading new events after a position, unless it is already running."""
        if self._task is None:
            self.recent.begin(position)
            # In an empty context, because its log lines must not have the id of this request.
            self._task = asyncio.create_task(self._run(), context=contextvars.Context())

    def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
        self.recent.reset()

    async def _run(self) -> None:
        try:
            with self._hub.watch(self._tenant_id, _HEAD) as watch:
                while True:
                    watch.fingerprint = self.recent.end
                    await watch.changed()
                    await self._read()
        except JobsError:
            pass  # Each stream gets the error from the database, which it then reads itself.
        finally:
            # Also after a bug: otherwise the streams would send heartbeats and no events.
            self._task = None
            self.recent.reset()
            for stream in self.recent.streams:
                stream.wake()

    async def _read(self) -> None:
        """Read all new events, and wake the streams after each page."""
        has_more = True
        while has_more:
            reservation = Reservation(self._memory, self._tenant_id)
            query = EventQuery(Start(after_position=self.recent.end))
            try:
                page = await self._pages.read(self._tenant_id, query, reservation)
                if page.error:
                    raise page.error
                has_more = page.has_more
                self.recent.append(page, reservation)
            except BaseException:
                reservation.release()
                raise
            del page
            await self._wake_streams(with_pauses=not has_more)

    async def _wake_streams(self, *, with_pauses: bool) -> None:
        streams = self.recent.streams
        pause = min(_PAUSE_PER_STREAM, _MAX_PAUSE / max(1, len(streams)))
        for count, stream in enumerate(streams, start=1):
            stream.wake()
            if count % _STREAMS_PER_ITERATION == 0:
                await self._wait(_STREAMS_PER_ITERATION * pause if with_pauses else 0)

    async def _wait(self, seconds: float) -> None:
        """Let other tasks run, until the server stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


class _Stream:
    """One stream: keeps its position, and sends events and heartbeats."""

    def __init__(
        self,
        pages: BatchReader[EventQuery, EventPage],
        tenant_id: str,
        query: EventQuery,
        reservation: Reservation,
        write: Write,
        heartbeat: float,
    ) -> None:
        self._pages = pages
        self._tenant_id = tenant_id
        self._query = query
        # Holds the bytes of a response, from before it is encoded until gRPC has sent it.
        self._reservation = reservation
        self._write = write
        self._heartbeat = heartbeat
        self._clock = asyncio.get_running_loop().time
        # When the next heartbeat is due.
        self._silent_until = self._clock() + heartbeat
        # The stream is complete up to this position. None: it has not begun.
        self._position: int | None = None

    async def run(self, streams: _TenantStreams, watch: Watch[int]) -> None:
        """Send events until the stream is canceled, or an error ends it."""
        recent = streams.recent
        while True:
            while not await self._send_recent(recent, watch):
                recent.leave(watch)
                if not await self._send_from_database():
                    streams.begin(self._position or 0)
            recent.note_read(watch)
            try:
                async with asyncio.timeout_at(self._silent_until) as timeout:
                    await watch.changed()
            except TimeoutError:
                if not timeout.expired():
                    raise
                await self._send_heartbeat()

    async def _send_recent(self, recent: RecentEvents, watch: Watch[int]) -> bool:
        """Send all recent events. Return False if the stream must read the database."""
        if self._position is None or not recent.has(self._position):
            return False
        recent.enter(watch)
        while found := recent.page_after(self._position):
            page, is_whole = found
            message = self._filtered(page, is_whole=is_whole)
            if message and not self._reservation.try_set_size(response_bytes(len(message))):
                return False  # Reading the database waits for free bytes.
            self._position = page.position
            del found, page
            if message:
                await self._send(message)
                self._reservation.release()
                if not recent.has(self._position):
                    return False
        return True

    async def _send_from_database(self) -> bool:
        """Send the next page of the database. Return whether another one follows."""
        query = self._query
        if self._position is not None:
            query = query._replace(start=Start(after_position=self._position))
        try:
            async with asyncio.timeout_at(self._silent_until) as timeout:
                page = await self._pages.read(self._tenant_id, query, self._reservation)
        except TimeoutError:
            if not timeout.expired():
                raise
            self._reservation.release()
            await self._send_heartbeat()
            return True
        if page.error:
            raise page.error
        is_first = self._position is None
        self._position, has_more = page.position, page.has_more
        if page.events or is_first:
            message = page.response
            del page
            await self._send(message)
        self._reservation.release()
        return has_more

    def _filtered(self, page: EventPage, *, is_whole: bool) -> bytes:
        """Return a response with the events of a page that the stream sends; empty: none."""
        _, types, job_id = self._query
        if not page.events:
            return b""
        if is_whole and not (types or job_id):
            return page.response
        events = [
            event
            for event in page.events
            if event.position > (self._position or 0)
            and (not types or event.type in types)
            and (not job_id or event.job_id == job_id)
        ]
        return response(events, page.position) if events else b""

    async def _send(self, message: bytes) -> None:
        await self._write(message)
        self._silent_until = self._clock() + self._heartbeat

    async def _send_heartbeat(self) -> None:
        if self._position is None:
            self._silent_until = self._clock() + self._heartbeat
        else:
            await self._send(response((), self._position))
