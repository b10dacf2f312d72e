"""One kind of what is due: found across tenants, and done a job at a time."""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from jobs_grpc.db import schema
from jobs_grpc.db.database import Row
from jobs_grpc.db.pg_errors import is_outage

logger = logging.getLogger(__name__)

Job = tuple[str, str]
"""A tenant and a job_id."""

Fetch = Callable[..., Awaitable[Sequence[Row]]]
"""Runs one statement, in its own transaction."""

Act = Callable[[Job, Sequence[Row], int], Awaitable[bool]]
"""Does what is due of a job, waiting for it so many milliseconds; whether there was any."""

# Jobs that a pass passes over; to look for others among so many takes its time.
_MAX_PASSED_OVER = 1000
# More that fail are not the jobs' fault.
_MAX_FAILING = 100
# The part of all patience that one job can have.
_MAX_SHARE = 0.25


class MaintenanceTask:
    """What sql/maintenance/`kind`.sql finds, `limit` rows at a time, and how to `act` on it."""

    def __init__(self, kind: str, limit: int, fetch: Fetch, act: Act, *args: object) -> None:
        self._kind = kind
        self._limit = limit
        self._fetch = fetch
        self._act = act
        self._args = args
        self._failing: set[Job] = set()

    async def sweep(self, patience: float) -> None:
        """Act on what is due until there is no more.

        What is free comes first; then what was busy or has failed before, which so delays
        nobody else. `patience` is for how many seconds to wait for jobs that are busy, all
        in all. Raises what speaks of the server, not of a job.
        """
        passed_over = set(self._failing)
        await self._pass(passed_over, wait=0, end=math.inf)
        if not passed_over:
            return
        again: set[Job] = set()
        share = patience * min(_MAX_SHARE, 1 / len(passed_over))
        if await self._pass(again, wait=share, end=time.monotonic() + patience):
            self._failing &= again

    async def _pass(self, passed_over: set[Job], *, wait: float, end: float) -> bool:
        """Act on all jobs but those passed over, and add to these what could not be done.

        Answers whether it came to the end of what is due: it stops at the moment `end`.
        """
        wait_ms = math.ceil(wait * 1000)
        before: Sequence[Row] = ()
        while True:
            due = await self._find(passed_over)
            jobs: dict[Job, list[Row]] = {}
            for row in due:
                jobs.setdefault((row["tenant_id"], row["job_id"]), []).append(row)
            for job, rows in jobs.items():
                if time.monotonic() > end:
                    return False
                if not await self._isolated(job, self._act(job, rows, wait_ms)):
                    passed_over.add(job)
            # The same again is nobody's to do now; to go on would be to spin.
            if len(due) < self._limit or due == before:
                return True
            if len(passed_over) > _MAX_PASSED_OVER or len(self._failing) > _MAX_FAILING:
                return False
            before = due

    async def _find(self, passed_over: set[Job]) -> Sequence[Row]:
        sql = schema.read_sql(f"maintenance/{self._kind}.sql")
        tenant_ids = [tenant_id for tenant_id, _ in passed_over]
        job_ids = [job_id for _, job_id in passed_over]
        return await self._fetch(sql, self._limit, tenant_ids, job_ids, *self._args)

    async def _isolated(self, job: Job, action: Awaitable[bool]) -> bool:
        """Whether the action did anything. A job that fails is logged once, until it succeeds."""
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
                    "a job is passed over",
                    extra={"task": self._kind, "tenant": job[0], "job": job[1]},
                )
            return False
        self._failing.discard(job)
        return done
