"""A server with keys and the owner's login delivers events; others do not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fleet.jobs.v1 import events_pb2 as pb
from standardwebhooks.webhooks import Webhook

from tests.support.database import Database
from tests.support.endpoints import OK, Endpoint, Request
from tests.support.event_rows import queue_event
from tests.support.metrics import METRICS_ON, scrape, scrape_until
from tests.support.server import DEFAULT_OPTIONS, Server, running_server
from tests.support.webhooks import WebhookCaller, add_events, set_verified
from tests.webhooks.support import add_webhook, webhook_row


@dataclass(frozen=True)
class Deliveries:
    """A tenant with an HTTPS endpoint, and servers that deliver to it."""

    database: Database
    tenant: str
    endpoint: Endpoint
    keys: Path

    @asynccontextmanager
    async def server(self, **variables: str) -> AsyncIterator[Server]:
        settings = {
            "JOBS_OWNER_DATABASE_URL": self.database.owner_dsn,
            "JOBS_WEBHOOK_KEYS_FILE": str(self.keys),
            "JOBS_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
            "JOBS_WEBHOOK_ALLOWED_PORTS": str(self.endpoint.port),
            "JOBS_SHUTDOWN_GRACE": "0.2",
        } | variables
        options = replace(DEFAULT_OPTIONS, metrics_max_age=0.0)
        async with running_server(self.database.request_dsn, options, **settings) as server:
            yield server


@pytest.fixture
def deliveries(
    database: Database, tenant: str, endpoint: Endpoint, webhook_keys: Path
) -> Deliveries:
    return Deliveries(database, tenant, endpoint, webhook_keys)


async def test_server_delivers_signed_events_to_a_new_webhook(deliveries: Deliveries) -> None:
    endpoint = deliveries.endpoint
    async with deliveries.server(**METRICS_ON) as server:
        caller = WebhookCaller.on(server, deliveries.tenant)
        created = await caller.create(url=endpoint.url())
        verifier = Webhook(created.secret)

        tested = await caller.test(created.webhook.webhook_id)
        assert (tested.http_status, tested.error) == (204, pb.Webhook.DELIVERY_ERROR_UNSPECIFIED)
        assert tested.duration.ToTimedelta().total_seconds() > 0
        (test,) = endpoint.requests
        assert verifier.verify(test.body, test.headers)["type"] == "webhook.test"

        positions = await add_events(
            deliveries.database, deliveries.tenant, 3, reason="maintenance"
        )
        _, *requests = await endpoint.received(4)
        assert [request.position for request in requests] == positions
        for request in requests:
            event = verifier.verify(request.body, request.headers)
            assert event["data"]["reason"] == "maintenance"
        await scrape_until(
            server.app.metrics_address,
            lambda read: read.value("jobs_webhook_deliveries_total", result="SUCCESS") == 3,
        )
        webhook = await caller.get(created.webhook.webhook_id)
        assert (webhook.position, webhook.last_http_status) == (positions[-1], 204)


async def test_shutdown_stores_the_delivery_that_is_being_sent(deliveries: Deliveries) -> None:
    database, tenant, endpoint = deliveries.database, deliveries.tenant, deliveries.endpoint
    release = asyncio.Event()

    async def wait(_: Request) -> bytes:
        await release.wait()
        return OK

    async with deliveries.server(JOBS_SHUTDOWN_GRACE="10") as server:
        webhook = (await WebhookCaller.on(server, tenant).create(url=endpoint.url())).webhook
        await set_verified(database, webhook.webhook_id)
        endpoint.respond = wait
        first, second = await add_events(database, tenant, 2)
        await endpoint.received(1)
        asyncio.get_running_loop().call_later(0.2, release.set)
    row = await webhook_row(database, webhook.webhook_id)
    assert (row["position"], row["claim_id"]) == (first, None)
    assert len(endpoint.requests) == 1
    async with deliveries.server():
        await endpoint.received(2)
    assert endpoint.requests[1].position == second


@pytest.mark.parametrize("variable", ["JOBS_OWNER_DATABASE_URL", "JOBS_WEBHOOK_KEYS_FILE"])
async def test_server_without_owner_or_keys_delivers_nothing(
    deliveries: Deliveries, variable: str
) -> None:
    database, tenant, endpoint = deliveries.database, deliveries.tenant, deliveries.endpoint
    await add_webhook(database, tenant, endpoint.url())
    async with deliveries.server(**METRICS_ON | {variable: ""}) as server:
        await queue_event(database.owner, tenant)
        await add_events(database, tenant)
        assert "jobs_webhook_deliveries" not in (await scrape(server.app.metrics_address)).families
    assert endpoint.requests == []
