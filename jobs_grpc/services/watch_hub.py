"""Polls the database in one loop per tenant and hub, for any number of watch streams."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from jobs_grpc.errors import DatabaseUnavailable, Overloaded, ServerStopping

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _Watcher(Generic[T]):
    """A watch stream: its key, the latest value, and whether that value is new to the stream."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.has_value = False
        self.value: T | None = None
        self.changed = asyncio.Event()

    def offer(self, value: T | None) -> None:
        """Store the value, and set `changed` if it is the first one or differs from the last."""
        if not self.has_value or value != self.value:
            self.has_value, self.value = True, value
            self.changed.set()


class WatchHub(Generic[T]):
    """Polls the values of watched keys and passes changes to the watchers.

    While a tenant has watchers, `fetch(tenant_id, keys)` is called for all its watched keys
    every `interval` seconds. A new watcher gets its first value at once, by a fetch of its key
    only. A watcher gets at most one value per interval; a slow watcher skips intermediate
    values. Polling continues after a database outage.
    """

    def __init__(
        self,
        fetch: Callable[[str, list[str]], Awaitable[Mapping[str, T]]],
        interval: float,
        stopping: asyncio.Event,
    ) -> None:
        self._fetch = fetch
        self._interval = interval
        self._stopping = stopping
        self._watchers: dict[str, set[_Watcher[T]]] = {}
        self._wakeups: dict[str, asyncio.Event] = {}
        self._polls: set[asyncio.Task[None]] = set()

    async def watch(self, tenant_id: str, key: str) -> AsyncGenerator[T | None, None]:
        """Yield the current value of a key and then each change; None if the key has no value.

        Raises ServerStopping when the server stops.
        """
        clock = asyncio.get_running_loop().time
        watcher: _Watcher[T] = _Watcher(key)
        self._add(tenant_id, watcher)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while True:
                changed = asyncio.create_task(watcher.changed.wait())
                try:
                    await asyncio.wait({changed, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if stopping.done():
                    raise ServerStopping
                watcher.changed.clear()
                next_yield = clock() + self._interval
                yield watcher.value
                await asyncio.wait({stopping}, timeout=next_yield - clock())
        finally:
            stopping.cancel()
            self._watchers[tenant_id].discard(watcher)
            if not self._watchers[tenant_id]:
                self._wakeups[tenant_id].set()

    def _add(self, tenant_id: str, watcher: _Watcher[T]) -> None:
        if tenant_id not in self._watchers:
            self._watchers[tenant_id] = set()
            self._wakeups[tenant_id] = asyncio.Event()
            # In an empty context, because its log lines must not have the id of this request.
            poll = asyncio.create_task(self._poll(tenant_id), context=contextvars.Context())
            self._polls.add(poll)
            poll.add_done_callback(self._polls.discard)
        self._watchers[tenant_id].add(watcher)
        self._wakeups[tenant_id].set()

    async def _poll(self, tenant_id: str) -> None:
        """Refresh a tenant's watchers until it has none."""
        watchers, wakeup = self._watchers[tenant_id], self._wakeups[tenant_id]
        clock = asyncio.get_running_loop().time
        next_poll = clock()
        database_available = True
        while watchers:
            wakeup.clear()
            new_watchers = [watcher for watcher in watchers if not watcher.has_value]
            if clock() >= next_poll:
                database_available = await self._refresh(tenant_id, list(watchers))
                next_poll = clock() + self._interval
            # During an outage, new watchers wait for the next regular poll.
            elif database_available and new_watchers:
                database_available = await self._refresh(tenant_id, new_watchers)
            try:
                async with asyncio.timeout_at(next_poll):
                    await wakeup.wait()
            except TimeoutError:
                pass
        del self._watchers[tenant_id], self._wakeups[tenant_id]

    async def _refresh(self, tenant_id: str, watchers: list[_Watcher[T]]) -> bool:
        """Fetch the watchers' values; False if that failed, which is logged."""
        try:
            values = await self._fetch(tenant_id, sorted({w.key for w in watchers}))
        except (DatabaseUnavailable, Overloaded) as e:
            logger.warning("watch poll failed; retrying: %r", e.__cause__ or e)
            return False
        except Exception:
            logger.exception("watch poll failed; retrying")
            return False
        for watcher in watchers:
            watcher.offer(values.get(watcher.key))
        return True
