"""The background work, as the tables' owner: deadlines, settling, retention, purging.

Work is found across tenants with one probe of a partial index, then done a job at a time
by SQL functions that lock the job and look again. So any number of replicas may sweep,
and what one leaves undone the next tick finds.
"""

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

import asyncpg

from jobs_grpc import schema
from jobs_grpc.database import Row, is_outage, is_unavailable

logger = logging.getLogger(__name__)

Job = tuple[str, str]
"""A tenant and a job_id."""

_Act = Callable[[Job, Sequence[Row], int], Awaitable[bool]]
"""Does what is due of a job that may be waited for so many milliseconds; whether it did any."""

# Executions that one statement may write: the time for which it keeps others off a job.
_BATCH = 1000
# Jobs that are looked up at once.
_JOBS = 100
# Jobs that a tick passes over; to look for others among so many takes its time.
_MAX_PASSED_OVER = 1000
# More that fail are not the jobs' fault.
_MAX_FAILING = 100
# The part of a tick's patience that one job can have.
_MAX_SHARE = 0.25

_ACQUIRE_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 5.0


class NotTheOwner(Exception):
    """The login sees one tenant's rows at a time, so it would find nothing."""


class _StatementTimedOut(Exception):
    """The server has answered in time that it canceled the statement."""


class Sweeper:
    """Sweeps once (`run_once`) or until canceled (`follow`), within `async with`.

    `patience` is for how many seconds a tick waits for jobs that are busy, all in all.
    """

    def __init__(
        self,
        owner_dsn: str,
        *,
        retention_days: int | None = None,
        statement_cache_size: int = 100,
        interval: float = 1.0,
        patience: float = 1.0,
        statement_timeout: float = 30.0,
    ) -> None:
        self._owner_dsn = owner_dsn
        self._retention_days = retention_days
        self._statement_cache_size = statement_cache_size
        self._interval = interval
        self._patience = patience
        self._statement_timeout = statement_timeout
        self._failing: dict[str, set[Job]] = defaultdict(set)

    async def __aenter__(self) -> "Sweeper":
        # It connects when first used, so the database may be away at the start.
        self._pool = await asyncpg.create_pool(
            self._owner_dsn,
            min_size=0,
            max_size=2,
            command_timeout=self._statement_timeout,
            statement_cache_size=self._statement_cache_size,
            init=_check_owner,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await asyncio.wait_for(self._pool.close(), _CLOSE_TIMEOUT)
        except TimeoutError:
            self._pool.terminate()

    async def run_once(self) -> None:
        """Do all that is due. Raises what the driver does if the database is away."""
        await self._watch_deadlines()
        await self._keep_house()

    async def follow(self) -> None:
        """Do what is due, every `interval` seconds if it takes no longer, whatever happens.

        Deadlines have a loop and a connection of their own: a promise is made on them, and
        the rest may take its time.
        """
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(self._repeat("deadlines", self._watch_deadlines))
            lanes.create_task(self._repeat("housekeeping", self._keep_house))

    async def _repeat(self, name: str, tick: Callable[[], Awaitable[None]]) -> None:
        problem: str | None = None
        while True:
            before = problem
            following = time.monotonic() + self._interval
            try:
                await tick()
                problem = None
            except Exception as e:
                problem = str(e) or type(e).__name__
                if problem != before:
                    told = isinstance(
                        e, (NotTheOwner, _StatementTimedOut, asyncpg.PostgresError)
                    ) or is_unavailable(e)
                    logger.warning(
                        "sweeping (%s) is interrupted: %s", name, problem, exc_info=not told
                    )
            if before is not None and problem is None:
                logger.info("sweeping (%s) goes on", name)
            await asyncio.sleep(max(0, following - time.monotonic()))

    async def _watch_deadlines(self) -> None:
        await self._sweep("time_outs", _BATCH, self._time_out)

    async def _keep_house(self) -> None:
        await self._sweep("settlements", _JOBS, self._settle)
        if self._retention_days is not None:
            await self._sweep("retirements", _JOBS, self._retire, self._retention_days)
        await self._sweep("purges", _JOBS, self._purge)

    async def _sweep(self, what: str, limit: int, act: _Act, *args: object) -> None:
        """Find `what` is due and act on it, job by job, until there is no more.

        What is free comes first; then what was busy or has failed before, which so delays
        nobody else.
        """
        failing = self._failing[what]
        passed_over = set(failing)
        await self._pass(what, limit, act, args, passed_over, patience=0)
        if not passed_over:
            return
        again: set[Job] = set()
        share = self._patience * min(_MAX_SHARE, 1 / len(passed_over))
        if await self._pass(what, limit, act, args, again, patience=share):
            failing &= again

    async def _pass(
        self,
        what: str,
        limit: int,
        act: _Act,
        args: Sequence[object],
        passed_over: set[Job],
        *,
        patience: float,
    ) -> bool:
        """Act on all jobs but those passed over, and add to these what could not be done.

        `patience` is for a job; with any, a pass ends when the tick's is used up. Answers
        whether it came to the end of what is due.
        """
        wait_ms = math.ceil(patience * 1000)
        end = time.monotonic() + (self._patience if patience else math.inf)
        before: Sequence[Row] = ()
        while True:
            keys = [f"{job_id}/{tenant_id}" for tenant_id, job_id in passed_over]
            due = await self._fetch(schema.read_sql(f"due/{what}.sql"), limit, keys, *args)
            jobs: dict[Job, list[Row]] = {}
            for row in due:
                jobs.setdefault((row["tenant_id"], row["job_id"]), []).append(row)
            for job, rows in jobs.items():
                if time.monotonic() > end:
                    return False
                if not await self._isolated(what, job, act(job, rows, wait_ms)):
                    passed_over.add(job)
            # The same again is nobody's to do now; to go on would be to spin.
            if len(due) < limit or due == before:
                return True
            if len(passed_over) > _MAX_PASSED_OVER or len(self._failing[what]) > _MAX_FAILING:
                return False
            before = due

    async def _isolated(self, what: str, job: Job, action: Awaitable[bool]) -> bool:
        """Whether the action did anything. A job that fails is logged once, until it succeeds."""
        failing = self._failing[what]
        try:
            done = await action
        except asyncpg.LockNotAvailableError:
            return False  # The job is busy.
        except Exception as e:
            if is_outage(e):
                raise
            if job not in failing and len(failing) <= _MAX_FAILING:
                failing.add(job)
                logger.exception(
                    "a job is passed over", extra={"task": what, "tenant": job[0], "job": job[1]}
                )
            return False
        failing.discard(job)
        return done

    async def _time_out(self, job: Job, rows: Sequence[Row], wait_ms: int) -> bool:
        device_ids = [row["device_id"] for row in rows]
        ((count,),) = await self._fetch(
            "SELECT jobs.time_out_executions($1, $2, $3, $4)", *job, device_ids, wait_ms
        )
        return bool(count)

    async def _settle(self, job: Job, rows: Sequence[Row], wait_ms: int) -> bool:
        return await self._in_batches("SELECT jobs.settle_job($1, $2, $3, $4, $5)", job, wait_ms)

    async def _retire(self, job: Job, rows: Sequence[Row], wait_ms: int) -> bool:
        ((done,),) = await self._fetch(
            "SELECT jobs.retire_job($1, $2, $3, $4)", *job, self._retention_days, wait_ms
        )
        return bool(done)

    async def _purge(self, job: Job, rows: Sequence[Row], wait_ms: int) -> bool:
        return await self._in_batches("SELECT jobs.purge_job($1, $2, $3, $4, $5)", job, wait_ms)

    async def _in_batches(self, sql: str, job: Job, wait_ms: int) -> bool:
        """Repeat a function that answers the device to go on after, until it answers none."""
        after: str | None = ""
        while after is not None:
            ((after,),) = await self._fetch(sql, *job, after, _BATCH, wait_ms)
        return True

    async def _fetch(self, sql: str, *args: object) -> Sequence[Row]:
        async with self._pool.acquire(timeout=_ACQUIRE_TIMEOUT) as connection:
            try:
                rows: list[Row] = await connection.fetch(sql, *args)
            except TimeoutError as e:
                # If the server doesn't answer to the cancel either, giving the connection
                # back raises a TimeoutError instead of this.
                raise _StatementTimedOut(f"no answer in {self._statement_timeout:g} s") from e
            return rows


async def _check_owner(connection: asyncpg.Connection) -> None:
    if await connection.fetchval("SELECT row_security_active('jobs.jobs')"):
        raise NotTheOwner(
            "JOBS_OWNER_DATABASE_URL is not the login of the tables' owner: it sees no rows"
        )
