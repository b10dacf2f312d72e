"""Applies the updates of devices in batches."""

import asyncio
import contextvars
import copy
import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from jobs_grpc.db.store import ExecutionUpdate, Row, Store
from jobs_grpc.errors import Internal, JobsError, LockTimeout
from jobs_grpc.observability.histogram import Histogram

logger = logging.getLogger(__name__)

MAX_BATCH = 500

LOCK_WAIT_MS = 200
"""Milliseconds that the waits for the job locks of a tenant's busy jobs share, in each round."""

# The minimum wait for one job lock, if many busy jobs share LOCK_WAIT_MS.
_MIN_LOCK_WAIT_MS = 20

MAX_REPEATS = 8
"""How many times an update is sent again because another execution became the device's next one."""

CLOSE_TIMEOUT = 5.0
"""How long close() lets running batches finish, in seconds."""

# Buckets of the number of updates in a batch, and of the time that updates wait, in seconds.
_BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, MAX_BATCH)
_WAIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_sequence = itertools.count()


@dataclass(slots=True)
class _QueuedUpdate:
    update: ExecutionUpdate
    result: "asyncio.Future[Row]"
    sequence: int
    """Numbers the updates in the order of their calls."""
    arrived: float
    """When it was called, by time.perf_counter."""
    alone: bool = False
    """Send it in a batch of its own."""
    repeats: int = 0
    """How many times it was sent again because its outcome was AGAIN."""


