"""Receives the events of the tenants by webhooks during the faults."""

import base64
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import events_pb2_grpc

from tests.chaos.event_checks import LoggedEvent
from tests.chaos.history import History
from tests.chaos.system import TENANTS, System
from tests.support.endpoints import OK, Endpoint, Request, response, running_endpoint
from tests.support.waiting import wait_until
from tests.support.webhooks import is_signed, loopback_settings, write_keys

# The lease of a server that was killed, and the deliveries since then.
_DELIVERED_WITHIN = 90.0


@dataclass
class _Received:
    """What the webhook of a tenant has delivered."""

    secret: bytes = b""
    created_at: int = 0
    """The position after which the webhook delivers."""
    positions: list[int] = field(default_factory=list)
    previous: list[int] = field(default_factory=list)
    """The previous_position of each delivery."""


class WebhookReceiver:
    """An endpoint on loopback that accepts each delivery with a valid signature."""

    def __init__(self, endpoint: Endpoint, keys: Path, history: History) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._history = history
        self._received = {tenant: _Received() for tenant in TENANTS}
        endpoint.respond = self._receive

    @property
    def variables(self) -> Mapping[str, str]:
        """The settings of a server that delivers to this endpoint."""
        return loopback_settings(self._keys, self._endpoint.port)

    async def subscribe(self, system: System) -> None:
        """Create a webhook for each tenant."""
        stub = events_pb2_grpc.EventServiceStub(system.channels[0])
        for tenant, received in self._received.items():
            request = pb.CreateWebhookRequest(url=self._endpoint.url(f"/{tenant}"))
            created = await stub.CreateWebhook(request, metadata=[("x-tenant-id", tenant)])
            received.secret = base64.b64decode(created.secret.removeprefix("whsec_"))
            received.created_at = created.webhook.position

    async def _receive(self, request: Request) -> bytes:
        self._endpoint.requests.clear()
        received = self._received[request.line.split("/")[1].split()[0]]
        if not is_signed(request, received.secret):
            self._history.add_violation("a delivery has a wrong signature", request.line)
            return response(401)
        if request.event["type"] == "webhook.test":
            return OK
        received.positions.append(request.position)
        received.previous.append(int(request.event["data"]["previous_position"]))
        return OK

    async def check(self, log: Sequence[LoggedEvent]) -> None:
        """Wait until all events are delivered. Check that none is lost, and that they are in order.

        An event can be delivered again, until the next one is.
        """
        for tenant, received in self._received.items():
            expected = [
                e.position for e in log if e.tenant == tenant and e.position > received.created_at
            ]
            with suppress(AssertionError):
                await wait_until(partial(_is_last, received, expected), _DELIVERED_WITHIN)
            found = received.positions
            once = [position for position, _ in itertools.groupby(found)]
            self._history.calls["webhooks: delivered"] += len(once)
            self._history.calls["webhooks: delivered again"] += len(found) - len(once)
            if once != expected:
                lost = sorted(set(expected) - set(once))
                example = f"{tenant}: {len(once)} of {len(expected)}, {len(lost)} lost: {lost[:5]}"
                self._history.add_violation("webhooks deliver other events", example)
            before = dict(zip(expected[1:], expected, strict=False))
            for position, previous in zip(found, received.previous, strict=True):
                if before.get(position, previous) != previous:
                    example = f"{tenant}: {previous} before {position}, not {before[position]}"
                    self._history.add_violation("a delivery names a wrong position", example)


async def _is_last(received: _Received, expected: Sequence[int]) -> bool:
    return received.positions[-1:] == [*expected[-1:]]


@asynccontextmanager
async def running_receiver(folder: Path, history: History) -> AsyncIterator[WebhookReceiver]:
    """Run a receiver, with the master keys of the servers in `folder`."""
    keys = write_keys(folder / "webhook-keys", "k1")
    async with running_endpoint(None) as endpoint:
        yield WebhookReceiver(endpoint, keys, history)
