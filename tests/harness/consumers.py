"""Consumers of the events: streams that resume where they stopped, and an endpoint of webhooks."""

import asyncio
import base64
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1.jobs_pb2 import Job, JobExecution

from tests.harness.calls import Calls
from tests.harness.event_checks import LoggedEvent
from tests.harness.ledger import Ledger
from tests.support.endpoints import OK, Endpoint, Request, response, running_endpoint
from tests.support.webhooks import is_signed, loopback_settings, write_keys

_FAILURES = 0.002


@dataclass
class Reader:
    """What a consumer of a tenant has received. A position that is resumed is the last one."""

    tenant: str
    name: str = ""
    positions: list[int] = field(default_factory=list)
    """Those of the events."""
    events: dict[str, list[LoggedEvent]] = field(default_factory=lambda: defaultdict(list))
    """The events by job."""
    resume_after: int = 0
    opened: int = 0
    """How often it has opened a stream or called for a page."""

    def add(self, events: Sequence[pb.Event], position: int) -> None:
        for event in events:
            self.positions.append(event.position)
            self.events[event.job_id].append(logged(self.tenant, event))
        self.resume_after = position


async def watch(calls: Calls, reader: Reader) -> None:
    """Stream until the stream ends. Raises AioRpcError."""
    request = pb.WatchEventsRequest(after_position=reader.resume_after)
    stream = calls.stream(request, reader.tenant)
    try:
        async for message in stream:
            reader.add(message.events, message.position)
    finally:
        stream.cancel()


@dataclass
class Webhook:
    """What a webhook has delivered."""

    tenant: str
    secret: bytes
    since: int
    """The position after which it delivers."""
    last: int
    """The last position that was accepted."""
    positions: list[int] = field(default_factory=list)
    """The positions that were accepted, each once."""
    repeated: int = 0
    """Deliveries of the last position."""
    late: int = 0
    """Deliveries of positions before the last one."""


class Receiver:
    """An endpoint on loopback that accepts each delivery with a valid signature."""

    def __init__(self, ledger: Ledger, endpoint: Endpoint, keys: Path) -> None:
        self._ledger = ledger
        self._endpoint = endpoint
        self._keys = keys
        self.webhooks: dict[str, Webhook] = {}
        """By path."""
        self.away: set[str] = set()
        """Tenants whose deliveries fail."""
        self.is_flaky = False
        """Whether some responses are slow, so that faults hit deliveries, and a few fail."""
        endpoint.respond = self._receive

    @property
    def variables(self) -> Mapping[str, str]:
        """The settings of a server that delivers to this endpoint."""
        return loopback_settings(self._keys, self._endpoint.port)

    async def subscribe(self, calls: Calls, tenant: str) -> Webhook:
        path = f"/{tenant}/{len(self.webhooks)}"
        created = await calls.call(pb.CreateWebhookRequest(url=self._endpoint.url(path)), tenant)
        secret = base64.b64decode(created.secret.removeprefix("whsec_"))
        since = created.webhook.position
        self.webhooks[path] = Webhook(tenant, secret, since, since)
        return self.webhooks[path]

    async def _receive(self, request: Request) -> bytes:
        self._endpoint.requests.clear()
        webhook = self.webhooks.get(request.line.split()[1])
        if webhook is None:
            return response(503)  # Its secret is not known yet.
        if not is_signed(request, webhook.secret):
            self._ledger.problem("a delivery has a wrong signature", request.line)
            return response(401)
        if self.is_flaky:
            await asyncio.sleep(random.choice((0, 0, 0, 0.05)))  # noqa: S311
        is_failure = self.is_flaky and random.random() < _FAILURES  # noqa: S311
        if webhook.tenant in self.away or is_failure:
            self._ledger.done["deliveries that failed"] += 1
            return response(503)
        if request.event["type"] == "webhook.test":
            return OK
        position, previous = request.position, int(request.event["data"]["previous_position"])
        if position <= webhook.last:
            webhook.repeated += position == webhook.last
            webhook.late += position < webhook.last
            return OK
        if previous != webhook.last:
            self._ledger.problem(
                "a delivery names another previous position",
                f"{request.line}: {previous} before {position}, not {webhook.last}",
            )
        webhook.last = position
        webhook.positions.append(position)
        return OK


@asynccontextmanager
async def running_receiver(folder: Path, ledger: Ledger) -> AsyncIterator[Receiver]:
    """Run a receiver, with the master keys of the servers in `folder`."""
    keys = write_keys(folder / "webhook-keys", "k1")
    async with running_endpoint(None) as endpoint:
        yield Receiver(ledger, endpoint, keys)


def logged(tenant: str, event: pb.Event) -> LoggedEvent:
    counts = event.execution_counts
    details: dict[str, Any] = {}
    if event.cause:
        details["cause"] = event.cause
    if event.HasField("stage"):
        details["stage"] = event.stage
    if event.joined_count:
        details["joined_count"] = event.joined_count
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
        event.user_id if event.HasField("user_id") else None,
        details,
    )
