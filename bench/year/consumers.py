"""Two consumers of the events of each tenant, a stream and a webhook, which are both cut."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import grpc

from bench.year.ledger import Ledger
from tests.harness.calls import END_OF_CONNECTION, Calls
from tests.harness.consumers import Reader, Receiver, Webhook, watch

_LAST_EVENTS = "SELECT tenant_id, max(position) AS position FROM jobs.events GROUP BY tenant_id"


class Consumers:
    """The streams, and the endpoint of the webhooks."""

    def __init__(self, ledger: Ledger, receiver: Receiver) -> None:
        self.receiver = receiver
        self.readers = {tenant: Reader(tenant) for tenant in ledger.directories}
        self.webhooks: dict[str, Webhook] = {}
        self._ledger = ledger
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._start: Callable[[str], asyncio.Task[None]]

    @asynccontextmanager
    async def running(self, calls: Calls, streams: Calls) -> AsyncIterator[None]:
        """Create the webhooks, and stream until the context ends."""
        async with asyncio.TaskGroup() as tasks:
            self._start = lambda tenant: tasks.create_task(self._read(streams, tenant))
            for tenant, reader in self.readers.items():
                self.webhooks[tenant] = webhook = await self.receiver.subscribe(calls, tenant)
                reader.resume_after = webhook.since
                self.connect(tenant)
            yield
            for task in self._streams.values():
                task.cancel()

    def cut_stream(self, tenant: str) -> None:
        """End the stream of a tenant until `connect`."""
        self._ledger.done["streams that were cut"] += 1
        self._streams.pop(tenant).cancel()

    def cut_webhook(self, tenant: str) -> None:
        """Let the endpoint of a tenant fail until `connect`."""
        self.receiver.away.add(tenant)
        self._ledger.done["webhooks that were cut"] += 1

    def connect(self, tenant: str) -> None:
        """End the cuts of a tenant."""
        self.receiver.away.discard(tenant)
        if tenant not in self._streams:
            self._streams[tenant] = self._start(tenant)

    async def behind(self, owner: asyncpg.Connection) -> list[str]:
        """Return the tenants with events that a consumer has not received."""
        heads = {row["tenant_id"]: row["position"] for row in await owner.fetch(_LAST_EVENTS)}
        return [
            tenant
            for tenant, reader in self.readers.items()
            if min(reader.resume_after, self.webhooks[tenant].last) < heads.get(tenant, 0)
        ]

    async def _read(self, streams: Calls, tenant: str) -> None:
        while True:
            try:
                await watch(streams, self.readers[tenant])
            except grpc.aio.AioRpcError as e:
                if e.details() == END_OF_CONNECTION:
                    self._ledger.done["streams on connections that reached their maximum age"] += 1
                    continue
                self._ledger.problem("WatchEvents fails", f"{tenant}: {e.code()} {e.details()}")
                await asyncio.sleep(1)
