"""Maintenance of events: sequences queued events, and purges old ones.

Unlike the other tasks, these process tenants instead of jobs, one after the other. A tenant whose
events another session sequences is skipped. If a tenant fails, the others are still processed.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

import asyncpg

from jobs_grpc.db.owner_pool import StatementTimedOut
from jobs_grpc.db.pg_errors import is_outage, is_retryable
from jobs_grpc.maintenance.task import Fetch

logger = logging.getLogger(__name__)

# Tenants that one search finds. A search for queued events has a statement for each of them.
_TENANTS_PER_SEARCH = 100
_HEADS_PER_SEARCH = 1000
# Events that one statement removes. Limits how long it holds the lock of the tenant's head.
_EVENTS_PER_PURGE = 5000
# Maximum number of statements for one tenant, so that others get their turn.
_MAX_STATEMENTS = 100
# Seconds between two passes over all tenants.
_PURGE_INTERVAL = 60.0
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

    async def _repeat(self, tenant_id: str, sql: str, *args: object) -> bool:
        """Repeat a statement as long as it returns true; return whether it did not fail."""
        try:
            for _ in range(_MAX_STATEMENTS):
                ((more,),) = await self._fetch(sql, tenant_id, *args)
                if not more:
                    break
        except Exception as e:
            if is_outage(e):
                raise
            self.errors += 1
            if tenant_id not in self._failing and len(self._failing) < _MAX_FAILING:
                self._failing.add(tenant_id)
                transient = isinstance(
                    e, (StatementTimedOut, asyncpg.LockNotAvailableError)
                ) or is_retryable(e)
                logger.log(
                    logging.WARNING if transient else logging.ERROR,
                    "maintenance of a tenant's events failed; the next runs try again",
                    exc_info=None if transient else e,
                    extra={"task": self.name, "tenant": tenant_id, "error": str(e)},
                )
            return False
        self._failing.discard(tenant_id)
        return True


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
            failed = await self._run()
        except Exception:
            self.errors += 1
            raise
        self._oldest_due_at = min(failed, default=None)
        self.completed_runs += 1

    async def _run(self) -> list[datetime]:
        """Sequence; return the time of a queued event for each tenant that failed."""
        failed: list[datetime] = []
        after = ""
        while True:
            found = await self._fetch(
                "SELECT * FROM jobs.tenants_with_queued_events($1, $2)", _TENANTS_PER_SEARCH, after
            )
            for tenant_id, due_at in found:
                sql = "SELECT jobs.sequence_queued_events($1)"
                if await self._repeat(tenant_id, sql):
                    self._on_write(tenant_id)
                else:
                    failed.append(due_at)
            if len(found) < _TENANTS_PER_SEARCH:
                return failed
            after = found[-1]["tenant_id"]


class PurgeEvents(_TenantTask):
    """Purges old events of all tenants, one batch of tenants per step; see purge_events.sql."""

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
        self._after: str | None = None
        self._next_pass = 0.0

    async def step(self) -> None:
        """Purge the events of the next tenants, if a pass is due."""
        if self._after is None:
            if self._clock() < self._next_pass:
                return
            self._after = ""
        found = await self._fetch(
            "SELECT * FROM jobs.tenants_with_events($1, $2, $3, $4)",
            *(_HEADS_PER_SEARCH, self._after, self._days, self._max_events),
        )
        for tenant_id, is_due in found:
            if is_due:
                await self._repeat(
                    tenant_id,
                    "SELECT jobs.purge_events($1, $2, $3, $4)",
                    *(self._days, self._max_events, _EVENTS_PER_PURGE),
                )
        self._after = found[-1]["tenant_id"] if len(found) == _HEADS_PER_SEARCH else None
        if self._after is None:
            self._next_pass = self._clock() + _PURGE_INTERVAL
