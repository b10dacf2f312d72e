"""Dispatchers in this process, and webhooks that no call has created."""

import asyncio
import ipaddress
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg

from jobs_grpc.config import EventsConfig
from jobs_grpc.db.outage import Outage
from jobs_grpc.webhooks.delivery import http_sender
from jobs_grpc.webhooks.dispatcher import PROVEN_SLOTS, SLOW_SLOTS, UNPROVEN_SLOTS, Dispatcher
from jobs_grpc.webhooks.secrets import MasterKeys
from tests.support.database import Database
from tests.support.endpoints import Endpoint

KEYS = MasterKeys({"k1": b"k" * 32})


async def add_webhook(
    database: Database, tenant: str, url: str, *, works: bool = False, **columns: Any
) -> str:
    """Store a webhook that receives the events from now on. `works`: a delivery has succeeded."""
    webhook_id = f"wh_{uuid.uuid4().hex}"
    values = {
        "tenant_id": tenant,
        "webhook_id": webhook_id,
        "url": url,
        "position": 0,
        "previous_position": 0,
        "key_id": "k1",
        "is_unproven": not works,
        "verified_at": datetime.now(UTC),
    } | columns
    places = ", ".join(f"${n}" for n in range(1, 1 + len(values)))
    await database.owner.execute(
        f"INSERT INTO jobs.webhooks (created_at, {', '.join(values)}) VALUES (now(), {places})",
        *values.values(),
    )
    return webhook_id


async def webhook_row(database: Database, webhook_id: str) -> asyncpg.Record:
    (row,) = await database.owner.fetch(
        "SELECT *, extract(epoch FROM due_at - last_attempt_at)::float AS retry_seconds"
        " FROM jobs.webhooks WHERE webhook_id = $1",
        webhook_id,
    )
    return row


@asynccontextmanager
async def open_dispatcher(
    owner_dsn: str, *ports: int, keys: MasterKeys = KEYS, outage: Outage | None = None
) -> AsyncIterator[Dispatcher]:
    """Open a dispatcher that may send to these ports on loopback. Its caller runs it."""
    config = EventsConfig(
        webhook_allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        webhook_allowed_ports=ports,
        webhook_allow_http=True,
    )
    async with (
        http_sender(config, max_connections=PROVEN_SLOTS + SLOW_SLOTS) as proven,
        http_sender(config, max_connections=UNPROVEN_SLOTS) as unproven,
        # A short interval, because most tests wait for the next search.
        Dispatcher(
            owner_dsn, lambda: keys, proven, unproven, interval=0.05, outage=outage
        ) as dispatcher,
    ):
        yield dispatcher


@asynccontextmanager
async def running_dispatcher(
    database: Database,
    *endpoints: Endpoint,
    keys: MasterKeys = KEYS,
    grace: float = 5.0,
    outage: Outage | None = None,
    owner_dsn: str | None = None,
) -> AsyncIterator[Dispatcher]:
    """Run a dispatcher that may send to these endpoints on loopback."""
    ports = [endpoint.port for endpoint in endpoints]
    dsn = owner_dsn or database.owner_dsn
    async with open_dispatcher(dsn, *ports, keys=keys, outage=outage) as dispatcher:
        running = asyncio.create_task(dispatcher.run())
        try:
            yield dispatcher
        finally:
            await dispatcher.close(grace)
            await running
