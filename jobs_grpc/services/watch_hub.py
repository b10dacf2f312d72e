"""Wakes watch streams when what they watch has changed."""

import asyncio
import contextvars
import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from jobs_grpc.observability.log_throttle import LogThrottle
from jobs_grpc.services.watch_group import KEYS_PER_STATEMENT, Fetch, Watch, WatchGroup

logger = logging.getLogger(__name__)

K = TypeVar("K")

# Seconds between two polls of a watch, unless this process writes rows of its tenant.
POLL_INTERVAL = 1.0

# A watch group of this size takes no more tenants.
_GROUP_SIZE = KEYS_PER_STATEMENT

# A tenant with more watches gets its own group, so that others do not wait for its polls.
_MAX_SHARED = 50

# Tenants that a hub remembers as slow, so that they do not delay others again with new watches.
_MAX_SLOW = 1000


class WatchHub(Generic[K]):
    """All watches of one method. Tenants with few watches share a WatchGroup.

    So the cost grows with watches, not with tenants. `interval` is in seconds. Keys must be
    hashable and have an order. Polls continue after an outage of the database.
    """

    def __init__(self, fetch: Fetch[K], interval: float, stopping: asyncio.Event) -> None:
        self._fetch = fetch
        self._interval = interval
        self._stopping = stopping
        self._groups: dict[str, WatchGroup[K]] = {}
        # Groups that more tenants can join, the oldest first.
        self._with_room: dict[WatchGroup[K], None] = {}
        # Those with the oldest entry first. Each gets a group of its own.
        self._slow: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self.open_watches = 0
        # Per message, for all groups together: the polls of each can fail every second.
        self._failures = LogThrottle[str](_log_others)

    @contextmanager
    def watch(self, tenant_id: str, key: K) -> Iterator[Watch[K]]:
        """Watch a key within the block.

        The stream must call `changed` before it awaits anything else: otherwise the poll of new
        watches leaves it out, and the next regular poll wakes it.
        """
        watch = Watch(tenant_id, key, self._stopping)
        self._add(watch)
        self.open_watches += 1
        try:
            yield watch
        finally:
            self.open_watches -= 1
            self._remove(watch)

    def note_write(self, tenant_id: str) -> None:
        """Poll the watches of a tenant soon, because this process has written rows of it."""
        if (group := self._groups.get(tenant_id)) is not None:
            group.note_write(tenant_id)

    def _add(self, watch: Watch[K]) -> None:
        group = self._groups.get(watch.tenant_id)
        if group is None:
            if watch.tenant_id in self._slow:
                group = self._open_group(shared=False)
            else:
                group = next(iter(self._with_room), None) or self._open_group(shared=True)
            self._groups[watch.tenant_id] = group
        count = group.add(watch)
        if group.shared and count > _MAX_SHARED:
            self._move_out(watch.tenant_id, group)
        self._update_room(group)

    def _remove(self, watch: Watch[K]) -> None:
        group = self._groups[watch.tenant_id]
        if not group.remove(watch):
            del self._groups[watch.tenant_id]
        self._update_room(group)

    def _isolate(self, tenant_id: str) -> None:
        """Give a slow tenant a group of its own, now and when it opens watches again."""
        self._slow[tenant_id] = None
        if len(self._slow) > _MAX_SLOW:
            self._slow.popitem(last=False)
        group = self._groups.get(tenant_id)
        if group is not None and group.shared:
            self._move_out(tenant_id, group)
            self._update_room(group)

    def _move_out(self, tenant_id: str, group: WatchGroup[K]) -> None:
        own = self._groups[tenant_id] = self._open_group(shared=False)
        group.move_tenant(tenant_id, own)

    def _update_room(self, group: WatchGroup[K]) -> None:
        # An empty group has ended.
        if group.shared and 0 < len(group) < _GROUP_SIZE:
            self._with_room[group] = None
        else:
            self._with_room.pop(group, None)

    def _open_group(self, *, shared: bool) -> WatchGroup[K]:
        group = WatchGroup(
            self._fetch, self._interval, self._failures, self._isolate, shared=shared
        )
        # In an empty context, because its log lines must not have the id of this request.
        task = asyncio.create_task(self._run(group), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return group

    async def _run(self, group: WatchGroup[K]) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        stopping.add_done_callback(lambda _: group.stop())
        await group.run()
        stopping.cancel()


def _log_others(message: str, others: int) -> None:
    logger.warning(message, extra={"others": others})
