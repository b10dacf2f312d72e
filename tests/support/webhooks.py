"""Webhooks in tests: their calls, a sender that records, events, and what a dispatcher calls."""

import base64
import hmac
import os
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import events_pb2_grpc
from google.protobuf.field_mask_pb2 import FieldMask

from jobs_grpc.webhooks.sender import DeliveryResult
from tests.support.callers import Caller
from tests.support.database import Database
from tests.support.endpoints import Request
from tests.support.event_rows import queue_event
from tests.support.server import DEFAULT_OPTIONS, Server, running_server

URL = "https://hooks.example/jobs"


def write_keys(path: Path, *key_ids: str) -> Path:
    """Write a file of master keys, each of which follows from its id."""
    path.write_text("".join(f"{key_id} {encoded_key(key_id)}\n" for key_id in key_ids))
    path.chmod(0o600)
    return path


def encoded_key(key_id: str) -> str:
    return base64.b64encode(key_id.encode().ljust(32, b".")).decode()


def loopback_settings(keys: Path, port: int | str) -> dict[str, str]:
    """Return the settings of a server that delivers to a port on loopback over HTTP."""
    return {
        "JOBS_WEBHOOK_KEYS_FILE": os.fspath(keys),
        "JOBS_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "JOBS_WEBHOOK_ALLOWED_PORTS": str(port),
        "JOBS_WEBHOOK_ALLOW_HTTP": "true",
    }


def is_signed(request: Request, secret: bytes) -> bool:
    """Return whether a delivery has one signature, which is by the secret."""
    headers = request.headers
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    signature = base64.b64encode(hmac.digest(secret, content, "sha256")).decode()
    return headers["webhook-signature"] == f"v1,{signature}"


