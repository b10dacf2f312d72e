"""Two consumers of the events of each tenant, a stream and a webhook, which are both cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import grpc

from bench.year.ledger import Ledger
from tests.harness.calls import Calls
from tests.harness.consumers import Reader, Receiver, Webhook, watch

_LAST_EVENTS = "SELECT tenant_id, max(position) AS position FROM jobs.events GROUP BY tenant_id"


class Consumers:
    """The streams, and the endpoint of the webhooks."""

    def __init__(self, ledger: Ledger, receiver: Receiver) -> None:
        self.receiver = receiver
        self.readers = {tenant: Reader(tenant) for tenant in ledger.directories}
        self.webhooks: dict[str, Webhook] = {}
        self._ledger = ledger
        self._connected = {tenant: asyncio.Event() for tenant in self.readers}
        self._streams: dict[str, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def running(self, calls: Calls, streams: Calls) -> AsyncIterator[None]:
        """Create the webhooks, and stream until the context ends."""
        async with asyncio.TaskGroup() as tasks:
            readers = []
            for tenant, reader in self.readers.items():
                self.webhooks[tenant] = webhook = await self.receiver.subscribe(calls, tenant)
                reader.resume_after = webhook.since
                self._connected[tenant].set()
                readers.append(tasks.create_task(self._read(streams, reader)))
            yield
            for task in readers:
                task.cancel()

    def cut_stream(self, tenant: str) -> None:
        """End the stream of a tenant until `connect`."""
        self._connected[tenant].clear()
        self._ledger.done["streams that were cut"] += 1
        if tenant in self._streams:
            self._streams[tenant].cancel()

    def cut_webhook(self, tenant: str) -> None:
        """Let the endpoint of a tenant fail until `connect`."""
        self.receiver.away.add(tenant)
        self._ledger.done["webhooks that were cut"] += 1

    def connect(self, tenant: str) -> None:
        """End the cuts of a tenant."""
        self.receiver.away.discard(tenant)
        self._connected[tenant].set()

    async def behind(self, owner: asyncpg.Connection) -> list[str]:
        """Return the tenants with events that a consumer has not received."""
        heads = {row["tenant_id"]: row["position"] for row in await owner.fetch(_LAST_EVENTS)}
        return [
            tenant
            for tenant, reader in self.readers.items()
            if min(reader.resume_after, self.webhooks[tenant].last) < heads.get(tenant, 0)
        ]

    async def _read(self, streams: Calls, reader: Reader) -> None:
        tenant = reader.tenant
        while True:
            await self._connected[tenant].wait()
            self._streams[tenant] = asyncio.create_task(watch(streams, reader))
            try:
                await self._streams[tenant]
            except grpc.aio.AioRpcError as e:
                self._ledger.problem("WatchEvents fails", f"{tenant}: {e.code()} {e.details()}")
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                # Also raised in this task if only the stream was cut.
                if self._connected[tenant].is_set():
                    raise
