"""Polls the database in one loop per tenant and hub, for any number of watch streams."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from jobs_grpc.errors import (
    DatabaseUnavailable,
    Overloaded,
    QueryTimeout,
    SchemaNotCurrent,
    ServerStopping,
)
from jobs_grpc.repeated_events import RepeatedEvents

logger = logging.getLogger(__name__)

T = TypeVar("T")


_NO_CONNECTION = (
    "watch poll failed; retrying: no database connection became free within JOBS_POOL_TIMEOUT"
)

# Streams that get a value in one iteration of the event loop, so that other calls get through.
_STREAMS_PER_ITERATION = 8


class _Watcher(Generic[T]):
    """A watch stream: its key, and the latest value until the stream has yielded it.

    Then only its digest is kept, because a value can be large.
    """

    __slots__ = ("changed", "digest", "has_value", "key", "value", "waiter")

    def __init__(self, key: str) -> None:
        self.key = key
        self.has_value = False
        self.digest = 0
        self.value: T | None = None
        self.changed = False
        self.waiter: asyncio.Future[None] | None = None

    def offer(self, value: T | None, digest: int) -> bool:
        """Store the value, and wake the stream if it is the first one or differs from the last."""
        if self.has_value and digest == self.digest:
            return False
        self.has_value, self.digest, self.value, self.changed = True, digest, value, True
        self.wake()
        return True

    def take(self) -> T | None:
        """Return the value and forget it."""
        value, self.value, self.changed = self.value, None, False
        return value

    def wake(self) -> None:
        """Wake the stream if it waits."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class _Watchers(Generic[T]):
    """The watchers of a tenant, and those that have not been polled yet."""

    def __init__(self) -> None:
        self.all: set[_Watcher[T]] = set()
        self.new: list[_Watcher[T]] = []
        self.changed = asyncio.Event()
        """Set when there is a new watcher, or none is left."""

    def wake(self) -> None:
        """Wake all streams."""
        for watcher in self.all:
            watcher.wake()


class WatchHub(Generic[T]):
    """Polls the values of watched keys and passes changes to the watchers.

    While a tenant has watchers, `fetch(tenant_id, keys)` is called for all its watched keys
    every `interval` seconds, with at most `keys_per_fetch` keys at a time. New watchers get their
    first value at once, by a fetch of their keys only. A watcher gets at most one value per
    interval; a slow watcher skips intermediate values. Polling continues after a database outage.
    Values must be hashable.
    """

    def __init__(
        self,
        fetch: Callable[[str, list[str]], Awaitable[Mapping[str, T]]],
        interval: float,
        stopping: asyncio.Event,
        *,
        keys_per_fetch: int,
    ) -> None:
        self._fetch = fetch
        self._keys_per_fetch = keys_per_fetch
        self._interval = interval
        self._stopping = stopping
        self._watchers: dict[str, _Watchers[T]] = {}
        self._polls: set[asyncio.Task[None]] = set()
        self._no_connection = RepeatedEvents[None](_log_others)

    @property
    def watchers(self) -> int:
        """The number of open watches."""
        return sum(len(watchers.all) for watchers in self._watchers.values())

    async def watch(self, tenant_id: str, key: str) -> AsyncGenerator[T | None, None]:
        """Yield the current value of a key and then each change; None if the key has no value.

        Raises ServerStopping when the server stops.
        """
        loop = asyncio.get_running_loop()
        watcher: _Watcher[T] = _Watcher(key)
        watchers = self._add(tenant_id, watcher)
        next_yield = 0.0
        try:
            while True:
                if not watcher.changed and not self._stopping.is_set():
                    watcher.waiter = loop.create_future()
                    await watcher.waiter
                if self._stopping.is_set():
                    raise ServerStopping
                if loop.time() < next_yield:
                    await asyncio.sleep(next_yield - loop.time())
                    continue
                next_yield = loop.time() + self._interval
                yield watcher.take()
        finally:
            watchers.all.discard(watcher)
            if not watchers.all:
                watchers.changed.set()

    def _add(self, tenant_id: str, watcher: _Watcher[T]) -> _Watchers[T]:
        if tenant_id not in self._watchers:
            self._watchers[tenant_id] = _Watchers()
            # In an empty context, because its log lines must not have the id of this request.
            poll = asyncio.create_task(self._poll(tenant_id), context=contextvars.Context())
            self._polls.add(poll)
            poll.add_done_callback(self._polls.discard)
        watchers = self._watchers[tenant_id]
        watchers.all.add(watcher)
        watchers.new.append(watcher)
        watchers.changed.set()
        return watchers

    async def _poll(self, tenant_id: str) -> None:
        """Refresh a tenant's watchers until it has none."""
        watchers = self._watchers[tenant_id]
        stopping = asyncio.create_task(self._stopping.wait())
        stopping.add_done_callback(lambda _: watchers.wake())
        clock = asyncio.get_running_loop().time
        next_poll = clock()
        database_available = True
        while watchers.all:
            watchers.changed.clear()
            if clock() >= next_poll:
                watchers.new.clear()
                database_available = await self._refresh(tenant_id, list(watchers.all))
                next_poll = clock() + self._interval
            # During an outage, new watchers wait for the next regular poll.
            elif database_available and watchers.new:
                new, watchers.new = watchers.new, []
                database_available = await self._refresh(tenant_id, new)
            try:
                async with asyncio.timeout_at(next_poll):
                    await watchers.changed.wait()
            except TimeoutError:
                pass
        del self._watchers[tenant_id]
        stopping.cancel()

    async def _refresh(self, tenant_id: str, watchers: list[_Watcher[T]]) -> bool:
        """Fetch the watchers' values; return False if that failed."""
        by_key: dict[str, list[_Watcher[T]]] = {}
        for watcher in watchers:
            by_key.setdefault(watcher.key, []).append(watcher)
        keys = sorted(by_key)
        for first in range(0, len(keys), self._keys_per_fetch):
            page = keys[first : first + self._keys_per_fetch]
            try:
                values = await self._fetch(tenant_id, page)
            except (DatabaseUnavailable, QueryTimeout, SchemaNotCurrent):
                return False  # The database layer logs it, once for each outage.
            except Overloaded:
                # All tenants are counted together, because the polls of each can fail four times
                # a second.
                if self._no_connection.should_log(None):
                    logger.warning(_NO_CONNECTION)
                return False
            except Exception:
                logger.exception("watch poll failed; retrying")
                return False
            await _offer(values, {key: by_key[key] for key in page})
        return True


async def _offer(values: Mapping[str, T], watchers: Mapping[str, list[_Watcher[T]]]) -> None:
    """Offer the values to the watchers of their keys."""
    woken = 0
    for key, watchers_of_key in watchers.items():
        value = values.get(key)
        digest = hash(value)  # It has 64 bits and a random seed.
        for watcher in watchers_of_key:
            woken += watcher.offer(value, digest)
            if woken == _STREAMS_PER_ITERATION:
                woken = 0
                await asyncio.sleep(0)


def _log_others(_: None, others: int) -> None:
    logger.warning(_NO_CONNECTION, extra={"others": others})
