"""Maintenance of events: sequences queued events, and purges old ones.

Unlike the other tasks, these process tenants instead of jobs, one after the other. A tenant whose
events another session sequences is skipped. If a tenant fails, the others are still processed.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from jobs_grpc.db.owner_pool import is_transient
from jobs_grpc.db.pg_errors import is_outage
from jobs_grpc.maintenance.task import Fetch

logger = logging.getLogger(__name__)

# Queued events that one search reads to find tenants.
_EVENTS_PER_SEARCH = 1000
_HEADS_PER_SEARCH = 1000
EVENTS_PER_PURGE = 10_000
"""Events that one statement removes. Limits how long it holds the lock of the tenant's head."""

# Maximum number of statements that sequence events of one tenant, so that others get their turn.
_MAX_STATEMENTS = 100
# Seconds between two passes over all tenants.
_PURGE_INTERVAL = 60.0
# Seconds that one step may take, because other tasks of the sweeper wait for it.
_PURGE_STEP = 0.5
# Maximum number of tenants whose failure is logged.
_MAX_FAILING = 1000


class _TenantTask:
    """Runs statements for tenants, and logs the first failure of each tenant."""

    def __init__(self, name: str, fetch: Fetch) -> None:
        self.name = name
        self.completed_runs = 0
        self.errors = 0
        """Runs that ended with an error, and failures of single tenants."""
        self._fetch = fetch
        self._failing: set[str] = set()

    async def _run_for(self, tenant_id: str, sql: str, *args: object) -> int | None:
        """Run a statement and return its result; None: it failed."""
        try:
            ((result,),) = await self._fetch(sql, tenant_id, *args)
        except Exception as e:
            if is_outage(e):
                raise
            self.errors += 1
            if tenant_id not in self._failing and len(self._failing) < _MAX_FAILING:
                self._failing.add(tenant_id)
                transient = is_transient(e)
                logger.log(
                    logging.WARNING if transient else logging.ERROR,
                    "maintenance of a tenant's events failed; the next runs try again",
                    exc_info=None if transient else e,
                    extra={"task": self.name, "tenant": tenant_id, "error": str(e)},
                )
            return None
        self._failing.discard(tenant_id)
        return result  # type: ignore[no-any-return]


class SequenceEvents(_TenantTask):
    """Sequences the queued events of all tenants. Calls `on_write` with each tenant."""

    def __init__(self, fetch: Fetch, on_write: Callable[[str], None]) -> None:
        super().__init__("queued_events", fetch)
        self._on_write = on_write
        self._oldest_due_at: datetime | None = None

    def overdue_seconds(self) -> float:
        """How long the oldest event that is not sequenced has been queued; 0 if none is.

        The clocks of server and database must agree.
        """
        if self._oldest_due_at is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - self._oldest_due_at).total_seconds())

    async def run(self) -> None:
        """Sequence all queued events."""
        try:
            left = await self._run()
        except Exception:
            self.errors += 1
            raise
        self._oldest_due_at = min(left, default=None)
        self.completed_runs += 1

    async def _run(self) -> list[datetime]:
        """Sequence; return the time of a queued event for each failed or skipped tenant."""
        left: list[datetime] = []
        after = ""
        while found := await self._fetch(
            "SELECT * FROM jobs.tenants_with_queued_events($1, $2)", _EVENTS_PER_SEARCH, after
        ):
            for tenant_id, due_at in found:
                if await self._sequence(tenant_id):
                    self._on_write(tenant_id)
                else:
                    left.append(due_at)
            after = found[-1]["tenant_id"]
        return left

    async def _sequence(self, tenant_id: str) -> bool:
        """Sequence the queued events of a tenant.

        False if a statement failed or the head was locked.
        """
        for _ in range(_MAX_STATEMENTS):
            more = await self._run_for(tenant_id, "SELECT jobs.sequence_queued_events($1)")
            if not more:
                return more is not None
        return True


class PurgeEvents(_TenantTask):
    """Purges old events of all tenants, half a second per step; see purge_events.sql."""

    def __init__(
        self,
        fetch: Fetch,
        days: int,
        max_events: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("purge_events", fetch)
        self._days = days
        self._max_events = max_events
        self._clock = clock
        # The tenants that the last search found, with the position to continue after, and where the
        # next search begins. None: the pass ends when these tenants are done.
        self._due: deque[tuple[str, int]] = deque()
        self._after: str | None = None
        self._next_pass = 0.0

    async def step(self) -> None:
        """Purge events until the time is used up or the pass ends, if a pass is due.

        The next step continues. Tenants take turns.
        """
        now = self._clock()
        if not self._due and self._after is None:
            if now < self._next_pass:
                return
            self._after = ""
        deadline = now + _PURGE_STEP
        while self._clock() < deadline:
            if not self._due:
                if self._after is None:
                    break
                self._after = await self._find_due(self._after)
                continue
            tenant_id, position = self._due.popleft()
            last_position = await self._run_for(
                tenant_id,
                "SELECT jobs.purge_events($1, $2, $3, $4, $5)",
                *(self._days, self._max_events, EVENTS_PER_PURGE, position),
            )
            if last_position is not None:
                self._due.append((tenant_id, last_position))
        if not self._due and self._after is None:
            self._next_pass = self._clock() + _PURGE_INTERVAL

    async def _find_due(self, after: str) -> str | None:
        """Find the next tenants; return where the next search begins, or None after the last."""
        found = await self._fetch(
            "SELECT * FROM jobs.tenants_with_events($1, $2, $3, $4)",
            *(_HEADS_PER_SEARCH, after, self._days, self._max_events),
        )
        self._due.extend((tenant_id, 0) for tenant_id, is_due in found if is_due)
        return found[-1]["tenant_id"] if len(found) == _HEADS_PER_SEARCH else None
