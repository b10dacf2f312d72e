"""Finds the webhooks that are due, and delivers their events.

Any number of servers can run a dispatcher on the same database. Each claims webhooks for 30
seconds at a time; the events of a webhook are in order because only one claim of it is valid.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

import asyncpg

from jobs_grpc.db.outage import Outage, describe
from jobs_grpc.db.owner_pool import OwnerPool
from jobs_grpc.db.pg_errors import is_outage
from jobs_grpc.webhooks.claim import Claim, DeliveryLog
from jobs_grpc.webhooks.claim_store import ClaimStore, HeadLocked, WebhookKey
from jobs_grpc.webhooks.replay_limiter import ReplayLimiter
from jobs_grpc.webhooks.secrets import MasterKeys
from jobs_grpc.webhooks.sender import DeliveryResult, Sender
from jobs_grpc.webhooks.slots import Slot, SlotPool

logger = logging.getLogger(__name__)

# Connections of a dispatcher to the database, in addition to those of the sweeper.
MAX_CONNECTIONS = 4

# Maximum number of concurrent claims: of proven webhooks, whose last delivery succeeded, and of the
# others. If they shared slots, endpoints that hang would delay all others.
PROVEN_SLOTS = 64
PROVEN_SLOTS_PER_TENANT = 16
UNPROVEN_SLOTS = 16
UNPROVEN_SLOTS_PER_TENANT = 4
# A claim of a proven webhook moves to one of these when its endpoint does not respond: if many
# endpoints start to hang at once, the others do not wait for their timeouts.
SLOW_SLOTS = 192
SLOW_SLOTS_PER_TENANT = 16
_SLOW_SECONDS = 0.5

_STATEMENT_TIMEOUT = 10.0
# Minimum time between two searches: a busy tenant wakes the dispatcher with each call.
_MIN_INTERVAL = 0.1
# Webhooks that one statement of a search reads, and statements of a search for each pool of slots.
_MAX_READ = 200
_MAX_READS = 5
# Maximum tenants per search, one batch of events each; the next search takes the rest.
_MAX_SEQUENCED = 20
_COUNT_INTERVAL = 10.0
_MAX_COUNTED = 10_000
_MAX_CLOSE_SECONDS = 5.0
# For so long, the webhooks of a tenant are not claimed after its head was locked.
_LOCKED_SECONDS = 1.0

# Tenants with webhooks whose events are sequenced at once when this process has written some. The
# sweeper sequences those of other tenants.
_MAX_KNOWN_TENANTS = 10_000


@dataclass(frozen=True, slots=True)
class WebhookCounts:
    """The number of webhooks of all tenants by state: see count_webhooks.sql."""

    enabled: int
    retrying: int
    disabled: int


@dataclass(slots=True)
class _DeliveryPool:
    unproven: bool
    sender: Sender
    slots: SlotPool
    claims: set[Claim] = field(default_factory=set)
    last_tenant: str = ""
    """The search goes on after this tenant."""


class _SlowDetectingSender:
    """Calls `on_slow` when an endpoint has not responded for `_SLOW_SECONDS`."""

    def __init__(self, sender: Sender, on_slow: Callable[[], None]) -> None:
        self._sender = sender
        self._on_slow = on_slow

    async def send(
        self, tenant_id: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> DeliveryResult:
        timer = asyncio.get_running_loop().call_later(_SLOW_SECONDS, self._on_slow)
        try:
            return await self._sender.send(tenant_id, url, headers, body)
        finally:
            timer.cancel()


def in_turn(rows: Iterable[asyncpg.Record]) -> list[WebhookKey]:
    """Return the webhooks that are due: the first one of each tenant, then the second ones, etc.

    `rows` are those of next_webhooks.sql.
    """
    rounds: defaultdict[int, list[WebhookKey]] = defaultdict(list)
    seen: Counter[str] = Counter()
    for row in rows:
        if row["is_due"]:
            key = WebhookKey(row["tenant_id"], row["webhook_id"])
            rounds[seen[key.tenant_id]].append(key)
            seen[key.tenant_id] += 1
    return [key for keys in rounds.values() for key in keys]


class Dispatcher:
    """Delivers events until it is closed. Call `run` inside `async with`.

    `keys` returns the current master keys. Proven and unproven webhooks have separate
    senders, so that hosts whose lookup hangs do not delay the others.
    """

    def __init__(
        self,
        owner_dsn: str,
        keys: Callable[[], MasterKeys],
        proven: Sender,
        unproven: Sender,
        *,
        statement_cache_size: int = 100,
        interval: float = 0.25,
        outage: Outage | None = None,
    ) -> None:
        self._pool = OwnerPool(
            owner_dsn,
            max_size=MAX_CONNECTIONS,
            statement_timeout=_STATEMENT_TIMEOUT,
            statement_cache_size=statement_cache_size,
            outage=outage,
        )
        self._store = ClaimStore(self._pool.fetch)
        self._keys = keys
        self._interval = interval
        self._outage = outage or Outage()
        self._delivery_pools = (
            _DeliveryPool(
                unproven=False,
                sender=proven,
                slots=SlotPool(PROVEN_SLOTS, PROVEN_SLOTS_PER_TENANT),
            ),
            _DeliveryPool(
                unproven=True,
                sender=unproven,
                slots=SlotPool(UNPROVEN_SLOTS, UNPROVEN_SLOTS_PER_TENANT),
            ),
        )
        self._slow_slots = SlotPool(SLOW_SLOTS, SLOW_SLOTS_PER_TENANT)
        self._replays = ReplayLimiter()
        self.log = DeliveryLog()
        self.counts: WebhookCounts | None = None
        """The result of the last count; None: not counted yet."""
        self._running: dict[WebhookKey, asyncio.Task[None]] = {}
        self._known_tenants: OrderedDict[str, None] = OrderedDict()
        # A dict, to keep the order: a tenant whose head stays locked moves to the end.
        self._written_tenants: dict[str, None] = {}
        # Until when no webhook of the tenant is claimed.
        self._locked_tenants: dict[str, float] = {}
        # Of the proven webhooks, at the last search.
        self._oldest_due_at: datetime | None = None
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._problem: str | None = None
        self._next_count = 0.0

    async def __aenter__(self) -> "Dispatcher":
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close(0)
        await self._pool.__aexit__(*error)

    def note_write(self, tenant_id: str) -> None:
        """Search at once, because this process may have added events of the tenant."""
        if tenant_id in self._known_tenants:
            self._written_tenants[tenant_id] = None
            self._wake.set()

    def lag_seconds(self) -> float:
        """Return the age of the oldest event that is being sent, or of the oldest `due_at`.

        Ignores unproven webhooks.
        """
        pool = self._delivery_pools[0]
        times = [claim.event_time for claim in pool.claims if claim.event_time is not None]
        if self._oldest_due_at is not None:
            times.append(self._oldest_due_at)
        return max(0.0, (datetime.now(UTC) - min(times)).total_seconds()) if times else 0.0

    async def run(self) -> None:
        """Search every `interval` seconds, and when events were written. Survives outages."""
        this_task = asyncio.current_task()
        assert this_task is not None  # noqa: S101 - coroutines run in tasks
        # asyncpg can replace a CancelledError by another error, caught in _try.
        while not (self._is_stopping or this_task.cancelling()):
            next_search = time.monotonic() + _MIN_INTERVAL
            await self._try(self._search)
            if time.monotonic() >= self._next_count:
                self._next_count = time.monotonic() + _COUNT_INTERVAL
                await self._try(self._count)
            await self._wait_until_woken()
            await asyncio.sleep(max(0.0, next_search - time.monotonic()))

    def stop(self) -> None:
        """Start no further deliveries. Other dispatchers can claim the webhooks at once."""
        self._is_stopping = True
        self._wake.set()

    async def close(self, grace: float) -> None:
        """Stop, and wait for deliveries in progress: `grace` seconds, at most five.

        Then cancel those that are left.
        """
        self.stop()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=min(grace, _MAX_CLOSE_SECONDS))
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self.log.flush()

    async def _wait_until_woken(self) -> None:
        try:
            async with asyncio.timeout(self._interval):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _try(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run an action; log each error once. The health check logs outages."""
        try:
            if self._outage.active:
                return
            await action()
            self._problem = None
        except Exception as e:
            problem = describe(e)
            if not is_outage(e) and problem != self._problem:
                self._problem = problem
                logger.warning("webhook dispatcher failed; retrying: %s", problem)

    async def _search(self) -> None:
        for tenant_id in [*islice(self._written_tenants, _MAX_SEQUENCED)]:
            # Removed before the statement: it may not see events that are written while it runs.
            del self._written_tenants[tenant_id]
            if await self._store.sequence_queued_events(tenant_id) is not False:
                self._written_tenants[tenant_id] = None
        now = time.monotonic()
        self._locked_tenants = {t: end for t, end in self._locked_tenants.items() if end > now}
        # Before slots are filled, and also while none is free.
        oldest = await self._store.webhooks_due(False, 1, ())
        self._oldest_due_at = oldest[0]["due_at"] if oldest else None
        for pool in self._delivery_pools:
            await self._fill(pool)

    async def _fill(self, pool: _DeliveryPool) -> None:
        """Claim webhooks that are due until all slots are taken, one of each tenant in turn.

        So a tenant waits for one delivery of each other tenant, however many webhooks those have.
        """
        is_second_round = False
        for _ in range(_MAX_READS):
            if not pool.slots.free or self._is_stopping:
                return
            after = pool.last_tenant
            rows = await self._store.next_webhooks(pool.unproven, _MAX_READ, after)
            if rows:
                pool.last_tenant = rows[-1]["tenant_id"]
            for key in in_turn(rows):
                if key in self._running or key.tenant_id in self._locked_tenants:
                    continue
                if pool.slots.try_take(key.tenant_id):
                    self._start(pool, key)
                    if not pool.slots.free:
                        pool.last_tenant = key.tenant_id
                        return
            if len(rows) < _MAX_READ:
                pool.last_tenant = ""
                if not after or is_second_round:
                    return
                is_second_round = True

    def _start(self, pool: _DeliveryPool, key: WebhookKey) -> None:
        self._remember(key.tenant_id)
        slot = Slot(pool.slots, key.tenant_id)
        task = asyncio.create_task(self._deliver(pool, key, slot))
        self._running[key] = task

        def end(_: object) -> None:
            del self._running[key]
            slot.release()

        task.add_done_callback(end)

    async def _deliver(self, pool: _DeliveryPool, key: WebhookKey, slot: Slot) -> None:
        """Deliver while events follow and no other webhook needs the slot."""

        def move() -> None:
            if slot.pool is pool.slots and slot.move(self._slow_slots):
                self._wake.set()

        sender = pool.sender if pool.unproven else _SlowDetectingSender(pool.sender, move)
        more = True
        while more and not self._is_stopping:
            claim = Claim(
                *(key, self._store, sender, self._keys, self.log, self._replays),
                is_stopping=lambda: self._is_stopping,
            )
            pool.claims.add(claim)
            try:
                more = await claim.deliver()
            except (HeadLocked, asyncpg.LockNotAvailableError):
                more = False
                self._locked_tenants[key.tenant_id] = time.monotonic() + _LOCKED_SECONDS
            except Exception as e:
                more = False
                if not is_outage(e):
                    self.log.note_failed_claim(key, e)
            finally:
                pool.claims.discard(claim)
            if more and (pool.unproven or slot.pool is not pool.slots or not pool.slots.free):
                self._wake.set()
                return

    def _remember(self, tenant_id: str) -> None:
        self._known_tenants[tenant_id] = None
        self._known_tenants.move_to_end(tenant_id)
        if len(self._known_tenants) > _MAX_KNOWN_TENANTS:
            self._known_tenants.popitem(last=False)

    async def _count(self) -> None:
        row = await self._store.count_webhooks(_MAX_COUNTED)
        self.counts = WebhookCounts(**row)
