"""Lets devices join continuous jobs: those that changed, and by full scans all of a tenant.

See docs/continuous.md. The searches run as the owner and see all tenants. The joins run as the
request role, because the owner may lack the right to read a platform's device tables. All steps can
be repeated and keep no state in this process, so any number of servers may run them at a time.
"""

import logging
import time
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from jobs_grpc.db.database import Row
from jobs_grpc.db.store import Store
from jobs_grpc.errors import DatabaseUnavailable, LockTimeout, Overloaded, QueryTimeout
from jobs_grpc.maintenance.task import Fetch, JobKey, MaintenanceTask

logger = logging.getLogger(__name__)

# Maximum notes that one search for tenants reads.
_NOTES_PER_SEARCH = 1000
NOTES_PER_BATCH = 1000
"""Maximum notes of a tenant in a batch; fewer if they name this many devices."""
MAX_NOTED_DEVICES = 100_000
"""If the notes of a tenant name more devices, full scans for its jobs replace them."""

_SCANS_PER_SEARCH = 100
DEVICES_PER_RANGE = 10_000

# Seconds that a batch waits for locks, for all jobs of its tenant and at least for each: busy jobs
# must not delay other tenants. A full scan is scheduled for jobs that are busy for longer.
_LOCK_WAIT = 1.0
_MIN_LOCK_WAIT = 0.1
# Seconds that the scan for one job may take before the next job has its turn.
_SCAN_STEP = 0.5
# Seconds after which a run ends; the next one continues.
_MAX_RUN = 30.0
# Maximum number of jobs whose failure is logged.
_MAX_FAILING = 1000


_Result = TypeVar("_Result")


class Join(Protocol):
    """Lets devices join a job: see Joins.join."""

    def __call__(
        self, job: JobKey, device_ids: Sequence[str], *, wait_ms: int
    ) -> Awaitable[Row]: ...


class Joins:
    """The two tasks that let devices join.

    `interval` is the time from the end of a full scan to the next one. `settle` is how long after
    the creation of a job a change without a note can be committed. Both are in seconds.
    `max_targets` is JOBS_MAX_TARGETS.
    """

    def __init__(
        self, fetch: Fetch, store: Store, *, max_targets: int, interval: float, settle: float
    ) -> None:
        self.joined = 0
        """Devices that have joined jobs."""
        self._store = store
        self._max_targets = max_targets
        self._interval = interval
        self._settle = settle
        self.changes = DeviceChanges(fetch, store, self.join)
        self.scans = MaintenanceTask("scans_due", _SCANS_PER_SEARCH, fetch, self._scan)

    async def join(
        self,
        job: JobKey,
        device_ids: Sequence[str] | None,
        after: str | None = None,
        last: str | None = None,
        *,
        wait_ms: int,
    ) -> Row:
        """Call join_devices.sql once."""
        tenant_id, job_id = job
        row = await self._store.join_devices(
            tenant_id,
            job_id=job_id,
            device_ids=device_ids,
            after=after,
            last=last,
            max_targets=self._max_targets,
            wait_ms=wait_ms,
        )
        self.joined += row["joined_count"]
        if row["joined_count"]:
            self._store.note_write(tenant_id)
        return row

    async def _scan(self, job: JobKey, rows: Sequence[Row], wait_ms: int) -> bool:
        """Continue the full scan for a job for a moment; other jobs are due as well."""
        deadline = time.monotonic() + _SCAN_STEP
        try:
            while await self._scan_range(job, wait_ms):
                if time.monotonic() > deadline:
                    break
        except (DatabaseUnavailable, Overloaded, QueryTimeout):
            return False  # The database layer logs it. LockTimeout: the job is busy.
        return True

    async def _scan_range(self, job: JobKey, wait_ms: int) -> bool:
        """Return whether the scan may have more ranges."""
        tenant_id, job_id = job
        found = await self._store.next_scan_range(tenant_id, job_id=job_id, limit=DEVICES_PER_RANGE)
        if found["due_at"] is None:
            return False
        after, last = found["after"], found["last"]
        row = await self.join(job, None, after, last, wait_ms=wait_ms)
        if row["has_ended"]:
            return False
        last = row["joined_up_to"] or last
        ended = await self._store.finish_scan_range(
            tenant_id,
            job_id=job_id,
            due_at=found["due_at"],
            read_at=found["read_at"],
            after=after,
            last=last,
            interval_seconds=self._interval,
            settle_seconds=self._settle,
            wait_ms=wait_ms,
        )
        if ended:
            self._store.note_write(tenant_id)
        return True


