"""One kind of maintenance: finds the due jobs of all tenants, and acts on each of them."""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from jobs_grpc.db.database import Row
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
    """

    def __init__(self, name: str, limit: int, fetch: Fetch, action: Action, *args: object) -> None:
        self._name = name
        parameters = ", ".join(f"${n}" for n in range(1, 4 + len(args)))
        self._search = f"SELECT * FROM jobs.{name}({parameters})"  # noqa: S608 - names of this package
        self._limit = limit
        self._fetch = fetch
        self._action = action
        self._args = args
        self._failing: set[JobKey] = set()

    async def run(self, lock_wait: float) -> None:
        """Act on all jobs that are due.

        The first pass skips jobs that are busy (another transaction holds the job lock) or that
        failed before, so they do not delay the others. The second pass acts on the skipped jobs
        and waits for their locks, at most `lock_wait` seconds for all of them. Raises errors of
        the database server, and logs those of a single job.
        """
        skipped = set(self._failing)
        await self._run_pass(skipped, lock_wait=0, deadline=math.inf)
        if not skipped:
            return
        still_skipped: set[JobKey] = set()
        share = lock_wait * min(_MAX_SHARE, 1 / len(skipped))
        deadline = time.monotonic() + lock_wait
        if await self._run_pass(still_skipped, lock_wait=share, deadline=deadline):
            self._failing &= still_skipped

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
        return await self._fetch(self._search, self._limit, tenant_ids, job_ids, *self._args)

    async def _run_and_log_failure(self, job: JobKey, action: Awaitable[bool]) -> bool:
        """Return whether the job is done. Log a job's first failure only."""
        try:
            done = await action
        except asyncpg.LockNotAvailableError:
            return False  # The job is busy.
        except Exception as e:
            if is_outage(e):
                raise
            if job not in self._failing and len(self._failing) <= _MAX_FAILING:
                self._failing.add(job)
                logger.exception(
                    "maintenance of a job failed; the next sweeps try again",
                    extra={"task": self._name, "tenant": job[0], "job": job[1]},
                )
            return False
        self._failing.discard(job)
        return done
