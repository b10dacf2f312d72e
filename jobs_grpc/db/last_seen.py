"""Stores when devices were last seen, in batches: the column jobs.devices.last_seen_at."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db.connect import abort, connect
from jobs_grpc.db.database import Database
from jobs_grpc.db.interrupted_statements import fetch_with_repeats
from jobs_grpc.db.outage import describe
from jobs_grpc.db.pg_errors import is_outage

logger = logging.getLogger(__name__)

MAX_QUEUED = 200_000
"""Most devices that wait to be stored: up to 60 MB. One tenant has at most half of them."""

CONNECTIONS = 1
"""Connections of each process, in addition to its pool."""

UPDATE_LAST_SEEN = "SELECT jobs.update_last_seen($1, $2, $3, $4)"
INSERT_LAST_SEEN = "SELECT jobs.insert_last_seen($1, $2, $3)"

# Limits how long a statement locks rows: about 35 ms. Smaller batches cost more for each device.
_DEVICES_PER_STATEMENT = 5000

# The devices of open watches are marked this often; less often with a longer interval.
_WATCH_SECONDS = 60.0

# Devices of watches that are marked in one iteration of the event loop.
_MARKS_PER_ITERATION = 1000

# Storing the last marks takes at most this long. 100,000 take about a second.
_CLOSE_TIMEOUT = 5.0


class LastSeen:
    """When devices last called this process, until it is stored every JOBS_LAST_SEEN_INTERVAL.

    A call only marks its device in memory. `run` has a connection of its own, so calls never wait
    for it. If JOBS_LAST_SEEN_INTERVAL is 0, nothing is marked.
    """

    def __init__(self, config: Config, database: Database) -> None:
        self._interval = config.maintenance.last_seen_interval
        self._config = config.database
        self._database = database
        database.outage.on_new_server(self._abort_connection)
        self._connection: asyncpg.Connection | None = None
        # By tenant and device: when it was seen, as time.monotonic.
        self._marks: dict[str, dict[str, float]] = {}
        # The numbers of open watches by tenant and device.
        self._watches: Counter[tuple[str, str]] = Counter()
        self._next_marks_of_watches = time.monotonic() + _WATCH_SECONDS
        self._failing = False
        self.queued = 0
        """The number of marks that are not stored."""
        self.dropped = 0
        """How many marks were dropped, because too many others were not stored."""

    @property
    def enabled(self) -> bool:
        """Whether `run` must run."""
        return self._interval > 0

    def mark(self, tenant_id: str, device_id: str) -> None:
        """Note that a device was seen now."""
        if not self._interval:
            return
        devices = self._marks.get(tenant_id)
        if devices is None or device_id not in devices:
            # The more marks a tenant has, the more room it must leave to the other tenants.
            if len(devices or ()) >= MAX_QUEUED - self.queued:
                self.dropped += 1
                return
            self.queued += 1
            if devices is None:
                devices = self._marks[tenant_id] = {}
        devices[device_id] = time.monotonic()

    @contextmanager
    def watching(self, tenant_id: str, device_id: str) -> Iterator[None]:
        """Mark a device now, and once a minute within the block."""
        self.mark(tenant_id, device_id)
        watch = (tenant_id, device_id)
        self._watches[watch] += 1
        try:
            yield
        finally:
            self._watches[watch] -= 1
            if not self._watches[watch]:
                del self._watches[watch]

    async def run(self) -> None:
        """Store the marks every JOBS_LAST_SEEN_INTERVAL, until canceled."""
        this_task = asyncio.current_task()
        assert this_task is not None  # noqa: S101 - coroutines run in tasks
        # Not `while True`: asyncpg can replace a CancelledError by another error, caught below.
        while not this_task.cancelling():
            await asyncio.sleep(self._interval)
            await self._mark_watches()
            await self._store()

    async def close(self, grace: float) -> None:
        """Store what is left, within at most `grace` seconds. `run` must have ended."""
        try:
            async with asyncio.timeout(min(grace, _CLOSE_TIMEOUT)):
                await self._store()
        except TimeoutError:
            logger.warning("%d times at which devices were last seen are not stored", self.queued)
        finally:
            self._drop_connection()

    async def _mark_watches(self) -> None:
        now = time.monotonic()
        if now < self._next_marks_of_watches:
            return
        self._next_marks_of_watches = now + _WATCH_SECONDS
        for number, watch in enumerate(list(self._watches), 1):
            self.mark(*watch)
            if number % _MARKS_PER_ITERATION == 0:
                await asyncio.sleep(0)

    async def _store(self) -> None:
        """Store all marks. Those that could not be stored stay."""
        if self._database.pool is None or self._database.outage.active:
            return
        failure: Exception | None = None
        for tenant_id in list(self._marks):
            try:
                await self._store_tenant(tenant_id)
            except Exception as e:
                failure = e
                if is_outage(e):
                    break
        if failure and not self._failing and not self._database.outage.active:
            expected = isinstance(failure, asyncpg.PostgresError) or is_outage(failure)
            logger.warning(
                "could not store when devices were last seen; retrying every %g s"
                " (JOBS_LAST_SEEN_INTERVAL): %s",
                self._interval,
                describe(failure),
                exc_info=None if expected else failure,
            )
        self._failing = failure is not None

    async def _store_tenant(self, tenant_id: str) -> None:
        marks = self._marks[tenant_id]
        device_ids = list(marks)
        for start in range(0, len(device_ids), _DEVICES_PER_STATEMENT):
            # Sorted within a batch, to read the rows of a page one after another. Not across
            # batches: so a transaction changes few rows of each page, and updates stay HOT.
            batch = sorted(device_ids[start : start + _DEVICES_PER_STATEMENT])
            times = [marks[device_id] for device_id in batch]
            await self._store_batch(tenant_id, batch, times)
            for device_id, seen in zip(batch, times, strict=True):
                # The device may have been seen again meanwhile.
                if marks[device_id] == seen:
                    del marks[device_id]
                    self.queued -= 1
        if not marks:
            del self._marks[tenant_id]

    async def _store_batch(self, tenant_id: str, device_ids: list[str], times: list[float]) -> None:
        now = time.monotonic()
        ages = [now - seen for seen in times]
        if await self._fetch(UPDATE_LAST_SEEN, tenant_id, device_ids, ages, self._interval):
            await self._fetch(INSERT_LAST_SEEN, tenant_id, device_ids, ages)

    async def _fetch(self, statement: str, *args: object) -> object:
        """Return the value of a statement."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self._config.url, statement_cache_size=self._config.statement_cache_size
            )
        try:
            rows = await fetch_with_repeats(
                self._connection, self._config.query_timeout, statement, *args
            )
            return rows[0][0]
        except asyncpg.PostgresError:
            raise  # The connection is intact, or asyncpg has closed it.
        except BaseException:
            self._drop_connection()
            raise

    def _abort_connection(self) -> None:
        if self._connection is not None:
            abort(self._connection)

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
