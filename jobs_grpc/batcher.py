"""What devices say together goes to the database together."""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from jobs_grpc.errors import Internal, JobsError
from jobs_grpc.store import Row, Store, Update

logger = logging.getLogger(__name__)

MAX_BATCH = 500

_Key: TypeAlias = tuple[str, str | None]
"""Whose queue: a tenant's, or one of a job that somebody else has."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    update: Update
    outcome: "asyncio.Future[Row]"


class Batcher:
    """Group commit: while one batch of a tenant is under way, the next one gathers.

    An update that comes alone is sent at once, so nothing is gained or lost at low load.
    A tenant's batch waits for nobody: updates of a job that somebody else has at that
    moment move to a queue of that job's own, which does wait. So a job that is busy for
    long keeps back its own devices only.

    Batches belong to nobody's call: one that gives up does not take others with it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queues: dict[_Key, deque[_Waiting]] = {}
        self._senders: set[asyncio.Task[None]] = set()

    async def update(self, tenant_id: str, update: Update) -> Row:
        """Apply an update and return its row of update_executions.sql, once it is durable.

        Updates of one execution are applied in the order of their calls. Raises what
        Store.update_executions does.
        """
        outcome: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._enqueue(tenant_id, [_Waiting(update, outcome)])
        return await outcome

    async def close(self) -> None:
        """Return when no batch is under way."""
        while self._senders:
            await asyncio.wait(self._senders)

    def _enqueue(self, tenant_id: str, gathered: Iterable[_Waiting]) -> None:
        """To the queue of the job, if there is one, or else to that of the tenant."""
        for waiting in gathered:
            key = (tenant_id, waiting.update.job_id)
            self._queue(key if key in self._queues else (tenant_id, None)).append(waiting)

    def _queue(self, key: _Key) -> deque[_Waiting]:
        if key not in self._queues:
            self._queues[key] = deque()
            # Without this call's context: the batch is not this request's alone.
            sender = asyncio.create_task(self._send(key), context=contextvars.Context())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return self._queues[key]

    async def _send(self, key: _Key) -> None:
        queue = self._queues[key]
        try:
            while queue:
                await self._apply(key, _take(queue))
        finally:
            del self._queues[key]
            _fail(queue, Internal())  # Only if this has been cut off.

    async def _apply(self, key: _Key, batch: Sequence[_Waiting]) -> None:
        tenant_id, job_id = key
        try:
            rows = await self._store.update_executions(
                tenant_id, [waiting.update for waiting in batch], wait=job_id is not None
            )
            outcomes = list(zip(batch, rows, strict=True))
        except Exception as e:
            if len(batch) > 1 and not isinstance(e, JobsError):
                # One of them is a defect; the others are not to suffer for it.
                logger.exception("a batch of %d updates failed", len(batch))
                for waiting in batch:
                    await self._apply(key, [waiting])
            else:
                _fail(batch, e)
            return
        busy: list[_Waiting] = []
        for waiting, row in outcomes:
            if waiting.outcome.done():
                continue
            match row["outcome"]:
                case "BUSY":
                    update = replace(waiting.update, job_id=row["job_id"])
                    busy.append(_Waiting(update, waiting.outcome))
                case "AGAIN":
                    update = replace(waiting.update, job_id=None)
                    self._enqueue(tenant_id, [_Waiting(update, waiting.outcome)])
                case _:
                    waiting.outcome.set_result(row)
        if busy:
            self._set_apart(tenant_id, busy)

    def _set_apart(self, tenant_id: str, busy: Sequence[_Waiting]) -> None:
        """Give the jobs queues, and move there what has come after, so that order holds."""
        for waiting in reversed(busy):
            self._queue((tenant_id, waiting.update.job_id)).appendleft(waiting)
        if later := self._queues.get((tenant_id, None)):
            gathered = list(later)
            later.clear()
            self._enqueue(tenant_id, gathered)


def _take(queue: deque[_Waiting]) -> list[_Waiting]:
    """The next batch: no device twice, and nobody who has given up."""
    batch: list[_Waiting] = []
    later: list[_Waiting] = []
    seen: set[str] = set()
    while queue and len(batch) < MAX_BATCH:
        waiting = queue.popleft()
        if waiting.outcome.done():
            continue
        if waiting.update.device_id in seen:
            later.append(waiting)
            continue
        seen.add(waiting.update.device_id)
        batch.append(waiting)
    queue.extendleft(reversed(later))
    return batch


def _fail(gathered: Iterable[_Waiting], error: Exception) -> None:
    for waiting in gathered:
        if not waiting.outcome.done():
            waiting.outcome.set_exception(error)
