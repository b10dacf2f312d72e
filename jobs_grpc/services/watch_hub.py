"""WatchHub: one poll of the database for all who watch, however many they are."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from jobs_grpc.errors import DatabaseUnavailable, Overloaded, ServerStopping

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _Watcher(Generic[T]):
    """What one watcher has been told, and what there is to tell it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.told = False
        self.value: T | None = None
        self.news = asyncio.Event()

    def see(self, value: T | None) -> None:
        if not self.told or value != self.value:
            self.told, self.value = True, value
            self.news.set()


class WatchHub(Generic[T]):
    """Tells watchers the value of their key, and again whenever it has changed.

    Values are fetched for all watched keys of a tenant at once, every `interval` seconds
    while anybody watches; those who have just come are told at once, and the others are not
    asked for on their account. Nobody is told more often than every `interval`; a watcher
    that is slow gets the newest value only. An outage of the database is waited out.
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
        self._wakes: dict[str, asyncio.Event] = {}
        self._polls: set[asyncio.Task[None]] = set()

    async def changes(self, tenant_id: str, key: str) -> AsyncGenerator[T | None, None]:
        """The values of a key; None while there is none. Raises ServerStopping at a stop."""
        clock = asyncio.get_running_loop().time
        watcher: _Watcher[T] = _Watcher(key)
        self._add(tenant_id, watcher)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while True:
                news = asyncio.create_task(watcher.news.wait())
                try:
                    await asyncio.wait({news, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
                if stopping.done():
                    raise ServerStopping
                watcher.news.clear()
                again = clock() + self._interval
                yield watcher.value
                await asyncio.wait({stopping}, timeout=again - clock())
        finally:
            stopping.cancel()
            self._watchers[tenant_id].discard(watcher)
            if not self._watchers[tenant_id]:
                self._wakes[tenant_id].set()

    def _add(self, tenant_id: str, watcher: _Watcher[T]) -> None:
        if tenant_id not in self._watchers:
            self._watchers[tenant_id] = set()
            self._wakes[tenant_id] = asyncio.Event()
            # Without this call's context: the poll is not this request's alone.
            poll = asyncio.create_task(self._poll(tenant_id), context=contextvars.Context())
            self._polls.add(poll)
            poll.add_done_callback(self._polls.discard)
        self._watchers[tenant_id].add(watcher)
        self._wakes[tenant_id].set()

    async def _poll(self, tenant_id: str) -> None:
        watchers, wake = self._watchers[tenant_id], self._wakes[tenant_id]
        clock = asyncio.get_running_loop().time
        due = clock()
        answers = True
        while watchers:
            wake.clear()
            if clock() >= due:
                answers = await self._tell(tenant_id, list(watchers))
                due = clock() + self._interval
            # While the database is away, arrivals wait for the next time like everybody.
            elif answers and (untold := [each for each in watchers if not each.told]):
                answers = await self._tell(tenant_id, untold)
            try:
                async with asyncio.timeout_at(due):
                    await wake.wait()
            except TimeoutError:
                pass
        del self._watchers[tenant_id], self._wakes[tenant_id]

    async def _tell(self, tenant_id: str, watchers: list[_Watcher[T]]) -> bool:
        """Let the watchers see what there is; whether that could be fetched."""
        try:
            values = await self._fetch(tenant_id, sorted({w.key for w in watchers}))
        except (DatabaseUnavailable, Overloaded) as e:
            logger.warning("watchers wait for the database: %r", e.__cause__ or e)
            return False
        except Exception:
            logger.exception("a poll for watchers failed")
            return False
        for watcher in watchers:
            watcher.see(values.get(watcher.key))
        return True
