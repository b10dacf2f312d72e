"""Readers that follow the events in four ways during the faults, and are cut again and again."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import grpc
import httpx
from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.client import EventsClient, JobsError, RetryPolicy
from jobs_grpc.client.errors import from_rpc_error
from tests.harness.consumers import Reader, Receiver, watch
from tests.harness.ledger import Ledger
from tests.harness.system import TENANTS, System
from tests.support.waiting import wait_until_true

_READ_WITHIN = 60.0  # seconds, from the end of the traffic
# The lease of a server that was killed, and the deliveries since then.
_DELIVERED_WITHIN = 90.0


class EventReaders:
    """Reads the events of each tenant, and cuts and resumes the streams."""

    def __init__(self, system: System, ledger: Ledger, seed: int) -> None:
        self._system = system
        self._ledger = ledger
        self._rng = random.Random(f"events {seed}")  # noqa: S311 - repeatable on purpose
        self._readers: list[Reader] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        ways: Mapping[str, Callable[[Reader, int], Awaitable[None]]] = {
            "WatchEvents": self._watch,
            "ListEvents": self._list,
            "EventsClient": self._follow,
            "REST": self._watch_rest,
        }
        async with asyncio.TaskGroup() as tasks:
            started = []
            for tenant in TENANTS:
                for name, read in ways.items():
                    self._readers.append(Reader(tenant, name))
                    started.append(tasks.create_task(self._repeat(read, self._readers[-1])))
            yield
            for task in started:
                task.cancel()

    def of(self, tenant: str) -> Reader:
        """Return a reader of a tenant, which has all events."""
        return next(r for r in self._readers if r.tenant == tenant and r.name == "WatchEvents")

    async def check(self, stored: Mapping[str, Sequence[int]]) -> None:
        """Wait until all events are read. Check that each reader got each event once, in order."""
        with suppress(AssertionError):
            await wait_until_true(
                lambda: all(r.resume_after >= stored[r.tenant][-1] for r in self._readers),
                _READ_WITHIN,
            )
        for reader in self._readers:
            self._ledger.done[f"{reader.name}: resumed"] += reader.opened
            found, expected = reader.positions, stored[reader.tenant]
            for how, wrong in (
                ("misses", sorted(set(expected) - set(found))),
                ("has twice", [p for p, count in Counter(found).items() if count > 1]),
                ("invents", sorted(set(found) - set(expected))),
                ("has in the wrong order", [b for a, b in itertools.pairwise(found) if a > b]),
            ):
                if wrong:
                    example = f"{reader.name} of {reader.tenant}: {len(wrong)}, {wrong[:5]}"
                    self._ledger.problem(f"a reader {how} events", example)

    async def _repeat(self, read: Callable[[Reader, int], Awaitable[None]], reader: Reader) -> None:
        while True:
            reader.opened += 1
            server, started = self._rng.randrange(2), time.monotonic()
            try:
                # Also a cut without an error resumes: the client was killed, or its network away.
                async with asyncio.timeout(self._rng.uniform(0.05, 4)):
                    await read(reader, server)
            except TimeoutError:
                pass
            except grpc.aio.AioRpcError as e:
                self._fail(server, from_rpc_error(e), started)
            except JobsError as e:
                self._fail(server, e, started)
            await asyncio.sleep(self._rng.uniform(0, 0.3))

    def _fail(self, server: int, error: JobsError, started: float) -> None:
        self._ledger.failed(server, "an event reader", "events", error, started)

    async def _watch(self, reader: Reader, server: int) -> None:
        await watch(self._system.streams[server], reader)

    async def _list(self, reader: Reader, server: int) -> None:
        """Read a page, in which the number of events is limited."""
        limit = self._rng.randint(1, 200)
        request = pb.ListEventsRequest(after_position=reader.resume_after, limit=limit)
        response = await self._system.calls[server].call(request, reader.tenant)
        reader.add(response.events, response.position)

    async def _follow(self, reader: Reader, server: int) -> None:
        """Follow the events with the client, which reconnects by itself."""
        target, started = self._system.servers[server].environ["JOBS_LISTEN"], time.monotonic()
        retry = RetryPolicy(on_retry=lambda error: self._fail(server, error, started))
        async with EventsClient(target, tenant=reader.tenant, retry=retry) as client:
            events = client.watch_events(after_position=reader.resume_after)
            try:
                async for event in events:
                    reader.add([event], event.position)
            finally:
                reader.resume_after = events.position or reader.resume_after
                await events.aclose()

    async def _watch_rest(self, reader: Reader, _server: int) -> None:
        """Stream Server-Sent Events from the gateway."""
        headers = {"X-Tenant-Id": reader.tenant, "Last-Event-ID": str(reader.resume_after)}
        path, started = "/customer/events:watch", time.monotonic()
        name, position = "", 0
        try:
            async with self._system.http.stream(
                "GET", path, headers=headers, timeout=30
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._ledger.responded(f"GET {path}", "events", response, started)
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
            self._ledger.disconnected(f"GET {path}", e)


async def check_webhooks(
    receiver: Receiver,
    ledger: Ledger,
    stored: Mapping[str, Sequence[int]],
    *,
    max_repeated: int,
    max_late: int,
) -> None:
    """Wait until all events are delivered. Check that none is lost, and few are repeated or late.

    The limits are for each webhook. A server that a fault hits may have sent an event without
    storing that. Only an event that was being sent while its server was frozen past its lease is
    late.
    """
    webhooks, before = receiver.webhooks.values(), -1
    # Under faults, deliveries can fall behind by thousands: wait as long as they go on.
    while before < (delivered := sum(len(w.positions) for w in webhooks)):
        before = delivered
        with suppress(AssertionError):
            await wait_until_true(
                lambda: all(w.last == stored[w.tenant][-1] for w in webhooks), _DELIVERED_WITHIN
            )
    for path, webhook in receiver.webhooks.items():
        expected = [p for p in stored[webhook.tenant] if p > webhook.since]
        ledger.done["webhooks: delivered"] += len(webhook.positions)
        ledger.done["webhooks: delivered again"] += webhook.repeated
        if webhook.positions != expected:
            lost = sorted(set(expected) - set(webhook.positions))
            example = f"{path}: {len(webhook.positions)} of {len(expected)}, {lost[:5]} lost"
            ledger.problem("webhooks deliver other events", example)
        if webhook.late > max_late:
            ledger.problem("webhooks deliver out of order", f"{path}: {webhook.late}")
        if webhook.repeated > max_repeated:
            ledger.problem("webhooks deliver events again", f"{path}: {webhook.repeated}")
