"""Runs maintenance as the owner: timeouts, stages, events, finalization, retention and purge.

Each task finds its jobs across tenants with one probe of a partial index, then calls a SQL
function per job, which locks the job and checks again; the tasks of event_tasks.py do so for
tenants. So any number of replicas can sweep at the same time, and the next sweep finds what one
did not finish.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import asyncpg

from jobs_grpc.db.database import Row
from jobs_grpc.db.outage import Outage
from jobs_grpc.db.owner_pool import NotTheOwner, OwnerPool, StatementTimedOut, is_transient
from jobs_grpc.db.pg_errors import is_outage
from jobs_grpc.maintenance.event_tasks import PurgeEvents, SequenceEvents
from jobs_grpc.maintenance.joins import DeviceChanges, Joins
from jobs_grpc.maintenance.stale_devices import RemoveStale, StaleDevices
from jobs_grpc.maintenance.task import Fetch, JobKey, MaintenanceTask

logger = logging.getLogger(__name__)

# Executions that one statement changes. Limits how long it holds the job lock.
_EXECUTIONS_PER_STATEMENT = 1000
# One each for timeouts, stages, queued events, device changes and full scans, and one for the
# other tasks.
MAX_CONNECTIONS = 6
# Jobs that one search finds.
_JOBS_PER_SEARCH = 100
# Jobs of each kind that are counted for metrics.
_MAX_COUNTED_JOBS = 10_000

# The health check notices an outage of the database within this time, and logs it.
_OUTAGE_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class StoppedRollouts:
    """Numbers of jobs of all tenants: see stopped_rollouts.sql."""

    paused: Mapping[str, int]
    """By the cause of the pause, a name of Pause.Cause."""
    awaiting_approval: int
    canceled: int
    """By a failure criterion, in the last hour."""


class Sweeper:
    """Sweeps once (`run_once`) or until canceled (`run`), inside `async with`.

    `lock_wait` is how many seconds each task waits for jobs that are busy, per sweep. During
    `outage`, and for `outage_grace` seconds before it, lost connections are not logged. Calls
    `on_write` with the tenant after each change that readers see. For `remove_stale_devices` see
    StaleDevices; without it, such rows stay. Without `make_joins`, no devices join jobs.
    """

    def __init__(
        self,
        owner_dsn: str,
        *,
        retention_days: int | None = None,
        event_retention_days: int = 7,
        max_tenant_events: int = 1_000_000,
        statement_cache_size: int = 100,
        interval: float = 1.0,
        lock_wait: float = 1.0,
        statement_timeout: float = 30.0,
        outage: Outage | None = None,
        outage_grace: float = _OUTAGE_GRACE_SECONDS,
        on_write: Callable[[str], None] = lambda _: None,
        remove_stale_devices: RemoveStale | None = None,
        make_joins: Callable[[Fetch], Joins] | None = None,
    ) -> None:
        self._pool = OwnerPool(
            owner_dsn,
            max_size=MAX_CONNECTIONS,
            statement_timeout=statement_timeout,
            statement_cache_size=statement_cache_size,
            outage=outage,
        )
        self._fetch = self._pool.fetch
        self._retention_days = retention_days
        self._interval = interval
        self._lock_wait = lock_wait
        self._outage = outage or Outage()
        self._outage_grace = outage_grace
        self._on_write = on_write
        self._timeouts = MaintenanceTask(
            "timed_out_executions", _EXECUTIONS_PER_STATEMENT, self._fetch, self._time_out
        )
        limit = _JOBS_PER_SEARCH
        self._stages = MaintenanceTask("stages_due", limit, self._fetch, self._open_due_stage)
        self._cleanup = [
            MaintenanceTask("jobs_to_finalize", limit, self._fetch, self._finalize),
            MaintenanceTask("jobs_to_purge", limit, self._fetch, self._purge),
        ]
        if retention_days is not None:
            retention = MaintenanceTask(
                "jobs_past_retention", limit, self._fetch, self._apply_retention, retention_days
            )
            self._cleanup.insert(1, retention)
        self._sequence_events = SequenceEvents(self._fetch, on_write)
        self._purge_events = PurgeEvents(self._fetch, event_retention_days, max_tenant_events)
        self.joins = make_joins(self._fetch) if make_joins else None
        self.tasks: Sequence[MaintenanceTask | SequenceEvents | DeviceChanges] = (
            *(self._timeouts, self._stages, self._sequence_events),
            *((self.joins.changes, self.joins.scans) if self.joins else ()),
            *self._cleanup,
        )
        self._stale_devices = (
            StaleDevices(self._fetch, remove_stale_devices) if remove_stale_devices else None
        )
        self.finished = {"TIMED_OUT": 0, "REJECTED": 0}
        """Executions that this sweeper has stored as finished, by status."""
        # The next three are as of the last sweep; None: not read yet.
        self.stopped_rollouts: StoppedRollouts | None = None
        self.scheduled_jobs: int | None = None
        self.retrying_executions: int | None = None
        """Retrying executions whose next attempt no device has started."""

    async def __aenter__(self) -> "Sweeper":
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._pool.__aexit__(*error)

    async def run_once(self) -> None:
        """Run all tasks.

        Raises NotTheOwner, StatementTimedOut, and what asyncpg raises if the database is
        unavailable.
        """
        await self.run_timeouts()
        await self.run_stages()
        await self.run_events()
        if self.joins:
            await self.joins.changes.run()
            await self.joins.scans.run(self._lock_wait)
        await self.run_cleanup()

    async def run(self) -> None:
        """Run all tasks every `interval` seconds, and retry after errors.

        Timeouts, stages, events and joins have a separate loop and connection each, so that they
        are on time however long the other work takes.
        """
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._repeat("timeouts", self.run_timeouts))
            loops.create_task(self._repeat("stages", self.run_stages))
            loops.create_task(self._repeat("events", self.run_events))
            loops.create_task(self._repeat("cleanup", self.run_cleanup))
            if self.joins:
                scan = partial(self.joins.scans.run, self._lock_wait)
                loops.create_task(self._repeat("joins", self.joins.changes.run))
                loops.create_task(self._repeat("scans", scan))

    async def run_timeouts(self) -> None:
        """Time out executions that have been IN_PROGRESS for too long."""
        await self._timeouts.run(self._lock_wait)

    async def run_stages(self) -> None:
        """Open the stages whose bake_time or advance_after has passed; count jobs for metrics."""
        await self._stages.run(self._lock_wait)
        (row,) = await self._fetch("SELECT * FROM jobs.stopped_rollouts($1)", _MAX_COUNTED_JOBS)
        causes = ("FAILURE_CRITERION", "GATE_NOT_MET", "JOINS", "OPERATOR")
        self.stopped_rollouts = StoppedRollouts(
            {cause: row[cause.lower()] for cause in causes},
            row["awaiting_approval"],
            row["canceled"],
        )
        (row,) = await self._fetch("SELECT jobs.count_scheduled_jobs($1)", _MAX_COUNTED_JOBS)
        self.scheduled_jobs = row["count_scheduled_jobs"]
        (row,) = await self._fetch("SELECT jobs.count_retrying_executions($1)", _MAX_COUNTED_JOBS)
        self.retrying_executions = row["count_retrying_executions"]

    async def run_events(self) -> None:
        """Sequence queued events."""
        await self._sequence_events.run()

    async def run_cleanup(self) -> None:
        """Finalize canceled and expired jobs, apply the retention, purge jobs and events.

        If a statement of one of these is too slow, the others still run.
        """
        steps: list[Callable[[], Awaitable[None]]] = [
            *(partial(task.run, self._lock_wait) for task in self._cleanup),
            self._purge_events.step,
        ]
        if self._stale_devices:
            steps.append(self._stale_devices.step)
        too_slow: StatementTimedOut | None = None
        for step in steps:
            try:
                await step()
            except StatementTimedOut as e:
                too_slow = e
        if too_slow:
            raise too_slow

    async def _repeat(self, name: str, sweep: Callable[[], Awaitable[None]]) -> None:
        problem: str | None = None
        last_success = time.monotonic()
        this_task = asyncio.current_task()
        assert this_task is not None  # noqa: S101 - coroutines run in tasks
        # Not `while True`: asyncpg can replace a CancelledError by another error, caught below.
        while not this_task.cancelling():
            previous_problem = problem
            next_start = time.monotonic() + self._interval
            try:
                await sweep()
                problem = None
                last_success = time.monotonic()
            except Exception as e:
                if self._outage.active:
                    last_success = time.monotonic()
                logged_elsewhere = time.monotonic() <= last_success + self._outage_grace
                if not (is_outage(e) and logged_elsewhere):
                    problem = str(e) or type(e).__name__
                if problem is not None and problem != previous_problem:
                    expected = is_transient(e) or isinstance(
                        e, (NotTheOwner, asyncpg.PostgresError)
                    )
                    logger.warning(
                        "maintenance (%s) failed; retrying: %s",
                        name,
                        problem,
                        exc_info=not expected,
                    )
            if previous_problem is not None and problem is None:
                logger.info("maintenance (%s) succeeded again", name)
            await asyncio.sleep(max(0, next_start - time.monotonic()))

    async def _time_out(self, job: JobKey, rows: Sequence[Row], wait_ms: int) -> bool:
        device_ids = [row["device_id"] for row in rows]
        ((count,),) = await self._fetch(
            "SELECT jobs.time_out_executions($1, $2, $3, $4)", *job, device_ids, wait_ms
        )
        self.finished["TIMED_OUT"] += count
        self._on_write(job[0])
        return bool(count)

    async def _open_due_stage(self, job: JobKey, rows: Sequence[Row], wait_ms: int) -> bool:
        ((done,),) = await self._fetch("SELECT jobs.open_due_stage($1, $2, $3)", *job, wait_ms)
        self._on_write(job[0])
        return bool(done)

    async def _finalize(self, job: JobKey, rows: Sequence[Row], wait_ms: int) -> bool:
        after: str | None = ""
        while after is not None:
            ((after, timed_out, rejected),) = await self._fetch(
                "SELECT * FROM jobs.finalize_executions($1, $2, $3, $4, $5)",
                *(*job, after, _EXECUTIONS_PER_STATEMENT, wait_ms),
            )
            self.finished["TIMED_OUT"] += timed_out
            self.finished["REJECTED"] += rejected
        return True

    async def _apply_retention(self, job: JobKey, rows: Sequence[Row], wait_ms: int) -> bool:
        ((done,),) = await self._fetch(
            "SELECT jobs.apply_retention($1, $2, $3, $4)", *job, self._retention_days, wait_ms
        )
        return bool(done)

    async def _purge(self, job: JobKey, rows: Sequence[Row], wait_ms: int) -> bool:
        after: str | None = ""
        while after is not None:
            ((after,),) = await self._fetch(
                "SELECT jobs.purge_job($1, $2, $3, $4, $5)",
                *(*job, after, _EXECUTIONS_PER_STATEMENT, wait_ms),
            )
        return True
