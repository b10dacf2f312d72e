"""Decides which calls count the active jobs of their tenant, for JOBS_MAX_ACTIVE_JOBS."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

MAX_AGE_SECONDS = 1.0
"""How long calls rely on a count. From half of it on, one call counts again."""

MAX_TENANTS = 2_000
"""Maximum number of tenants with a cached count. The oldest entry is dropped first."""


@dataclass(slots=True)
class ActiveJobCount:
    """What a call passes to the database, and what the database returns."""

    max_active_jobs: int | None
    """None: the call does not count the jobs."""
    active_jobs: int | None = None
    """The caller sets it to what the database returns; None: it did not count."""


_NO_LIMIT = nullcontext(ActiveJobCount(None))


@dataclass(slots=True)
class _Tenant:
    count: int = 0
    """The last count, with the jobs that calls were adding when it began."""
    counted_at: float | None = None
    """When that count began."""
    calls: int = 0
    """Calls so far. Each may have added a job."""
    counted_calls: int = 0
    """`calls` when the last count began."""
    counting: int = 0
    """Calls in progress that count."""
    unchecked: int = 0
    """Calls in progress that do not."""
    all_checked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when `unchecked` becomes 0."""
    waiting: int = 0
    """Calls that wait for that. Meanwhile, each new call counts, so the wait ends."""


class ActiveJobCounts:
    """What this process knows of the active jobs of tenants.

    A count reads a row for each active job. So a call counts only if there is no count of the last
    second, or if this count and the calls since then are within a tenth of the limit. Then it
    counts after the calls in progress that do not count have ended: their jobs are counted once.
    Other processes can exceed the limit by the jobs that they add between a count and its use. One
    process alone can't: it knows its own calls.
    """

    def __init__(self, max_jobs: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`max_jobs`: the limit; None: none."""
        self._max_jobs = max_jobs
        self._clock = clock
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of tenants whose counts are kept."""
        return len(self._tenants)

    def call(
        self, tenant_id: str, *, always: bool = False
    ) -> AbstractAsyncContextManager[ActiveJobCount]:
        """Context manager for the duration of a call that may create a job.

        `always`: it must count.
        """
        if self._max_jobs is None:
            return _NO_LIMIT
        return self._call(tenant_id, self._max_jobs, always=always)

    @asynccontextmanager
    async def _call(
        self, tenant_id: str, max_jobs: int, *, always: bool
    ) -> AsyncIterator[ActiveJobCount]:
        tenant = self._tenant(tenant_id)
        is_near_limit = tenant.count + tenant.calls - tenant.counted_calls >= 0.9 * max_jobs
        must_count = always or is_near_limit or tenant.waiting or self._is_due(tenant)
        tenant.calls += 1
        if not must_count:
            tenant.unchecked += 1
            tenant.all_checked.clear()
            try:
                yield ActiveJobCount(None)
            finally:
                tenant.unchecked -= 1
                if not tenant.unchecked:
                    tenant.all_checked.set()
            return
        tenant.counting += 1
        try:
            if is_near_limit and tenant.unchecked:
                tenant.waiting += 1
                try:
                    await tenant.all_checked.wait()
                finally:
                    tenant.waiting -= 1
            calls, adding, now = tenant.calls, tenant.counting + tenant.unchecked, self._clock()
            count = ActiveJobCount(max_jobs)
            yield count
            is_newest = tenant.counted_at is None or now >= tenant.counted_at
            if count.active_jobs is not None and is_newest:
                tenant.count, tenant.counted_at = count.active_jobs + adding, now
                tenant.counted_calls = calls
        finally:
            tenant.counting -= 1

    def _is_due(self, tenant: _Tenant) -> bool:
        if tenant.counted_at is None:
            return True
        age = self._clock() - tenant.counted_at
        return age >= MAX_AGE_SECONDS or (age >= MAX_AGE_SECONDS / 2 and not tenant.counting)

    def _tenant(self, tenant_id: str) -> _Tenant:
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            tenant = self._tenants[tenant_id] = _Tenant()
            self._forget_oldest()
        return tenant

    def _forget_oldest(self) -> None:
        """Forget up to two tenants, so that there are MAX_TENANTS again after calls have ended."""
        for _ in range(2):
            if len(self._tenants) <= MAX_TENANTS:
                return
            oldest_id, oldest = next(iter(self._tenants.items()))
            if oldest.counting or oldest.unchecked or oldest.calls == 0:
                # Its calls in progress must stay known. The limit on calls bounds these tenants.
                self._tenants.move_to_end(oldest_id)
            else:
                del self._tenants[oldest_id]
