"""Polls the database in one loop per tenant and hub, for any number of watch streams."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Generic, TypeVar

from jobs_grpc.errors import (
    DatabaseUnavailable,
    Overloaded,
    QueryTimeout,
    SchemaNotCurrent,
    ServerStopping,
)
from jobs_grpc.repeated_events import RepeatedEvents

logger = logging.getLogger(__name__)

K = TypeVar("K")
T = TypeVar("T")


_NO_CONNECTION = (
    "watch poll failed; retrying: no database connection became free within JOBS_POOL_TIMEOUT"
)

# If several watches open at once, those that open within this time share the next statement.
_GATHER_SECONDS = 0.02

# Streams that get a value in one iteration of the event loop, so that other calls get through.
_STREAMS_PER_ITERATION = 8


class _Watcher(Generic[K, T]):
    """A watch stream: its key, and the latest value until the stream has yielded it.

    Then only its digest is kept, because a value can be large.
    """

    __slots__ = ("changed", "digest", "has_value", "key", "value", "waiter")

    def __init__(self, key: K) -> None:
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

    def note_read(self, digest: int) -> None:
        """Note the digest of a value that the stream has read itself."""
        if not self.changed:
            self.digest = digest
        elif self.digest == digest:
            self.take()  # A poll has seen the same value meanwhile.

    def wake(self) -> None:
        """Wake the stream if it waits."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class _Watchers(Generic[K, T]):
    """The watchers of a tenant, and those that have not been polled yet."""

    def __init__(self) -> None:
        self._all: set[_Watcher[K, T]] = set()
        self._by_key: dict[K, list[_Watcher[K, T]]] | None = None
        self.new: list[_Watcher[K, T]] = []
        self.changed = asyncio.Event()
        """Set when there is a new watcher, or none is left."""

    def __len__(self) -> int:
        """Return the number of watchers."""
        return len(self._all)

    def add(self, watcher: _Watcher[K, T]) -> None:
        """Add a watcher, which has not been polled yet."""
        self._all.add(watcher)
        self._by_key = None
        self.new.append(watcher)
        self.changed.set()

    def remove(self, watcher: _Watcher[K, T]) -> None:
        """Remove a watcher."""
        self._all.discard(watcher)
        self._by_key = None
        if not self._all:
            self.changed.set()

    def by_key(self) -> dict[K, list[_Watcher[K, T]]]:
        """Return the watchers of each key, without those that are added later."""
        if self._by_key is None:
            self._by_key = _group(self._all)
        return self._by_key

    def wake(self) -> None:
        """Wake all streams."""
        for watcher in self._all:
            watcher.wake()


def _group(watchers: Iterable[_Watcher[K, T]]) -> dict[K, list[_Watcher[K, T]]]:
    """Return the watchers of each key, in the order of the keys, which is that of the indexes."""
    by_key: dict[K, list[_Watcher[K, T]]] = {}
    for watcher in watchers:
        by_key.setdefault(watcher.key, []).append(watcher)
    keys: list[Any] = list(by_key)
    return {key: by_key[key] for key in sorted(keys)}


def _common_digest(watchers: list[_Watcher[K, T]]) -> int | None:
    """Return the digest of the last value of all watchers of a key; None if they differ."""
    digest = watchers[0].digest
    for watcher in watchers:
        if not watcher.has_value or watcher.digest != digest:
            return None
    return digest


