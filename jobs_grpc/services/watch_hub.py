"""Polls the database in one loop per tenant and hub, for any number of watch streams."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
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


_FAILED = "watch poll failed; retrying"
_NO_CONNECTION = f"{_FAILED}: no database connection became free within JOBS_POOL_TIMEOUT"

# If several watches open at once, those that open within this time share the next statement.
_GATHER_SECONDS = 0.02

# Streams that get a value in one iteration of the event loop, so that other calls get through.
_STREAMS_PER_ITERATION = 8


class Watch(Generic[K, T]):
    """A watch stream: its key, and the digest of the last value that it has received.

    It keeps no value, because values can be large: polls leave out streams that do not wait for a
    value. They get the current one from a later poll.
    """

    __slots__ = ("_stopping", "_waiter", "digest", "key")

    def __init__(self, key: K, stopping: asyncio.Event) -> None:
        self.key = key
        self.digest: int | None = None
        """None if the next poll must deliver the value in any case.

        A stream that has read a newer value itself sets the digest of that value.
        """
        self._stopping = stopping
        self._waiter: asyncio.Future[T | None] | None = None

    @property
    def waits(self) -> bool:
        """Whether the stream waits for a value."""
        return self._waiter is not None and not self._waiter.done()

    async def next(self) -> T | None:
        """Wait for a value that differs from the last one; return None if the key has no value.

        Raises ServerStopping when the server stops.
        """
        value = None
        if not self._stopping.is_set():
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                value = await self._waiter
            finally:
                self._waiter = None
        if self._stopping.is_set():
            raise ServerStopping
        return value

    def offer(self, value: T | None, digest: int) -> bool:
        """Deliver the value if the stream waits and the value differs from its last one."""
        if digest == self.digest or not self._wake(value):
            return False
        self.digest = digest
        return True

    def stop(self) -> None:
        """End the stream if it waits; `stopping` must be set."""
        self._wake(None)

    def _wake(self, value: T | None) -> bool:
        if self._waiter is None or self._waiter.done():
            return False
        self._waiter.set_result(value)
        return True


class _TenantWatches(Generic[K, T]):
    """The watches of a tenant, and those that have not been polled yet."""

    def __init__(self) -> None:
        self._all: set[Watch[K, T]] = set()
        self._by_key: dict[K, list[Watch[K, T]]] | None = None
        self.new: list[Watch[K, T]] = []
        self.changed = asyncio.Event()
        """Set when there is a new watch, or none is left."""

    def __len__(self) -> int:
        """Return the number of watches."""
        return len(self._all)

    def add(self, watch: Watch[K, T]) -> None:
        """Add a watch, which has not been polled yet."""
        self._all.add(watch)
        self._by_key = None
        self.new.append(watch)
        self.changed.set()

    def remove(self, watch: Watch[K, T]) -> None:
        """Remove a watch."""
        self._all.discard(watch)
        self._by_key = None
        if not self._all:
            self.changed.set()

    def by_key(self) -> dict[K, list[Watch[K, T]]]:
        """Return the watches of each key, without those that are added later."""
        if self._by_key is None:
            self._by_key = _group(self._all)
        return self._by_key

    def stop(self) -> None:
        """End all streams that wait."""
        for watch in self._all:
            watch.stop()


def _group(watches: Iterable[Watch[K, T]]) -> dict[K, list[Watch[K, T]]]:
    """Return the watches of each key, in the order of the keys, which is that of the indexes."""
    by_key: dict[K, list[Watch[K, T]]] = {}
    for watch in watches:
        by_key.setdefault(watch.key, []).append(watch)
    keys: list[Any] = list(by_key)
    return {key: by_key[key] for key in sorted(keys)}


def _known_digests(by_key: dict[K, list[Watch[K, T]]]) -> Iterator[tuple[K, int | None]]:
    """Yield the keys for which a watch waits, with the digest of the last value of these watches.

    The digest is None if they differ.
    """
    for key, watches in by_key.items():
        digests = {watch.digest for watch in watches if watch.waits}
        if digests:
            yield key, digests.pop() if len(digests) == 1 else None


class WatchHub(Generic[K, T]):
    """Polls the values of watched keys and passes changes to the watches.

    While streams of a tenant wait, `fetch(tenant_id, known)` is iterated for all their keys every
    `interval` seconds, with at most `keys_per_fetch` keys at a time. `known` has, for each key, the
    digest (the hash) of the value that all of them have received, or None; fetch may omit keys
    whose digest is unchanged. It yields keys with their values, or None if a key has no value; the
    hub requests the next one after it has delivered a value to the watches of its key.
    New watches get their first value at once, by a fetch of their keys only.
    A watch gets at most one value per poll; slow watches skip intermediate values.
    Polling continues after a database outage. Values must be hashable.
    """

    def __init__(
        self,
        fetch: Callable[[str, Mapping[K, int | None]], AsyncGenerator[tuple[K, T | None]]],
        interval: float,
        stopping: asyncio.Event,
        *,
        keys_per_fetch: int,
    ) -> None:
        self._fetch = fetch
        self._keys_per_fetch = keys_per_fetch
        self._interval = interval
        self._stopping = stopping
        self._tenants: dict[str, _TenantWatches[K, T]] = {}
        self._polls: set[asyncio.Task[None]] = set()
        # Per message, for all tenants together: the polls of each can fail four times a second.
        self._failures = RepeatedEvents[str](_log_others)

    @property
    def open_watches(self) -> int:
        """The number of open watches."""
        return sum(map(len, self._tenants.values()))

    @contextmanager
    def watch(self, tenant_id: str, key: K) -> Iterator[Watch[K, T]]:
        """Watch a key within the block.

        The stream must call `next` before it awaits anything else: otherwise the poll of new
        watches leaves it out, and it gets its first value from the next regular poll.
        """
        if tenant_id not in self._tenants:
            self._tenants[tenant_id] = _TenantWatches()
            # In an empty context, because its log lines must not have the id of this request.
            poll = asyncio.create_task(self._poll(tenant_id), context=contextvars.Context())
            self._polls.add(poll)
            poll.add_done_callback(self._polls.discard)
        watches = self._tenants[tenant_id]
        watch = Watch[K, T](key, self._stopping)
        watches.add(watch)
        try:
            yield watch
        finally:
            watches.remove(watch)

    async def _poll(self, tenant_id: str) -> None:
        """Refresh a tenant's watches until it has none."""
        watches = self._tenants[tenant_id]
        stopping = asyncio.create_task(self._stopping.wait())
        stopping.add_done_callback(lambda _: watches.stop())
        clock = asyncio.get_running_loop().time
        next_poll = clock()
        database_available = True
        while watches:
            watches.changed.clear()
            if clock() >= next_poll:
                watches.new.clear()
                database_available = await self._refresh(tenant_id, watches.by_key())
                next_poll = clock() + self._interval
            # During an outage, new watches wait for the next regular poll.
            elif database_available and watches.new:
                new, watches.new = watches.new, []
                database_available = await self._refresh(tenant_id, _group(new))
                if len(new) > 1:
                    await asyncio.sleep(_GATHER_SECONDS)
            try:
                async with asyncio.timeout_at(next_poll):
                    await watches.changed.wait()
            except TimeoutError:
                pass
        del self._tenants[tenant_id]
        stopping.cancel()

    async def _refresh(self, tenant_id: str, by_key: dict[K, list[Watch[K, T]]]) -> bool:
        """Fetch the watches' values; return False if that failed."""
        digests = _known_digests(by_key)
        while known := dict(islice(digests, self._keys_per_fetch)):
            try:
                async with aclosing(self._fetch(tenant_id, known)) as values:
                    await _offer(values, by_key)
            except (DatabaseUnavailable, QueryTimeout, SchemaNotCurrent):
                return False  # The database layer logs it, once for each outage.
            except Overloaded:
                if self._failures.should_log(_NO_CONNECTION):
                    logger.warning(_NO_CONNECTION)
                return False
            except Exception:
                if self._failures.should_log(_FAILED):
                    logger.exception(_FAILED)
                return False
        return True


async def _offer(
    values: AsyncIterator[tuple[K, T | None]], by_key: dict[K, list[Watch[K, T]]]
) -> None:
    """Offer the values to the watches of their keys."""
    woken = 0
    async for key, value in values:
        digest = hash(value)
        for watch in by_key[key]:
            woken += watch.offer(value, digest)
            if woken == _STREAMS_PER_ITERATION:
                woken = 0
                await asyncio.sleep(0)


def _log_others(message: str, others: int) -> None:
    logger.warning(message, extra={"others": others})
