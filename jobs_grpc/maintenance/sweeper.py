"""The background work, as the tables' owner: deadlines, settling, retention, purging.

Work is found across tenants with one probe of a partial index, then done a job at a time
by SQL functions that lock the job and look again. So any number of replicas may sweep,
and what one leaves undone the next tick finds.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

import asyncpg

from jobs_grpc.db.connections import forget_plans
from jobs_grpc.db.database import Row
from jobs_grpc.db.pg_errors import is_unavailable
from jobs_grpc.maintenance.task import Job, MaintenanceTask

logger = logging.getLogger(__name__)

# Executions that one statement may write: the time for which it keeps others off a job.
_BATCH = 1000
# Jobs that are looked up at once.
_JOBS = 100

_ACQUIRE_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 5.0


class NotTheOwner(Exception):
    """The login sees one tenant's rows at a time, so it would find nothing."""


class _StatementTimedOut(Exception):
    """The statement took too long and was canceled; the server and the session are well."""


class Sweeper:
    """Sweeps once (`run_once`) or until canceled (`follow`), within `async with`.

    `patience` is for how many seconds a tick waits for jobs that are busy, of each kind.
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
        self._time_outs = MaintenanceTask(
            "timed_out_executions", _BATCH, self._fetch, self._time_out
        )
        self._housework = [MaintenanceTask("jobs_to_finalize", _JOBS, self._fetch, self._settle)]
        if retention_days is not None:
            retentions = MaintenanceTask(
                "jobs_past_retention", _JOBS, self._fetch, self._retire, retention_days
            )
            self._housework.append(retentions)
        self._housework.append(MaintenanceTask("jobs_to_purge", _JOBS, self._fetch, self._purge))

    async def __aenter__(self) -> "Sweeper":
        # It connects when first used, so the database may be away at the start.
        self._pool = await asyncpg.create_pool(
            self._owner_dsn,
            min_size=0,
            max_size=2,
            command_timeout=self._statement_timeout,
            statement_cache_size=self._statement_cache_size,
            init=_check_owner,
            reset=forget_plans,
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
        lane = asyncio.current_task()
        assert lane is not None  # noqa: S101 - coroutines run in tasks
        # An error of the driver's in the moment of the cancel can hide it.
        while not lane.cancelling():
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
        await self._time_outs.sweep(self._patience)

    async def _keep_house(self) -> None:
        for due in self._housework:
            await due.sweep(self._patience)

    async def _time_out(self, job: Job, rows: Sequence[Row], wait_ms: int) -> bool:
        device_ids = [row["device_id"] for row in rows]
        ((count,),) = await self._fetch(
            "SELECT jobs.time_out_executions($1, $2, $3, $4)", *job, device_ids, wait_ms
        )
        return bool(count)

    async def _settle(self, job: Job, rows: Sequence[Row], wait_ms: int) -> bool:
        return await self._in_batches("SELECT jobs.finalize_job($1, $2, $3, $4, $5)", job, wait_ms)

    async def _retire(self, job: Job, rows: Sequence[Row], wait_ms: int) -> bool:
        ((done,),) = await self._fetch(
            "SELECT jobs.apply_retention($1, $2, $3, $4)", *job, self._retention_days, wait_ms
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
