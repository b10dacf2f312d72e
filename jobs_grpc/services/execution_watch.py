"""Watches the pending executions of devices."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from jobs_grpc.db.store import Store
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from jobs_grpc.services.batch_reader import BatchReader
from jobs_grpc.services.pending_pages import Page, PageQuery, read_pages
from jobs_grpc.services.watch_group import Changed
from jobs_grpc.services.watch_hub import POLL_INTERVAL, WatchHub


class ExecutionWatch:
    """Watches the pending executions of devices, which are polled every `interval` seconds.

    `yield_now` lets other calls run while the pages of a tenant are converted. `stopping` is
    set when the server begins to stop.
    """

    def __init__(
        self,
        store: Store,
        memory: MemoryLimit,
        stopping: asyncio.Event,
        yield_now: Callable[[str], Awaitable[None]],
        interval: float = POLL_INTERVAL,
    ) -> None:
        self._store = store
        self._memory = memory
        self.hub = WatchHub(self._changed_fingerprints, interval, stopping)
        store.on_write(self.hub.note_write)
        self._pages = BatchReader[PageQuery, Page](
            partial(read_pages, store),
            memory,
            interval,
            stopping,
            yield_now,
            noun="the pending executions",
        )

    async def run(
        self,
        tenant_id: str,
        device_id: str,
        limit: int,
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Write a response with the first `limit` pending executions, and again after each change.

        Never returns; raises ServerStopping when the server stops.
        """
        query = PageQuery(device_id, limit)
        # The bytes of a page, from before it is encoded until gRPC has sent it.
        reservation = Reservation(self._memory, tenant_id)
        try:
            with self.hub.watch(tenant_id, query) as watch:
                while True:
                    await watch.changed()
                    page = await self._pages.read(tenant_id, query, reservation)
                    # The page can be newer than the poll, and its executions can change back. So
                    # the next poll compares with the fingerprint of the page.
                    watch.fingerprint = page.fingerprint
                    await write(page.response)
                    del page
                    reservation.release()
        finally:
            reservation.release()

    async def _changed_fingerprints(
        self, tenant_ids: list[str], queries: list[PageQuery], fingerprints: list[int | None]
    ) -> Changed:
        return await self._store.changed_pending_fingerprints(
            tenant_ids,
            device_ids=[query.device_id for query in queries],
            limits=[query.limit + 1 for query in queries],
            fingerprints=fingerprints,
        )
