"""What devices say together goes to the database together."""

import asyncio
import contextvars
import itertools
import logging
from collections import OrderedDict, deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, replace

from jobs_grpc.db.store import ExecutionUpdate, Row, Store
from jobs_grpc.errors import Internal, JobsError, LockTimeout

logger = logging.getLogger(__name__)

MAX_BATCH = 500

# Milliseconds for which a tenant waits for its held jobs, one after the other.
_PATIENCE = 200
_MIN_PATIENCE = 20

# Seconds that batches under way get at a stop; nobody waits for their outcome any more.
_CLOSE_TIMEOUT = 5.0

_numbers = itertools.count()


@dataclass(slots=True)
class _Waiting:
    update: ExecutionUpdate
    outcome: "asyncio.Future[Row]"
    number: int
    """In the order of the calls."""
    alone: bool = False
    """It is to be a batch of its own."""


class UpdateBatcher:
    """Group commit: while one batch of a tenant is under way, the next one gathers.

    An update that comes alone is sent at once, so nothing is gained or lost at low load. A
    batch waits for no lock: updates of a job that somebody else holds at that moment are set
    apart, and what comes for the job meanwhile joins them. They take turns, a job a batch, and
    do wait, each for a moment. So a job that is held for long keeps back its own devices only;
    and a tenant has two connections at most, one for what is free and one for what is held.

    Batches belong to nobody's call: one that gives up does not take others with it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._free: dict[str, deque[_Waiting]] = {}
        # Of each tenant, the job whose turn is next comes first.
        self._held: dict[str, OrderedDict[str, deque[_Waiting]]] = {}
        self._senders: set[asyncio.Task[None]] = set()

    async def update(self, tenant_id: str, update: ExecutionUpdate) -> Row:
        """Apply an update and return its row of update_executions.sql, once it is durable.

        Updates that name the same execution are applied in the order of their calls. Raises
        what Store.update_executions does.
        """
        outcome: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._enqueue(tenant_id, [_Waiting(update, outcome, next(_numbers))])
        return await outcome

    async def close(self) -> None:
        """Return when no batch is under way. Calls have ended before."""
        if self._senders:
            _, pending = await asyncio.wait(self._senders, timeout=_CLOSE_TIMEOUT)
            for sender in pending:
                sender.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _enqueue(self, tenant_id: str, gathered: Iterable[_Waiting]) -> None:
        for waiting in gathered:
            held, job_id = self._held.get(tenant_id), waiting.update.job_id or ""
            if held and job_id in held:
                held[job_id].append(waiting)
            elif tenant_id in self._free:
                self._free[tenant_id].append(waiting)
            else:
                self._free[tenant_id] = deque([waiting])
                self._start(self._send_free(tenant_id))

    def _set_apart(self, tenant_id: str, busy: list[_Waiting]) -> None:
        """Queue updates with their jobs, before what was called for later."""
        if tenant_id not in self._held:
            self._held[tenant_id] = OrderedDict()
            self._start(self._send_held(tenant_id))
        held = self._held[tenant_id]
        for waiting in busy:
            held.setdefault(waiting.update.job_id or "", deque()).append(waiting)
        for job_id in {waiting.update.job_id or "" for waiting in busy}:
            held[job_id] = deque(sorted(held[job_id], key=lambda waiting: waiting.number))
        if later := self._free.get(tenant_id):
            gathered = list(later)
            later.clear()
            self._enqueue(tenant_id, gathered)

    def _start(self, sending: Coroutine[None, None, None]) -> None:
        # Without the call's context: a batch is not one request's alone.
        sender = asyncio.create_task(sending, context=contextvars.Context())
        self._senders.add(sender)
        sender.add_done_callback(self._senders.discard)

    async def _send_free(self, tenant_id: str) -> None:
        queue = self._free[tenant_id]
        try:
            while queue:
                await self._apply(tenant_id, _take(queue), wait_ms=0)
        finally:
            del self._free[tenant_id]
            _fail(queue, Internal())  # Only if this was cut off.

    async def _send_held(self, tenant_id: str) -> None:
        held = self._held[tenant_id]
        try:
            while held:
                job_id = next(iter(held))
                patience = max(_PATIENCE // len(held), _MIN_PATIENCE)
                await self._apply(tenant_id, _take(held[job_id]), wait_ms=patience)
                # Only now, so that what came meanwhile has come after it.
                if held[job_id]:
                    held.move_to_end(job_id)
                else:
                    del held[job_id]
        finally:
            del self._held[tenant_id]
            _fail(itertools.chain.from_iterable(held.values()), Internal())

    async def _apply(self, tenant_id: str, batch: list[_Waiting], *, wait_ms: int) -> None:
        if not batch:
            return
        updates = [waiting.update for waiting in batch]
        try:
            rows = await self._store.update_executions(tenant_id, updates, wait_ms=wait_ms)
            outcomes = list(zip(batch, rows, strict=True))
        except LockTimeout as e:
            # Not of a job's mutex if nothing was waited for: somebody changes the tables, say.
            if wait_ms:
                self._set_apart(tenant_id, batch)
            else:
                _fail(batch, e)
        except Exception as e:
            if len(batch) > 1 and not isinstance(e, JobsError):
                # One of them is a defect; the others are not to suffer for it.
                logger.exception("a batch of %d updates failed", len(batch))
                self._send_singly(tenant_id, batch, held=wait_ms > 0)
            else:
                _fail(batch, e)
        except asyncio.CancelledError:
            _fail(batch, Internal())
            raise
        else:
            self._tell(tenant_id, outcomes)

    def _tell(self, tenant_id: str, outcomes: list[tuple[_Waiting, Row]]) -> None:
        busy: list[_Waiting] = []
        for waiting, row in outcomes:
            if waiting.outcome.done():
                continue
            match row["outcome"]:
                case "BUSY":
                    waiting.update = replace(waiting.update, job_id=row["job_id"])
                    busy.append(waiting)
                case "AGAIN":
                    waiting.update = replace(waiting.update, job_id=None)
                    self._enqueue(tenant_id, [waiting])
                case _:
                    waiting.outcome.set_result(row)
        if busy:
            self._set_apart(tenant_id, busy)

    def _send_singly(self, tenant_id: str, batch: list[_Waiting], *, held: bool) -> None:
        """Put a batch back, in front, to be sent in batches of one."""
        for waiting in batch:
            waiting.alone = True
        if held:
            self._set_apart(tenant_id, batch)
        else:
            self._free[tenant_id].extendleft(reversed(batch))


def _take(queue: deque[_Waiting]) -> list[_Waiting]:
    """The next batch: no device twice, and nobody who has given up."""
    batch: list[_Waiting] = []
    later: list[_Waiting] = []
    seen: set[str] = set()
    while queue and len(batch) < MAX_BATCH:
        waiting = queue.popleft()
        if waiting.outcome.done():
            continue
        if waiting.alone and batch:
            later.append(waiting)
            break
        if waiting.update.device_id in seen:
            later.append(waiting)
            continue
        seen.add(waiting.update.device_id)
        batch.append(waiting)
        if waiting.alone:
            break
    queue.extendleft(reversed(later))
    return batch


def _fail(gathered: Iterable[_Waiting], error: Exception) -> None:
    for waiting in gathered:
        if not waiting.outcome.done():
            waiting.outcome.set_exception(error)
