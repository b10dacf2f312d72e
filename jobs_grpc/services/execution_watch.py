"""Watches the pending executions of devices."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from google.protobuf.message import Message

from jobs_grpc.byte_budget import Reservation, response_bytes
from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import DatabaseUnavailable, Overloaded, ServerStopping
from jobs_grpc.services.pagination import max_page_bytes
from jobs_grpc.services.watch_hub import WatchHub

T = TypeVar("T", bound=Message)

_DEVICES_PER_FETCH = 10_000


class ExecutionWatch:
    """Watches the pending executions of devices, which are polled every `interval` seconds.

    `stopping` is set when the server begins to stop.
    """

    def __init__(self, store: Store, interval: float, stopping: asyncio.Event) -> None:
        self._store = store
        self._interval = interval
        self._stopping = stopping
        self._hub = WatchHub(
            self._fingerprints, interval, stopping, keys_per_fetch=_DEVICES_PER_FETCH
        )

    @property
    def watchers(self) -> int:
        """The number of open watches."""
        return self._hub.watchers

    async def watch(
        self,
        tenant_id: str,
        device_id: str,
        limit: int,
        reservation: Reservation,
        to_response: Callable[[Sequence[Row]], Awaitable[T]],
    ) -> AsyncGenerator[T, None]:
        """Yield a response with the first `limit` pending executions, and again after each change.

        `reservation` holds the bytes of a response from before its rows are read until the next
        one is requested. Never ends; raises ServerStopping when the server stops.
        """

        async def read() -> T:
            rows = await self._pending_rows_with_retry(tenant_id, device_id, limit)
            response = await to_response(rows)
            reservation.correct(response_bytes(response.ByteSize()))
            return response

        async with aclosing(self._hub.watch(tenant_id, device_id)) as changes:
            async for _ in changes:
                await reservation.add(response_bytes(max_page_bytes(limit)), None)
                yield await read()
                reservation.release()

    async def _fingerprints(self, tenant_id: str, device_ids: list[str]) -> dict[str, str]:
        rows = await self._store.pending_fingerprints(tenant_id, device_ids=device_ids)
        return {row["device_id"]: row["fingerprint"] for row in rows}

    async def _pending_rows_with_retry(
        self, tenant_id: str, device_id: str, limit: int
    ) -> Sequence[Row]:
        """The first pending executions. Retries while the database is unavailable or overloaded."""
        while True:
            try:
                return await self._store.list_pending_executions(
                    tenant_id, device_id=device_id, limit=limit
                )
            except (DatabaseUnavailable, Overloaded):
                await self._wait_for_next_attempt()

    async def _wait_for_next_attempt(self) -> None:
        """Wait for the watch interval. Raises ServerStopping if the server stops first."""
        try:
            await asyncio.wait_for(self._stopping.wait(), self._interval)
        except TimeoutError:
            return
        raise ServerStopping