class DeviceChanges:
    """Lets the devices that changed join the continuous jobs of their tenants."""

    name = "device_changes"

    def __init__(self, fetch: Fetch, store: Store, join: Join) -> None:
        self.completed_runs = 0
        self.errors = 0
        """Runs that ended with an error, and failures of single jobs."""
        self._fetch = fetch
        self._store = store
        self._join = join
        self._oldest_due_at: datetime | None = None
        self._failing: set[JobKey] = set()

    def overdue_seconds(self) -> float:
        """How long the oldest note has been waiting; 0 if there is none.

        The clocks of server and database must agree.
        """
        if self._oldest_due_at is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - self._oldest_due_at).total_seconds())

    async def run(self) -> None:
        """Process a batch of each tenant in turn, until a turn had no full batch.

        Later notes wait for the next run, so that many small changes share a batch.
        """
        deadline = time.monotonic() + _MAX_RUN
        try:
            while await self._run_turn() and time.monotonic() < deadline:
                pass
        except DatabaseUnavailable:
            return  # The database layer logs it. The next run repeats the batch.
        except Exception:
            self.errors += 1
            raise
        self.completed_runs += 1

    async def _run_turn(self) -> bool:
        """Process a batch of each tenant with notes; return whether one was full."""
        oldest: list[datetime] = []
        is_full = False
        after = ""
        while found := await self._fetch(
            "SELECT * FROM jobs.tenants_with_device_changes($1, $2)", _NOTES_PER_SEARCH, after
        ):
            for tenant_id, due_at in found:
                oldest.append(due_at)
                try:
                    processing = self._logging_failure((tenant_id, ""), self._process(tenant_id))
                    is_full |= bool(await processing)
                except Overloaded:
                    continue  # Its calls wait for connections, too. The next run repeats the batch.
            after = found[-1]["tenant_id"]
        self._oldest_due_at = min(oldest, default=None)
        return is_full

    async def _process(self, tenant_id: str) -> bool:
        """Process a batch of a tenant; return whether it was full."""
        notes = await self._store.read_device_changes(
            tenant_id, limit=NOTES_PER_BATCH, max_changes=MAX_NOTED_DEVICES
        )
        if notes["change_ids"] is None:
            return False
        failed = []
        # A call changes at most 1,000 devices, so a batch names fewer than one join examines.
        deadline = time.monotonic() + _LOCK_WAIT
        for job_id in notes["job_ids"]:
            job = tenant_id, job_id
            wait = max(deadline - time.monotonic(), _MIN_LOCK_WAIT)
            joining = self._join(job, notes["device_ids"], wait_ms=round(wait * 1000))
            if await self._logging_failure(job, joining) is None:
                failed.append(job_id)
        await self._store.delete_device_changes(
            tenant_id,
            noted_at=notes["noted_at"],
            change_ids=notes["change_ids"],
            failed_job_ids=failed,
        )
        return max(len(notes["change_ids"]), len(notes["device_ids"])) >= NOTES_PER_BATCH

    async def _logging_failure(self, job: JobKey, work: Awaitable[_Result]) -> _Result | None:
        """Return the result of work for a job, or for a tenant; None: it failed.

        Logs its first failure.
        """
        try:
            result = await work
        except LockTimeout:
            return None  # The job is busy.
        except (DatabaseUnavailable, Overloaded):
            raise
        except Exception as e:
            self.errors += 1
            if job not in self._failing and len(self._failing) < _MAX_FAILING:
                self._failing.add(job)
                logger.error(
                    "devices could not join jobs; the next runs try again",
                    exc_info=None if isinstance(e, QueryTimeout) else e,
                    extra={"task": self.name, "tenant": job[0], "job": job[1], "error": str(e)},
                )
            return None
        self._failing.discard(job)
        return result
