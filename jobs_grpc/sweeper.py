"""The background work, as the tables' owner: deadlines, settling, retention, purging.

Work is found across tenants with one probe of a partial index, then done a job at a time
by SQL functions that lock the job and look again. So any number of replicas may sweep,
and what one leaves undone the next tick finds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

import asyncpg

from jobs_grpc import schema
from jobs_grpc.database import Row, is_unavailable

logger = logging.getLogger(__name__)

Job = tuple[str, str]
"""A tenant and a job_id."""

# Executions that one statement may write: the time for which it keeps others off a job.
_BATCH = 1000
# Jobs that are looked up at once.
_JOBS = 100
# More of them in a tick are not the jobs' fault.
_MAX_PASSED_OVER = 100

_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 5.0


class NotTheOwner(Exception):
    """The login sees one tenant's rows at a time, so it would find nothing."""


class Sweeper:
    """Sweeps once (`run_once`) or until canceled (`follow`), within `async with`."""

    def __init__(
        self,
        owner_dsn: str,
        *,
        retention_days: int | None = None,
        statement_cache_size: int = 100,
        interval: float = 1.0,
    ) -> None:
        self._owner_dsn = owner_dsn
        self._retention_days = retention_days
        self._statement_cache_size = statement_cache_size
        self._interval = interval
        self._failing: set[tuple[str, Job]] = set()

    async def __aenter__(self) -> "Sweeper":
        # It connects when first used, so the database may be away at the start.
        self._pool = await asyncpg.create_pool(
            self._owner_dsn,
            min_size=0,
            max_size=2,
            command_timeout=_TIMEOUT,
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
        """Do what is due, every `interval` seconds, whatever happens.

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
            try:
                await tick()
                problem = None
            except Exception as e:
                problem = str(e) or type(e).__name__
                if problem != before:
                    told = isinstance(e, (NotTheOwner, asyncpg.PostgresError)) or is_unavailable(e)
                    logger.warning(
                        "sweeping (%s) is interrupted: %s", name, problem, exc_info=not told
                    )
            if before is not None and problem is None:
                logger.info("sweeping (%s) goes on", name)
            await asyncio.sleep(self._interval)

    async def _watch_deadlines(self) -> None:
        await self._sweep("time_outs", _BATCH, self._time_out)

    async def _keep_house(self) -> None:
        await self._sweep("settlements", _JOBS, self._settle)
        if self._retention_days is not None:
            await self._sweep("retirements", _JOBS, self._retire, self._retention_days)
        await self._sweep("purges", _JOBS, self._purge)

    async def _sweep(
        self,
        what: str,
        limit: int,
        act: Callable[[Job, Sequence[Row]], Awaitable[bool]],
        *args: object,
    ) -> None:
        """Find `what` is due and act on it, job by job, until there is no more."""
        passed_over: list[str] = []
        before: Sequence[Row] = ()
        while True:
            due = await self._fetch(schema.read_sql(f"due/{what}.sql"), limit, passed_over, *args)
            jobs: dict[Job, list[Row]] = {}
            for row in due:
                jobs.setdefault((row["tenant_id"], row["job_id"]), []).append(row)
            for job, rows in jobs.items():
                if not await self._isolated(what, job, act(job, rows)):
                    tenant_id, job_id = job
                    passed_over.append(f"{job_id}/{tenant_id}")
            # The same again is nobody's to do now; to go on would be to spin.
            if len(due) < limit or due == before or len(passed_over) > _MAX_PASSED_OVER:
                return
            before = due

    async def _isolated(self, what: str, job: Job, action: Awaitable[bool]) -> bool:
        """Whether the action did anything. A job that fails is logged once, until it succeeds."""
        try:
            done = await action
        except asyncpg.LockNotAvailableError:
            return False  # The job is busy.
        except Exception as e:
            if is_unavailable(e):
                raise
            if (what, job) not in self._failing:
                self._failing.add((what, job))
                logger.exception(
                    "a job is passed over", extra={"task": what, "tenant": job[0], "job": job[1]}
                )
            return False
        self._failing.discard((what, job))
        return done

    async def _time_out(self, job: Job, rows: Sequence[Row]) -> bool:
        device_ids = [row["device_id"] for row in rows]
        ((count,),) = await self._fetch(
            "SELECT jobs.time_out_executions($1, $2, $3)", *job, device_ids
        )
        return bool(count)

    async def _settle(self, job: Job, rows: Sequence[Row]) -> bool:
        return await self._in_batches("SELECT jobs.settle_job($1, $2, $3, $4)", job)

    async def _retire(self, job: Job, rows: Sequence[Row]) -> bool:
        ((done,),) = await self._fetch(
            "SELECT jobs.retire_job($1, $2, $3)", *job, self._retention_days
        )
        return bool(done)

    async def _purge(self, job: Job, rows: Sequence[Row]) -> bool:
        return await self._in_batches("SELECT jobs.purge_job($1, $2, $3, $4)", job)

    async def _in_batches(self, sql: str, job: Job) -> bool:
        """Repeat a function that answers the device to go on after, until it answers none."""
        after: str | None = ""
        while after is not None:
            ((after,),) = await self._fetch(sql, *job, after, _BATCH)
        return True

    async def _fetch(self, sql: str, *args: object) -> Sequence[Row]:
        async with self._pool.acquire(timeout=_TIMEOUT) as connection:
            rows: list[Row] = await connection.fetch(sql, *args)
            return rows


async def _check_owner(connection: asyncpg.Connection) -> None:
    if await connection.fetchval("SELECT row_security_active('jobs.jobs')"):
        raise NotTheOwner(
            "JOBS_OWNER_DATABASE_URL is not the login of the tables' owner: it sees no rows"
        )
