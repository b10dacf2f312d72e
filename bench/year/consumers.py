"""Two consumers of the events of each tenant, a stream and a webhook, which are both cut."""

import asyncio
import base64
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1.jobs_pb2 import Job, JobExecution

from bench.year.calls import Calls
from bench.year.ledger import Ledger
from tests.harness.event_checks import LoggedEvent
from tests.support.endpoints import OK, Endpoint, Request, response, running_endpoint
from tests.support.webhooks import is_signed, loopback_settings, write_keys

_LAST_EVENTS = "SELECT tenant_id, max(position) AS position FROM jobs.events GROUP BY tenant_id"


@dataclass
class Received:
    """What both consumers of a tenant have received."""

    events: dict[str, list[LoggedEvent]] = field(default_factory=lambda: defaultdict(list))
    """Events that the stream received, by job. A check removes them."""
    positions: list[int] = field(default_factory=list)
    """Positions that the stream received."""
    delivered: list[int] = field(default_factory=list)
    """Positions that the webhook received."""
    known: set[int] = field(default_factory=set)
    """Positions of the events that were compared."""
    delivered_again: int = 0
    previous: int = 0
    """The last position that the webhook received."""
    resume_after: int = 0
    """The last position that the stream received."""
    secret: bytes = b""


class Consumers:
    """The streams and the endpoint of the webhooks."""

    def __init__(self, ledger: Ledger, endpoint: Endpoint, keys: Path) -> None:
        self._ledger = ledger
        self._endpoint = endpoint
        self._keys = keys
        self.received = {tenant: Received() for tenant in ledger.directories}
        self._connected = {tenant: asyncio.Event() for tenant in self.received}
        self._streams: dict[str, Any] = {}
        self._away: set[str] = set()
        endpoint.respond = self._receive

    @property
    def variables(self) -> Mapping[str, str]:
        """The settings of a server that delivers to the endpoint."""
        return loopback_settings(self._keys, self._endpoint.port)

    @asynccontextmanager
    async def running(self, calls: Calls) -> AsyncIterator[None]:
        """Create the webhooks, and stream until the context ends."""
        async with asyncio.TaskGroup() as tasks:
            streams = []
            for tenant, received in self.received.items():
                request = pb.CreateWebhookRequest(url=self._endpoint.url(f"/{tenant}"))
                created = await calls.read(tenant, request)
                received.secret = base64.b64decode(created.secret.removeprefix("whsec_"))
                received.previous = received.resume_after = created.webhook.position
                self._connected[tenant].set()
                streams.append(tasks.create_task(self._stream(calls, tenant)))
            yield
            for stream in streams:
                stream.cancel()

    def cut_stream(self, tenant: str) -> None:
        """End the stream of a tenant until `connect`."""
        self._connected[tenant].clear()
        self._ledger.done["streams that were cut"] += 1
        if tenant in self._streams:
            self._streams[tenant].cancel()

    def cut_webhook(self, tenant: str) -> None:
        """Let the endpoint of a tenant fail until `connect`."""
        self._away.add(tenant)
        self._ledger.done["webhooks that were cut"] += 1

    def connect(self, tenant: str) -> None:
        """End the cuts of a tenant."""
        self._away.discard(tenant)
        self._connected[tenant].set()

    async def behind(self, owner: asyncpg.Connection) -> list[str]:
        """Return the tenants with events that a consumer has not received."""
        heads = {row["tenant_id"]: row["position"] for row in await owner.fetch(_LAST_EVENTS)}
        return [
            tenant
            for tenant, received in self.received.items()
            if min(received.resume_after, received.previous) < heads.get(tenant, 0)
        ]

    async def _stream(self, calls: Calls, tenant: str) -> None:
        received = self.received[tenant]
        while True:
            await self._connected[tenant].wait()
            request = pb.WatchEventsRequest(after_position=received.resume_after)
            stream = calls.event_streams.WatchEvents(request, metadata=(("x-tenant-id", tenant),))
            self._streams[tenant] = stream
            try:
                async for message in stream:
                    for event in message.events:
                        received.positions.append(event.position)
                        received.events[event.job_id].append(_logged(tenant, event))
                    received.resume_after = message.position
            except grpc.aio.AioRpcError as e:
                self._ledger.problem("WatchEvents fails", f"{tenant}: {e.code()} {e.details()}")
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                # Also raised in this task if only the call was canceled.
                if self._connected[tenant].is_set():
                    raise
            finally:
                stream.cancel()

    async def _receive(self, request: Request) -> bytes:
        self._endpoint.requests.clear()
        tenant = request.line.split("/")[1].split()[0]
        received = self.received[tenant]
        if not is_signed(request, received.secret):
            self._ledger.problem("a delivery has a wrong signature", request.line)
            return response(401)
        if tenant in self._away:
            self._ledger.done["deliveries that failed"] += 1
            return response(503)
        if request.event["type"] == "webhook.test":
            return OK
        data = request.event["data"]
        position, previous = int(data["position"]), int(data["previous_position"])
        if position <= received.previous:
            received.delivered_again += 1
            return OK
        if previous != received.previous:
            self._ledger.problem(
                "a delivery names another previous position",
                f"{tenant}: {previous} before {position}, not {received.previous}",
            )
        received.previous = position
        received.delivered.append(position)
        return OK


@asynccontextmanager
async def running_consumers(folder: Path, ledger: Ledger) -> AsyncIterator[Consumers]:
    """Run the endpoint of the webhooks, with the master keys of the server in `folder`."""
    keys = write_keys(folder / "webhook-keys", "k1")
    async with running_endpoint(None) as endpoint:
        yield Consumers(ledger, endpoint, keys)


def _logged(tenant: str, event: pb.Event) -> LoggedEvent:
    """Return the event as the log has it."""
    counts = event.execution_counts
    details: dict[str, Any] = {}
    if event.cause:
        details["cause"] = event.cause
    if event.HasField("stage"):
        details["stage"] = event.stage
    if event.attempts:
        details["attempts"] = [
            {
                "device_id": e.device_id,
                "execution_number": e.execution_number,
                "status": JobExecution.Status.Name(e.status),
                "will_retry": e.will_retry,
            }
            for e in event.attempts
        ]
    return LoggedEvent(
        tenant,
        event.position,
        event.job_id,
        event.type,
        event.time.ToDatetime(UTC),
        Job.Status.Name(event.status),
        (
            *(counts.queued, counts.held, counts.in_progress, counts.succeeded),
            *(counts.failed, counts.timed_out, counts.rejected),
        ),
        event.user if event.HasField("user") else None,
        details,
    )