class WatchHub(Generic[K, T]):
    """Polls the values of watched keys and passes changes to the watchers.

    While a tenant has watchers, `fetch(tenant_id, known)` is called for all its watched keys
    every `interval` seconds, with at most `keys_per_fetch` keys at a time. `known` has, for each
    key, the digest (the hash) of the value that all its watchers have received, or None; fetch may
    omit keys whose digest is unchanged. New watchers get their first value at once, by a fetch of
    their keys only.
    A watcher gets at most one value per interval; a slow watcher skips intermediate values.
    Polling continues after a database outage. Values must be hashable.
    """

    def __init__(
        self,
        fetch: Callable[[str, Mapping[K, int | None]], Awaitable[Mapping[K, T | None]]],
        interval: float,
        stopping: asyncio.Event,
        *,
        keys_per_fetch: int,
    ) -> None:
        self._fetch = fetch
        self._keys_per_fetch = keys_per_fetch
        self._interval = interval
        self._stopping = stopping
        self._watchers: dict[str, _Watchers[K, T]] = {}
        self._polls: set[asyncio.Task[None]] = set()
        self._no_connection = RepeatedEvents[None](_log_others)

    @property
    def watchers(self) -> int:
        """The number of open watches."""
        return sum(map(len, self._watchers.values()))

    async def watch(self, tenant_id: str, key: K) -> AsyncGenerator[T | None, int | None]:
        """Yield the current value of a key and then each change; None if the key has no value.

        If the caller reads a newer value itself, it sends that value's digest to the generator: the
        same value is then no change. Raises ServerStopping when the server stops.
        """
        loop = asyncio.get_running_loop()
        watcher: _Watcher[K, T] = _Watcher(key)
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
                read_digest = yield watcher.take()
                if read_digest is not None:
                    watcher.note_read(read_digest)
        finally:
            watchers.remove(watcher)

    def _add(self, tenant_id: str, watcher: _Watcher[K, T]) -> _Watchers[K, T]:
        if tenant_id not in self._watchers:
            self._watchers[tenant_id] = _Watchers()
            # In an empty context, because its log lines must not have the id of this request.
            poll = asyncio.create_task(self._poll(tenant_id), context=contextvars.Context())
            self._polls.add(poll)
            poll.add_done_callback(self._polls.discard)
        watchers = self._watchers[tenant_id]
        watchers.add(watcher)
        return watchers

    async def _poll(self, tenant_id: str) -> None:
        """Refresh a tenant's watchers until it has none."""
        watchers = self._watchers[tenant_id]
        stopping = asyncio.create_task(self._stopping.wait())
        stopping.add_done_callback(lambda _: watchers.wake())
        clock = asyncio.get_running_loop().time
        next_poll = clock()
        database_available = True
        while watchers:
            watchers.changed.clear()
            if clock() >= next_poll:
                watchers.new.clear()
                database_available = await self._refresh(tenant_id, watchers.by_key())
                next_poll = clock() + self._interval
            # During an outage, new watchers wait for the next regular poll.
            elif database_available and watchers.new:
                new, watchers.new = watchers.new, []
                database_available = await self._refresh(tenant_id, _group(new))
                if len(new) > 1:
                    await asyncio.sleep(_GATHER_SECONDS)
            try:
                async with asyncio.timeout_at(next_poll):
                    await watchers.changed.wait()
            except TimeoutError:
                pass
        del self._watchers[tenant_id]
        stopping.cancel()

    async def _refresh(self, tenant_id: str, by_key: dict[K, list[_Watcher[K, T]]]) -> bool:
        """Fetch the watchers' values; return False if that failed."""
        keys = iter(by_key)
        while page := list(islice(keys, self._keys_per_fetch)):
            known = {key: _common_digest(by_key[key]) for key in page}
            try:
                values = await self._fetch(tenant_id, known)
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
            await _offer(values, by_key)
        return True


async def _offer(values: Mapping[K, T | None], by_key: dict[K, list[_Watcher[K, T]]]) -> None:
    """Offer the values to the watchers of their keys."""
    woken = 0
    for key, value in values.items():
        digest = hash(value)
        for watcher in by_key[key]:
            woken += watcher.offer(value, digest)
            if woken == _STREAMS_PER_ITERATION:
                woken = 0
                await asyncio.sleep(0)


def _log_others(_: None, others: int) -> None:
    logger.warning(_NO_CONNECTION, extra={"others": others})
