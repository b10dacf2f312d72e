"""Reports that arrive together go to the database together."""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from jobs_grpc.errors import JobsError
from jobs_grpc.store import Report, Row, Store

logger = logging.getLogger(__name__)

MAX_BATCH = 500


@dataclass(frozen=True, slots=True)
class _Waiting:
    report: Report
    outcome: "asyncio.Future[Row]"


class Batcher:
    """Group commit: while one batch of a tenant is under way, the next one gathers.

    A report that comes alone is sent at once, so nothing is gained or lost at low load.
    Batches belong to nobody's call: one that gives up does not take others with it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queues: dict[str, deque[_Waiting]] = {}
        self._senders: set[asyncio.Task[None]] = set()

    async def report(self, tenant_id: str, report: Report) -> Row:
        """Apply a report and return its row of report_executions.sql, once it is durable.

        Reports of one execution are applied in the order of their calls. Raises what
        Store.report_executions does.
        """
        outcome: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(report, outcome)
        if tenant_id in self._queues:
            self._queues[tenant_id].append(waiting)
        else:
            self._queues[tenant_id] = deque([waiting])
            # Without this call's context: the batch is not this request's alone.
            sender = asyncio.create_task(self._send(tenant_id), context=contextvars.Context())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await outcome

    async def close(self) -> None:
        """Return when no batch is under way."""
        if self._senders:
            await asyncio.wait(self._senders)

    async def _send(self, tenant_id: str) -> None:
        queue = self._queues[tenant_id]
        while queue:
            await self._apply(tenant_id, _take(queue))
        del self._queues[tenant_id]

    async def _apply(self, tenant_id: str, batch: Sequence[_Waiting]) -> None:
        try:
            rows = await self._store.report_executions(tenant_id, [w.report for w in batch])
        except Exception as e:
            if len(batch) > 1 and not isinstance(e, JobsError):
                # One of them is a defect; the others are not to suffer for it.
                logger.exception("a batch of %d reports failed", len(batch))
                for waiting in batch:
                    await self._apply(tenant_id, [waiting])
                return
            for waiting in batch:
                if not waiting.outcome.done():
                    waiting.outcome.set_exception(e)
            return
        for waiting, row in zip(batch, rows, strict=True):
            if not waiting.outcome.done():
                waiting.outcome.set_result(row)


def _take(queue: deque[_Waiting]) -> list[_Waiting]:
    """The next batch: no execution twice, and nobody who has given up."""
    batch: list[_Waiting] = []
    later: list[_Waiting] = []
    seen: set[tuple[str, str]] = set()
    while queue and len(batch) < MAX_BATCH:
        waiting = queue.popleft()
        key = (waiting.report.job_id, waiting.report.device_id)
        if waiting.outcome.done():
            continue
        if key in seen:
            later.append(waiting)
            continue
        seen.add(key)
        batch.append(waiting)
    queue.extendleft(reversed(later))
    return batch
