"""A watch group: the watches that one loop polls, with one statement for up to 500 of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeAlias, TypeVar

from jobs_grpc.errors import (
    DatabaseUnavailable,
    Overloaded,
    QueryTimeout,
    SchemaNotCurrent,
    ServerStopping,
)
from jobs_grpc.observability.log_throttle import LogThrottle

logger = logging.getLogger(__name__)

K = TypeVar("K")

Changed: TypeAlias = Sequence[tuple[int, int]]
"""Positions of watched keys, and the fingerprint that each has now."""

Fetch: TypeAlias = Callable[[list[str], list[K], list[int | None]], Awaitable[Changed]]
"""Compares the fingerprints of keys, given with their tenants. None always differs."""

_FAILED = "watch poll failed; retrying"
_NO_CONNECTION = f"{_FAILED}: no database connection became free within JOBS_POOL_TIMEOUT"

# If several watches open at once, those that open within this time share the next statement.
_GATHER_SECONDS = 0.02

# Polls after writes of this process are at least this far apart, so that writes share them.
_WRITE_INTERVAL = 0.15

# The pause after such a poll, as a multiple of the time that it took.
_PAUSE_PER_POLL = 3

# A poll of several tenants that takes longer than this is repeated tenant by tenant, to find who
# delays the others: a device can have thousands of jobs that are paused or not released.
_SLOW_SECONDS = 0.5

# The part of such a poll's time from which a tenant is slow. If all are, because the database is
# busy, none of many tenants takes that much.
_SLOW_PART = 0.1

# The least time between two such searches, which have a statement per tenant.
_SEARCH_INTERVAL = 30.0

# With more keys in a statement, other statements would wait for a CPU core for too long.
KEYS_PER_STATEMENT = 500

# Streams that wake in one iteration of the event loop, so that other calls get through.
_STREAMS_PER_ITERATION = 8


class Watch(Generic[K]):
    """A watch stream: its key, and the fingerprint of the last state that it has read."""

    __slots__ = ("_stopping", "_waiter", "fingerprint", "key", "tenant_id")

    def __init__(self, tenant_id: str, key: K, stopping: asyncio.Event) -> None:
        self.tenant_id = tenant_id
        self.key = key
        self.fingerprint: int | None = None
        """None: the next poll wakes the stream in any case.

        A stream that has read a newer state sets the fingerprint of that state.
        """
        self._stopping = stopping
        self._waiter: asyncio.Future[None] | None = None

    @property
    def waits(self) -> bool:
        """Whether the stream waits for a change."""
        return self._waiter is not None and not self._waiter.done()

    async def changed(self) -> None:
        """Wait until the fingerprint of the key differs. Raises ServerStopping."""
        if not self._stopping.is_set():
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._stopping.is_set():
            raise ServerStopping

    def offer(self, fingerprint: int) -> bool:
        """Wake the stream if it waits and the fingerprint differs. Return whether it woke."""
        if fingerprint == self.fingerprint or not self.waits:
            return False
        self.fingerprint = fingerprint
        self.wake()
        return True

    def wake(self) -> None:
        """Wake the stream if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


_ByKey: TypeAlias = dict[tuple[str, K], list[Watch[K]]]
"""The watches of each tenant and key, in the order of the index that finds the key."""


