"""One kind of maintenance: finds the due jobs of all tenants, and acts on each of them."""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import asyncpg

from jobs_grpc.db.database import Row
from jobs_grpc.db.owner_pool import is_transient
from jobs_grpc.db.pg_errors import is_outage

logger = logging.getLogger(__name__)

JobKey = tuple[str, str]
"""A tenant_id and a job_id."""

Fetch = Callable[..., Awaitable[Sequence[Row]]]
"""Runs one statement in its own transaction."""

Action = Callable[[JobKey, Sequence[Row], int], Awaitable[bool]]
"""Acts on one job and the rows found for it; returns whether the job is done. If not, the
pass skips the job.

The last argument is how long to wait for the job lock, in milliseconds.
"""

# Maximum number of jobs that a search excludes; with more, the search takes too long.
_MAX_SKIPPED = 1000
# Maximum number of failing jobs before a pass stops: if more fail, the jobs are not the cause.
_MAX_FAILING = 100
# The part of the lock wait that one job may use.
_MAX_SHARE = 0.25


class MaintenanceTask:
    """Runs `action` on what the SQL function jobs.`name` finds, `limit` rows at a time.

    `args` are further parameters of the function. Log records have `name` in their field "task".
    Metrics read `name`, `completed_runs`, `errors` and `overdue_seconds`.
    """

    def __init__(self, name: str, limit: int, fetch: Fetch, action: Action, *args: object) -> None:
        self.name = name
        self.completed_runs = 0
        self.errors = 0
        """Runs that ended with an error, and failures of single jobs."""
        self._oldest_due_at: datetime | None = None
        parameters = ", ".join(f"${n}" for n in range(1, 4 + len(args)))
        self._search = f"SELECT * FROM jobs.{name}({parameters})"  # noqa: S608 - names of this package
        self._limit = limit
        self._fetch = fetch
        self._action = action
        self._args = args
        self._failing: set[JobKey] = set()

    def overdue_seconds(self) -> float:
        """How long the oldest work that is not done has been due; 0 if none is due.

        The clocks of server and database must agree.
        """
        if self._oldest_due_at is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - self._oldest_due_at).total_seconds())

    async def run(self, lock_wait: float) -> None:
        """Act on all jobs that are due.

        The first pass skips jobs that are busy (another transaction holds the job lock) or that
        failed before, so they do not delay the others. The second pass acts on the skipped jobs
        and waits for their locks, at most `lock_wait` seconds for all of them. Raises errors of
        the database server, and logs those of a single job.
        """
        try:
            await self._run(lock_wait)
        except Exception:
            self.errors += 1
            raise
        self.completed_runs += 1

    async def _run(self, lock_wait: float) -> None:
        skipped = set(self._failing)
        await self._run_pass(skipped, lock_wait=0, deadline=math.inf)
        if not skipped:
            self._oldest_due_at = None
            return
        still_skipped: set[JobKey] = set()
        share = lock_wait * min(_MAX_SHARE, 1 / len(skipped))
        deadline = time.monotonic() + lock_wait
        if await self._run_pass(still_skipped, lock_wait=share, deadline=deadline):
            self._failing &= still_skipped
            if not still_skipped:
                self._oldest_due_at = None

    async def _run_pass(self, skipped: set[JobKey], *, lock_wait: float, deadline: float) -> bool:
        """Act on all due jobs that are not in `skipped`; add to it those that were not done.

        Stops at `deadline`, a monotonic time. Returns whether it reached the last job that is due.
        """
        wait_ms = math.ceil(lock_wait * 1000)
        previous: Sequence[Row] = ()
        while True:
            found = await self._find(skipped)
            jobs: dict[JobKey, list[Row]] = {}
            for row in found:
                jobs.setdefault((row["tenant_id"], row["job_id"]), []).append(row)
            for job, rows in jobs.items():
                if time.monotonic() > deadline:
                    return False
                if not await self._run_and_log_failure(job, self._action(job, rows, wait_ms)):
                    skipped.add(job)
            # If the search finds the same rows again, nothing more can be done now.
            if len(found) < self._limit or found == previous:
                return True
            if len(skipped) > _MAX_SKIPPED or len(self._failing) > _MAX_FAILING:
                return False
            previous = found

    async def _find(self, skipped: set[JobKey]) -> Sequence[Row]:
        tenant_ids = [tenant_id for tenant_id, _ in skipped]
        job_ids = [job_id for _, job_id in skipped]
        found = await self._fetch(self._search, self._limit, tenant_ids, job_ids, *self._args)
        oldest = min((row["due_at"] for row in found), default=None)
        # A search that skips jobs does not show whether those are still due.
        if skipped and self._oldest_due_at is not None:
            oldest = min(self._oldest_due_at, oldest or self._oldest_due_at)
        self._oldest_due_at = oldest
        return found

    async def _run_and_log_failure(self, job: JobKey, action: Awaitable[bool]) -> bool:
        """Return whether the job is done. Log a job's first failure only."""
        try:
            done = await action
        except asyncpg.LockNotAvailableError:
            return False  # The job is busy.
        except Exception as e:
            if is_outage(e):
                raise
            self.errors += 1
            if job not in self._failing and len(self._failing) <= _MAX_FAILING:
                self._failing.add(job)
                # A statement that was canceled or too slow is not a bug, so no traceback is logged.
                transient = is_transient(e)
                logger.log(
                    logging.WARNING if transient else logging.ERROR,
                    "maintenance of a job failed; the next sweeps try again",
                    exc_info=None if transient else e,
                    extra={"task": self.name, "tenant": job[0], "job": job[1], "error": str(e)},
                )
            return False
        self._failing.discard(job)
        return done
