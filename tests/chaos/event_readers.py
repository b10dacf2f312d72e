"""Readers that follow the events during the faults, and resume where they stopped."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
import httpx
from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import events_pb2_grpc

from jobs_grpc.client import EventsClient, JobsError, RetryPolicy
from jobs_grpc.client.errors import from_rpc_error
from tests.chaos.event_checks import LoggedEvent
from tests.chaos.history import History
from tests.chaos.system import TENANTS, System
from tests.support.waiting import wait_until

_READ_WITHIN = 60.0  # seconds, from the end of the traffic


@dataclass
class Reader:
    """What a reader has received. A position that is resumed is the last one received."""

    name: str
    tenant: str
    positions: list[int] = field(default_factory=list)
    """Those of the events."""
    resume_after: int = 0
    opened: int = 0
    """How often it has opened a stream or called for a page."""


class EventReaders:
    """Reads the events of each tenant in four ways, and cuts and resumes the streams."""

    def __init__(self, system: System, history: History, seed: int) -> None:
        self._system = system
        self._history = history
        self._rng = random.Random(f"events {seed}")  # noqa: S311 - repeatable on purpose
        self._readers: list[Reader] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read until the context ends."""
        ways: Mapping[str, Callable[[Reader], Awaitable[None]]] = {
            "WatchEvents": self._watch,
            "ListEvents": self._list,
            "EventsClient": self._follow,
            "REST": self._watch_rest,
        }
        async with asyncio.TaskGroup() as tasks:
            started = []
            for tenant in TENANTS:
                for name, read in ways.items():
                    self._readers.append(Reader(name, tenant))
                    started.append(tasks.create_task(self._repeat(read, self._readers[-1])))
            yield
            for task in started:
                task.cancel()

    async def check(self, log: Sequence[LoggedEvent]) -> None:
        """Wait until all events are read. Check that each reader got each event once, in order."""
        expected = {t: [e.position for e in log if e.tenant == t] for t in TENANTS}

        async def is_read() -> bool:
            return all(r.resume_after >= expected[r.tenant][-1] for r in self._readers)

        with suppress(AssertionError):
            await wait_until(is_read, _READ_WITHIN)
        for reader in self._readers:
            self._history.calls[f"{reader.name}: resumed"] += reader.opened
            self._compare(reader, expected[reader.tenant])

    def _compare(self, reader: Reader, expected: Sequence[int]) -> None:
        found = reader.positions
        twice = [p for p, count in Counter(found).items() if count > 1]
        for kind, positions in (
            ("misses", sorted(set(expected) - set(found))),
            ("has twice", twice),
            ("invents", sorted(set(found) - set(expected))),
            (
                "has in the wrong order",
                [b for a, b in itertools.pairwise(found) if a > b],
            ),
        ):
            if positions:
                example = f"{reader.name} of {reader.tenant}: {len(positions)}, {positions[:5]}"
                self._history.add_violation(f"a reader {kind} events", example)

    async def _repeat(self, read: Callable[[Reader], Awaitable[None]], reader: Reader) -> None:
        while True:
            reader.opened += 1
            # Also a cut without an error resumes: the client was killed, or its network was away.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rng.uniform(0.05, 4)):
                    await read(reader)
            await asyncio.sleep(self._rng.uniform(0, 0.3))

    async def _watch(self, reader: Reader) -> None:
        """Stream from a random server."""
        server = self._rng.randrange(2)
        stub = events_pb2_grpc.EventServiceStub(self._system.channels[server])
        request = pb.WatchEventsRequest(after_position=reader.resume_after)
        call = stub.WatchEvents(request, metadata=[("x-tenant-id", reader.tenant)])
        try:
            async for response in call:
                _add(reader, response.events, response.position)
        except grpc.aio.AioRpcError as e:
            error = from_rpc_error(e)
            self._history.failed(server, "WatchEvents", "events", error, e.debug_error_string())
        finally:
            call.cancel()

    async def _list(self, reader: Reader) -> None:
        """Read a page from a random server, in which the number of events is limited."""
        server = self._rng.randrange(2)
        stub = events_pb2_grpc.EventServiceStub(self._system.channels[server])
        request = pb.ListEventsRequest(
            after_position=reader.resume_after, limit=self._rng.randint(1, 200)
        )
        try:
            response = await stub.ListEvents(request, metadata=[("x-tenant-id", reader.tenant)])
        except grpc.aio.AioRpcError as e:
            error = from_rpc_error(e)
            self._history.failed(server, "ListEvents", "events", error, e.debug_error_string())
        else:
            _add(reader, response.events, response.position)

    async def _follow(self, reader: Reader) -> None:
        """Follow the events with the client, which reconnects by itself."""
        server = self._rng.randrange(2)
        target = self._system.servers[server].environ["JOBS_LISTEN"]

        def check(error: JobsError) -> None:
            self._history.failed(server, "WatchEvents", "events", error)

        retry = RetryPolicy(on_retry=check)
        async with EventsClient(target, tenant=reader.tenant, retry=retry) as client:
            events = client.watch_events(after_position=reader.resume_after)
            try:
                async for event in events:
                    _add(reader, [event], event.position)
            except JobsError as e:
                check(e)
            finally:
                reader.resume_after = events.position or reader.resume_after
                await events.aclose()

    async def _watch_rest(self, reader: Reader) -> None:
        """Stream Server-Sent Events from the gateway."""
        headers = {"X-Tenant-Id": reader.tenant, "Last-Event-ID": str(reader.resume_after)}
        path = "/customer/events:watch"
        name, position = "", 0
        try:
            async with self._system.http.stream(
                "GET", path, headers=headers, timeout=30
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._history.responded(f"GET {path}", "events", response)
                    return
                async for line in response.aiter_lines():
                    key, _, value = line.partition(": ")
                    if key == "id":
                        position = int(value)
                    elif key == "event":
                        name = value
                    elif not line and position:
                        # The position of a heartbeat may be that of the event before.
                        if name != "heartbeat":
                            reader.positions.append(position)
                        name, reader.resume_after = "", position
        except httpx.TransportError as e:
            self._history.disconnected(f"GET {path}", e)


def _add(reader: Reader, events: Sequence[pb.Event], position: int) -> None:
    reader.positions += [event.position for event in events]
    reader.resume_after = position
