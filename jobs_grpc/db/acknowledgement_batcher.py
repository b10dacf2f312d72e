"""Acknowledges ended attempts of devices in batches."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jobs_grpc.db.store import Store
from jobs_grpc.db.update_batcher import fail_all
from jobs_grpc.errors import Internal, LockTimeout

# A batch has more attempts only if its last call has several.
_MAX_BATCH = 500

_MAX_TRIES = 20
# Between two tries of a call, however many batches there are meanwhile.
_PAUSE_SECONDS = 0.05

Attempt: TypeAlias = tuple[str, int]
"""The job_id and the execution_number."""


@dataclass(slots=True)
class _Call:
    device_id: str
    attempts: Sequence[Attempt]
    result: "asyncio.Future[None]"
    tries: int = 0


class AcknowledgementBatcher:
    """Group commit: calls of a tenant that arrive while its batch runs form the next batch.

    After a forced cancel, all devices of a job acknowledge at once. A tenant uses at most one
    connection for that, and no batch waits for a job lock, even if it is held for long.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, deque[_Call]] = {}
        self._senders: set[asyncio.Task[None]] = set()

    async def acknowledge(
        self, tenant_id: str, device_id: str, attempts: Sequence[Attempt]
    ) -> None:
        """Acknowledge attempts of a device, and return after the commit.

        Raises LockTimeout if other transactions have the lock of a job in each of the tries; the
        attempts of other jobs are then acknowledged. Also raises what the Store raises.
        """
        call = _Call(device_id, attempts, asyncio.get_running_loop().create_future())
        self._enqueue(tenant_id, [call])
        await call.result

    def _enqueue(self, tenant_id: str, calls: Iterable[_Call]) -> None:
        if tenant_id in self._waiting:
            self._waiting[tenant_id].extend(calls)
        else:
            self._waiting[tenant_id] = deque(calls)
            # With an empty context, because a batch belongs to no single request.
            sender = asyncio.create_task(self._send(tenant_id), context=contextvars.Context())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)

    async def _send(self, tenant_id: str) -> None:
        waiting = self._waiting[tenant_id]
        batch: list[_Call] = []
        try:
            while batch := _take_batch(waiting):
                if busy := await self._apply(tenant_id, batch):
                    loop = asyncio.get_running_loop()
                    loop.call_later(_PAUSE_SECONDS, self._enqueue, tenant_id, busy)
        finally:
            del self._waiting[tenant_id]
            fail_all([*batch, *waiting], Internal())  # Empty, unless this task was canceled.

    async def _apply(self, tenant_id: str, batch: list[_Call]) -> list[_Call]:
        """Acknowledge a batch, and return the calls that need another try."""
        attempts = [(call.device_id, *attempt) for call in batch for attempt in call.attempts]
        device_ids, job_ids, execution_numbers = map(list, zip(*attempts, strict=True))
        try:
            row = await self._store.acknowledge_executions(
                tenant_id,
                device_ids=device_ids,
                job_ids=job_ids,
                execution_numbers=execution_numbers,
            )
        except Exception as e:
            fail_all(batch, e)
            return []
        busy = []
        for call in batch:
            call.tries += 1
            if call.result.done():
                continue
            if not any(job_id in row["busy_job_ids"] for job_id, _ in call.attempts):
                call.result.set_result(None)
            elif call.tries < _MAX_TRIES:
                busy.append(call)
            else:
                fail_all([call], LockTimeout())
        return busy


def _take_batch(waiting: deque[_Call]) -> list[_Call]:
    """Take the next calls, without canceled ones."""
    batch: list[_Call] = []
    size = 0
    while waiting and size < _MAX_BATCH:
        call = waiting.popleft()
        if not call.result.done():
            batch.append(call)
            size += len(call.attempts)
    return batch