class WatchGroup(Generic[K]):
    """The watches of some tenants, which share statements.

    Every `interval` seconds, it compares the fingerprints of all keys for which a stream waits, and
    wakes the streams whose fingerprint differs. It also compares new watches at once, and the
    watches of a tenant soon after a write of this process, except during a database outage. Calls
    `isolate` with a tenant whose statements delay those of others.
    """

    def __init__(
        self,
        fetch: Fetch[K],
        interval: float,
        failures: LogThrottle[str],
        isolate: Callable[[str], None],
        *,
        shared: bool,
    ) -> None:
        self.shared = shared
        """Whether other tenants may join."""
        self._isolate = isolate
        self._fetch = fetch
        self._interval = interval
        self._failures = failures
        self._tenants: dict[str, set[Watch[K]]] = {}
        self._size = 0
        self._by_key: _ByKey[K] | None = None
        self._new: list[Watch[K]] = []
        self._written: set[str] = set()
        # Set when there is a new watch or a write, or when no watch is left.
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """Return the number of watches."""
        return self._size

    def add(self, watch: Watch[K]) -> int:
        """Add a watch, and return how many its tenant has now."""
        watches = self._tenants.setdefault(watch.tenant_id, set())
        watches.add(watch)
        self._size += 1
        self._by_key = None
        self._new.append(watch)
        self._wake.set()
        return len(watches)

    def remove(self, watch: Watch[K]) -> int:
        """Remove a watch, and return how many its tenant has left."""
        watches = self._tenants[watch.tenant_id]
        watches.remove(watch)
        self._size -= 1
        self._by_key = None
        if not watches:
            del self._tenants[watch.tenant_id]
        if not self._size:
            self._wake.set()
        return len(watches)

    def move_tenant(self, tenant_id: str, group: "WatchGroup[K]") -> None:
        """Move the watches of a tenant to another group."""
        for watch in list(self._tenants[tenant_id]):
            self.remove(watch)
            group.add(watch)

    def note_write(self, tenant_id: str) -> None:
        """Poll the watches of a tenant soon."""
        if tenant_id not in self._written:
            self._written.add(tenant_id)
            self._wake.set()

    def stop(self) -> None:
        """Wake all streams; `stopping` must be set."""
        for watches in self._tenants.values():
            for watch in watches:
                watch.wake()

    async def run(self) -> None:
        """Poll until no watch is left."""
        clock = asyncio.get_running_loop().time
        next_poll = next_after_write = next_search = clock()
        slow_seconds: float | None = None
        available = True
        while self._size:
            self._wake.clear()
            started = clock()
            if started >= next_poll:
                self._new.clear()
                self._written.clear()
                if slow_seconds is not None:
                    available = await self._poll_each_tenant(slow_seconds)
                    slow_seconds = None
                    next_search = clock() + _SEARCH_INTERVAL
                else:
                    if self._by_key is None:
                        self._by_key = _group(self._all())
                    available = await self._poll(self._by_key)
                    seconds = clock() - started
                    if self.shared and seconds > _SLOW_SECONDS and started >= next_search:
                        slow_seconds = seconds
                next_poll = started + self._interval
            elif available and self._new:
                new, self._new = self._new, []
                available = await self._poll(_group(new))
                if len(new) > 1:
                    await asyncio.sleep(_GATHER_SECONDS)
            elif available and self._written and started >= next_after_write:
                tenants, self._written = self._written, set()
                available = await self._poll(_group(self._all(tenants)))
                seconds = clock() - started
                next_after_write = started + seconds
                next_after_write += max(_WRITE_INTERVAL, _PAUSE_PER_POLL * seconds)
            waits_after_write = available and self._written
            deadline = min(next_poll, next_after_write) if waits_after_write else next_poll
            try:
                async with asyncio.timeout_at(deadline):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _all(self, tenants: Iterable[str] | None = None) -> Iterator[Watch[K]]:
        for tenant_id in self._tenants if tenants is None else tenants:
            yield from self._tenants.get(tenant_id, ())

    async def _poll_each_tenant(self, slow_seconds: float) -> bool:
        """Poll, and isolate the tenants that delay others. Return False if that failed.

        `slow_seconds` is how long a poll of all tenants took.
        """
        clock = asyncio.get_running_loop().time
        max_seconds = max(_SLOW_SECONDS, slow_seconds) * _SLOW_PART
        for tenant_id in list(self._tenants):
            # Twice, because the statement may have waited for others.
            for _ in range(2):
                started = clock()
                try:
                    if not await self._compare(_group(self._all((tenant_id,)))):
                        return False
                except QueryTimeout:
                    pass
                if clock() - started <= max_seconds:
                    break
            else:
                self._isolate(tenant_id)
        return True

    async def _poll(self, by_key: _ByKey[K]) -> bool:
        """Compare the fingerprints of the keys; return False if that failed."""
        try:
            return await self._compare(by_key)
        except QueryTimeout:
            return False  # The database layer logs it.

    async def _compare(self, by_key: _ByKey[K]) -> bool:
        """Compare the fingerprints of the keys; return False if that failed.

        Raises QueryTimeout.
        """
        waiting = _known_fingerprints(by_key)
        while known := list(islice(waiting, KEYS_PER_STATEMENT)):
            try:
                changed = await self._fetch(
                    [tenant_id for (tenant_id, _), _ in known],
                    [key for (_, key), _ in known],
                    [fingerprint for _, fingerprint in known],
                )
            except QueryTimeout:
                raise
            except (DatabaseUnavailable, SchemaNotCurrent):
                return False  # The database layer logs it, once for each outage.
            except Overloaded:
                if self._failures.should_log(_NO_CONNECTION):
                    logger.warning(_NO_CONNECTION)
                return False
            except Exception:
                if self._failures.should_log(_FAILED):
                    logger.exception(_FAILED)
                return False
            woken = 0
            for position, fingerprint in changed:
                for watch in by_key[known[position][0]]:
                    woken += watch.offer(fingerprint)
                    if woken == _STREAMS_PER_ITERATION:
                        woken = 0
                        await asyncio.sleep(0)
        return True


def _group(watches: Iterable[Watch[K]]) -> _ByKey[K]:
    by_key: _ByKey[K] = {}
    for watch in watches:
        by_key.setdefault((watch.tenant_id, watch.key), []).append(watch)
    keys: list[Any] = list(by_key)
    return {key: by_key[key] for key in sorted(keys)}


def _known_fingerprints(by_key: _ByKey[K]) -> Iterator[tuple[tuple[str, K], int | None]]:
    """Yield the keys for which a watch waits, with the fingerprint that these watches have.

    The fingerprint is None if they differ.
    """
    for key, watches in by_key.items():
        fingerprints = {watch.fingerprint for watch in watches if watch.waits}
        if fingerprints:
            yield key, fingerprints.pop() if len(fingerprints) == 1 else None