class UpdateBatcher:
    """Group commit: updates of a tenant that arrive while its batch runs form the next batch.

    At low load, an update is sent at once. These batches wait for no job lock: if another
    transaction holds one, the updates of that busy job move to the job's own queue, and later
    updates of the job join them. Queues of busy jobs take turns, one job per batch, and each
    batch waits briefly for its lock. So a lock that is held for long only delays the devices of
    its job, and a tenant uses at most two connections: one for busy jobs and one for the rest.

    A batch is independent of its calls: if one is canceled, the others are still applied.
    """

    def __init__(
        self,
        store: Store,
        *,
        lock_wait_ms: int = LOCK_WAIT_MS,
        close_timeout: float = CLOSE_TIMEOUT,
        measure_waits: bool = False,
    ) -> None:
        self._store = store
        self._lock_wait_ms = lock_wait_ms
        self._close_timeout = close_timeout
        self._queues: dict[str, deque[_QueuedUpdate]] = {}
        # The queues of busy jobs by tenant and job_id, the job with the next turn first.
        self._busy: dict[str, OrderedDict[str, deque[_QueuedUpdate]]] = {}
        self._senders: set[asyncio.Task[None]] = set()
        self.finished = {"SUCCEEDED": 0, "FAILED": 0, "REJECTED": 0}
        """Executions that devices have finished, by status."""
        self.batch_sizes = Histogram(_BATCH_SIZES)
        self.wait_seconds = Histogram(_WAIT_SECONDS) if measure_waits else None
        """How long updates waited for their result, if `measure_waits`."""

    @property
    def queued(self) -> int:
        """The number of updates that wait to be sent to the database."""
        busy = itertools.chain.from_iterable(queues.values() for queues in self._busy.values())
        return sum(map(len, itertools.chain(self._queues.values(), busy)))

    async def update(self, tenant_id: str, update: ExecutionUpdate) -> Row:
        """Apply an update and return its row of update_executions.sql after the commit.

        The outcome is AGAIN if another execution was the next one in each of MAX_REPEATS repeats.
        Updates that name the same execution are applied in the order of the calls. Raises what
        Store.update_executions raises, and Internal if the batcher closes before the update.
        """
        result: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        arrived = time.perf_counter()
        self._enqueue(tenant_id, [_QueuedUpdate(update, result, next(_sequence), arrived)])
        return await result

    async def update_all(
        self, tenant_id: str, updates: Iterable[ExecutionUpdate]
    ) -> list[Row | Exception]:
        """Apply updates in order; return for each its row, or what `update` would raise.

        They can be applied in several transactions. If the call is canceled, the updates that
        are not yet sent to the database are not applied.
        """
        create_future = asyncio.get_running_loop().create_future
        arrived = time.perf_counter()
        queue = [
            _QueuedUpdate(update, create_future(), next(_sequence), arrived) for update in updates
        ]
        self._enqueue(tenant_id, queue)
        outcomes: list[Row | Exception] = []
        try:
            # One after the other: to wait for all at once, asyncio needs a callback for each.
            for queued in queue:
                try:
                    outcomes.append(await queued.result)
                except Exception as e:
                    outcomes.append(e)
        except asyncio.CancelledError:
            for queued in queue:
                queued.result.cancel()
            raise
        return outcomes

    async def close(self) -> None:
        """Wait for running batches. Call this after all calls have ended."""
        if self._senders:
            _, running = await asyncio.wait(self._senders, timeout=self._close_timeout)
            for sender in running:
                sender.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _enqueue(self, tenant_id: str, updates: Iterable[_QueuedUpdate]) -> None:
        for queued in updates:
            # "" stands for a job that is not chosen yet.
            busy, job_id = self._busy.get(tenant_id), queued.update.job_id or ""
            if busy and job_id in busy:
                busy[job_id].append(queued)
            elif tenant_id in self._queues:
                self._queues[tenant_id].append(queued)
            else:
                self._queues[tenant_id] = deque([queued])
                self._start(self._send(tenant_id))

    def _enqueue_busy(self, tenant_id: str, updates: list[_QueuedUpdate]) -> None:
        """Move updates to the queues of their jobs, before updates of later calls."""
        if tenant_id not in self._busy:
            self._busy[tenant_id] = OrderedDict()
            self._start(self._send_busy(tenant_id))
        busy = self._busy[tenant_id]
        for queued in updates:
            busy.setdefault(queued.update.job_id or "", deque()).append(queued)
        for job_id in {queued.update.job_id or "" for queued in updates}:
            busy[job_id] = deque(sorted(busy[job_id], key=lambda queued: queued.sequence))
        # The rest of the tenant's queue can contain updates of the same jobs.
        if queue := self._queues.get(tenant_id):
            rest = list(queue)
            queue.clear()
            self._enqueue(tenant_id, rest)

    def _start(self, sender: Coroutine[None, None, None]) -> None:
        # With an empty context, because a batch belongs to no single request.
        task = asyncio.create_task(sender, context=contextvars.Context())
        self._senders.add(task)
        task.add_done_callback(self._senders.discard)

    async def _send(self, tenant_id: str) -> None:
        queue = self._queues[tenant_id]
        try:
            while queue:
                await self._apply(tenant_id, _take_batch(queue), wait_ms=0)
        finally:
            del self._queues[tenant_id]
            fail_all(queue, Internal())  # Empty, unless this task was canceled.

    async def _send_busy(self, tenant_id: str) -> None:
        busy = self._busy[tenant_id]
        try:
            while busy:
                job_id = next(iter(busy))
                wait_ms = max(self._lock_wait_ms // len(busy), _MIN_LOCK_WAIT_MS)
                await self._apply(tenant_id, _take_batch(busy[job_id]), wait_ms=wait_ms)
                # Only now, so that updates that arrived during the batch joined this job's queue.
                if busy[job_id]:
                    busy.move_to_end(job_id)
                else:
                    del busy[job_id]
        finally:
            del self._busy[tenant_id]
            fail_all(itertools.chain.from_iterable(busy.values()), Internal())

    async def _apply(self, tenant_id: str, batch: list[_QueuedUpdate], *, wait_ms: int) -> None:
        if not batch:
            return
        updates = [queued.update for queued in batch]
        self.batch_sizes.observe(len(batch))
        try:
            rows = await self._store.update_executions(tenant_id, updates, wait_ms=wait_ms)
            results = list(zip(batch, rows, strict=True))
        except LockTimeout as e:
            if wait_ms:
                self._enqueue_busy(tenant_id, batch)
            else:
                # Not a job lock, because this batch skips locked jobs: a table lock, for example.
                fail_all(batch, e)
        except Exception as e:
            if len(batch) > 1 and not isinstance(e, JobsError):
                # A bug in one update must not fail the others.
                logger.exception(
                    "a batch of %d updates failed; sending them one by one", len(batch)
                )
                self._resend_one_by_one(tenant_id, batch, busy=wait_ms > 0)
            else:
                fail_all(batch, e)
        except asyncio.CancelledError:
            fail_all(batch, Internal())
            raise
        else:
            self._resolve(tenant_id, results)

    def _resolve(self, tenant_id: str, results: list[tuple[_QueuedUpdate, Row]]) -> None:
        busy: list[_QueuedUpdate] = []
        for queued, row in results:
            outcome, status = row["outcome"], queued.update.status
            if outcome == "APPLIED" and status in self.finished:
                self.finished[status] += 1
            if queued.result.done():
                continue
            match outcome:
                case "BUSY":
                    queued.update = queued.update._replace(job_id=row["job_id"])
                    busy.append(queued)
                case "AGAIN" if queued.repeats < MAX_REPEATS:
                    queued.repeats += 1
                    queued.update = queued.update._replace(job_id=None)
                    self._enqueue(tenant_id, [queued])
                case _:
                    queued.result.set_result(row)
                    if self.wait_seconds:
                        self.wait_seconds.observe(time.perf_counter() - queued.arrived)
        if busy:
            self._enqueue_busy(tenant_id, busy)

    def _resend_one_by_one(self, tenant_id: str, batch: list[_QueuedUpdate], *, busy: bool) -> None:
        """Put a batch back at the front of its queue, to be sent one by one."""
        for queued in batch:
            queued.alone = True
        if busy:
            self._enqueue_busy(tenant_id, batch)
        else:
            self._queues[tenant_id].extendleft(reversed(batch))


def _take_batch(queue: deque[_QueuedUpdate]) -> list[_QueuedUpdate]:
    """Take the next batch: each device once, without canceled calls."""
    batch: list[_QueuedUpdate] = []
    later: list[_QueuedUpdate] = []
    devices: set[str] = set()
    while queue and len(batch) < MAX_BATCH:
        queued = queue.popleft()
        if queued.result.done():
            continue
        if queued.alone and batch:
            later.append(queued)
            break
        if queued.update.device_id in devices:
            later.append(queued)
            continue
        devices.add(queued.update.device_id)
        batch.append(queued)
        if queued.alone:
            break
    queue.extendleft(reversed(later))
    return batch


class _Waiting(Protocol):
    result: "asyncio.Future[Any]"


def fail_all(calls: Iterable[_Waiting], error: Exception) -> None:
    """Fail calls, each with an error of its own. Only the first has the cause, to log it once."""
    for call in calls:
        if not call.result.done():
            call.result.set_exception(error)
            if isinstance(error, JobsError):
                error = copy.copy(error)
