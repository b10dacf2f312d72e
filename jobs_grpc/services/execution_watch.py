"""Watches the pending executions of devices."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TypeAlias

from jobs_grpc.byte_budget import ByteBudget, Reservation
from jobs_grpc.db.store import Store
from jobs_grpc.services.pending_pages import PendingPages
from jobs_grpc.services.watch_hub import WatchHub

_WATCHES_PER_FETCH = 10_000

_Key: TypeAlias = tuple[str, int]
"""A device, and the number of executions that its fingerprint covers."""


class ExecutionWatch:
    """Watches the pending executions of devices, which are polled every `interval` seconds.

    `pause` lets other calls run while the pages of a tenant are converted. `stopping` is set when
    the server begins to stop.
    """

    def __init__(
        self,
        store: Store,
        budget: ByteBudget,
        interval: float,
        stopping: asyncio.Event,
        pause: Callable[[str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._budget = budget
        self._hub = WatchHub(
            self._changed_fingerprints, interval, stopping, keys_per_fetch=_WATCHES_PER_FETCH
        )
        self._pages = PendingPages(store, budget, interval, stopping, pause)

    @property
    def open_watches(self) -> int:
        """The number of open watches."""
        return self._hub.open_watches

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
        # The bytes of a page, from before it is encoded until gRPC has sent it.
        reservation = Reservation(self._budget, tenant_id)
        try:
            with self._hub.watch(tenant_id, (device_id, limit + 1)) as watch:
                while True:
                    await watch.next()
                    page = await self._pages.read(tenant_id, device_id, limit, reservation)
                    # The page can be newer than the hub's fingerprint, and its executions can
                    # change back. So the next poll compares with the fingerprint of the page.
                    watch.digest = page.fingerprint
                    await write(page.response)
                    del page
                    reservation.release()
        finally:
            reservation.release()

    async def _changed_fingerprints(
        self, tenant_id: str, known: Mapping[_Key, int | None]
    ) -> AsyncGenerator[tuple[_Key, int]]:
        keys = list(known)
        rows = await self._store.changed_pending_fingerprints(
            tenant_id,
            device_ids=[device_id for device_id, _ in keys],
            limits=[limit for _, limit in keys],
            fingerprints=list(known.values()),
        )
        for row in rows:
            yield keys[row["position"] - 1], row["fingerprint"]