@dataclass
class RecordingSender:
    """Records deliveries and answers each with `result`."""

    result: DeliveryResult = field(default_factory=lambda: DeliveryResult(204, None, 0.25))
    sent: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)

    async def send(
        self, tenant_id: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> DeliveryResult:
        self.sent.append((url, headers, body))
        return self.result


@asynccontextmanager
async def running_webhook_server(
    database: Database, keys: Path | None, sender: RecordingSender, **variables: str
) -> AsyncIterator[Server]:
    """Run the service with master keys and a sender."""
    options = replace(DEFAULT_OPTIONS, webhook_sender=sender)
    if keys:
        variables["JOBS_WEBHOOK_KEYS_FILE"] = os.fspath(keys)
    async with running_server(database.request_dsn, options, **variables) as server:
        yield server


@dataclass(frozen=True)
class WebhookCaller(Caller):
    """A caller of EventService that manages webhooks. Keyword arguments are request fields."""

    stub: "events_pb2_grpc.EventServiceAsyncStub"
    tenant: str
    more_metadata: tuple[tuple[str, str], ...] = ()

    @classmethod
    def on(cls, server: Server, tenant: str, *metadata: tuple[str, str]) -> "WebhookCaller":
        return cls(events_pb2_grpc.EventServiceStub(server.channel), tenant, metadata)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-tenant-id", self.tenant), *self.more_metadata)

    async def create(self, **fields: Any) -> pb.CreateWebhookResponse:
        """Create a webhook; the URL defaults to URL."""
        request = pb.CreateWebhookRequest(**({"url": URL} | fields))
        return await self.call(request, pb.CreateWebhookResponse)

    async def list(self) -> Sequence[pb.Webhook]:
        return (await self.call(pb.ListWebhooksRequest(), pb.ListWebhooksResponse)).webhooks

    async def get(self, webhook_id: str) -> pb.Webhook:
        request = pb.GetWebhookRequest(webhook_id=webhook_id)
        return (await self.call(request, pb.GetWebhookResponse)).webhook

    async def update(self, webhook_id: str, **fields: Any) -> pb.Webhook:
        mask, webhook = FieldMask(paths=fields), pb.Webhook(**fields)
        request = pb.UpdateWebhookRequest(webhook_id=webhook_id, update_mask=mask, webhook=webhook)
        return (await self.call(request, pb.UpdateWebhookResponse)).webhook

    async def delete(self, webhook_id: str) -> None:
        request = pb.DeleteWebhookRequest(webhook_id=webhook_id)
        await self.call(request, pb.DeleteWebhookResponse)

    async def rotate(self, webhook_id: str) -> pb.RotateWebhookSecretResponse:
        request = pb.RotateWebhookSecretRequest(webhook_id=webhook_id)
        return await self.call(request, pb.RotateWebhookSecretResponse)

    async def test(self, webhook_id: str) -> pb.TestWebhookResponse:
        request = pb.TestWebhookRequest(webhook_id=webhook_id)
        return await self.call(request, pb.TestWebhookResponse)


@dataclass(frozen=True)
class Dispatcher:
    """The statements of a dispatcher for one webhook, on a connection as the owner."""

    connection: asyncpg.Connection
    tenant: str
    webhook_id: str
    claim_id: uuid.UUID = field(default_factory=uuid.uuid4)

    async def claim(self) -> Sequence[asyncpg.Record]:
        return await self._fetch("claim_webhook", self.claim_id)

    async def positions(self) -> list[int]:
        """Claim the webhook, and return the positions of the events to send."""
        return [row["position"] for row in await self.claim()]

    async def succeed(self, position: int, *, is_last: bool = False) -> bool:
        """Store a success, and return whether the claim had not ended."""
        row = await self._store(position, 200, None, 0.0, is_last)
        stored: bool = row["stored"]
        return stored

    async def fail(
        self,
        position: int,
        status: int = 500,
        error: str = "HTTP_STATUS",
        retry_seconds: float = 5.0,
    ) -> tuple[bool, str | None]:
        """Store a failure; return whether the claim had not ended, and the disabled cause."""
        row = await self._store(position, status, error, retry_seconds, False)
        return row["stored"], row["disabled_cause"]

    async def release(self, delay_seconds: float = 0.0) -> bool:
        """End the claim, and return whether it had not ended."""
        released: bool = (await self._fetch("release_webhook", self.claim_id, delay_seconds))[0][0]
        return released

    async def _store(self, position: int, *args: object) -> asyncpg.Record:
        return (await self._fetch("store_delivery", self.claim_id, position, *args))[0]

    async def _fetch(self, function: str, *args: object) -> Sequence[asyncpg.Record]:
        places = ", ".join(f"${n}" for n in range(1, 3 + len(args)))
        sql = f"SELECT * FROM jobs.{function}({places})"
        return await self.connection.fetch(sql, self.tenant, self.webhook_id, *args)

    async def is_due(self) -> bool:
        """Return whether a search finds the webhook."""
        rows = [
            row
            for is_unproven in (False, True)
            for row in await self.connection.fetch(
                "SELECT * FROM jobs.webhooks_due($1, 1000, '{}')", is_unproven
            )
        ]
        return (self.tenant, self.webhook_id) in [
            (row["tenant_id"], row["webhook_id"]) for row in rows
        ]


@dataclass(frozen=True, kw_only=True)
class DispatcherWithCalls(Dispatcher):
    """Runs the dispatcher's statements for one webhook, makes calls about it, and adds events."""

    database: Database
    caller: WebhookCaller
    secret: str
    """The one that it was created with."""

    async def get(self) -> pb.Webhook:
        return await self.caller.get(self.webhook_id)

    async def update(self, **fields: Any) -> pb.Webhook:
        return await self.caller.update(self.webhook_id, **fields)

    async def test(self) -> pb.TestWebhookResponse:
        return await self.caller.test(self.webhook_id)

    async def add_events(self, count: int = 1) -> list[int]:
        """Add events to the log of the tenant, and return their positions."""
        return await add_events(self.database, self.tenant, count)


async def create_webhook(
    database: Database, caller: WebhookCaller, *, verified: bool = True
) -> DispatcherWithCalls:
    """Create a webhook; its URL is verified unless `verified` is false."""
    created = await caller.create()
    webhook_id = created.webhook.webhook_id
    if verified:
        await set_verified(database, webhook_id)
    return DispatcherWithCalls(
        *(database.owner, caller.tenant, webhook_id),
        database=database,
        caller=caller,
        secret=created.secret,
    )


async def set_verified(database: Database, webhook_id: str) -> None:
    """Let the URL of a webhook be verified, so that events are sent."""
    await database.owner.execute(
        "UPDATE jobs.webhooks SET verified_at = jobs.clock_time() WHERE webhook_id = $1", webhook_id
    )


async def sequence(connection: asyncpg.Connection, tenant: str) -> None:
    async with connection.transaction():
        await connection.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
        await connection.execute("SELECT jobs.sequence_events($1)", tenant)


async def add_events(
    database: Database, tenant: str, count: int = 1, event_type: str = "job.paused", **details: Any
) -> list[int]:
    """Add events to the log of a tenant, and return their positions."""
    before = await database.owner.fetchval(
        "SELECT max(position) FROM jobs.events WHERE tenant_id = $1", tenant
    )
    for _ in range(count):
        await queue_event(database.owner, tenant, type_=event_type, details=details or None)
    await sequence(database.owner, tenant)
    rows = await database.owner.fetch(
        "SELECT position FROM jobs.events WHERE tenant_id = $1 AND position > $2 ORDER BY position",
        tenant,
        before or 0,
    )
    return [row["position"] for row in rows]
