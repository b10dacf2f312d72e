"""Watches jobs."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import NamedTuple

from fleet.jobs.v1.jobs_pb2 import WatchJobResponse

from jobs_grpc.byte_budget import ByteBudget, Reservation, response_bytes
from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import JobNotFound
from jobs_grpc.services.pagination import PAUSE_BYTES, max_page_bytes
from jobs_grpc.services.rollout_conversions import job_details_fields
from jobs_grpc.services.watch_hub import WatchHub

# A row can have a document and 100 stages.
_JOBS_PER_FETCH = 32

# The memory of the row of a job and of its encoded response.
_JOB_BYTES = response_bytes(max_page_bytes(0))

# The statuses of jobs that are not finished.
_ACTIVE_STATUSES = ("IN_PROGRESS", "PAUSED")


class _JobState(NamedTuple):
    """A state of a job, with the encoded response for all its watches."""

    response: bytes
    finished: bool
    digest: int

    def __hash__(self) -> int:
        return self.digest


class JobWatch:
    """Watches jobs, which are polled every `interval` seconds.

    `pause` lets other calls run while the jobs of a tenant are converted. `stopping` is set when
    the server begins to stop.
    """

    def __init__(
        self,
        store: Store,
        budget: ByteBudget,
        interval: float,
        stopping: asyncio.Event,
        pause: Callable[[str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._budget = budget
        self._pause = pause
        self._hub = WatchHub(self._changed_jobs, interval, stopping, keys_per_fetch=_JOBS_PER_FETCH)

    @property
    def open_watches(self) -> int:
        """The number of open watches."""
        return self._hub.open_watches

    async def run(
        self, tenant_id: str, job_id: str, write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Write a response with the job, and again after each change, until it is finished.

        Raises JobNotFound, also after the job is deleted, and ServerStopping when the server stops.
        """
        # The bytes of a response, until gRPC has sent it.
        reservation = Reservation(self._budget, tenant_id)
        try:
            with self._hub.watch(tenant_id, job_id) as watch:
                while True:
                    job = await watch.next()
                    if job is None:
                        raise JobNotFound(job_id)
                    size = response_bytes(len(job.response))
                    if not reservation.try_hold(size):
                        # Thousands of streams can wait for bytes, so they keep no job meanwhile.
                        # A later poll delivers the current one.
                        del job
                        await reservation.add(size, None)
                        watch.digest = None
                        continue
                    await write(job.response)
                    reservation.release()
                    if job.finished:
                        return
                    del job  # until the next change
        finally:
            reservation.release()

    async def _changed_jobs(
        self, tenant_id: str, known: Mapping[str, int | None]
    ) -> AsyncGenerator[tuple[str, _JobState | None]]:
        rows = {
            row["job_id"]: row for row in await self._store.get_jobs(tenant_id, job_ids=list(known))
        }
        reservation = Reservation(self._budget, tenant_id)
        # Does not wait, because streams that hold bytes wait for this poll. Not before the
        # statement: the polls of many tenants can wait for a connection, and they hold no rows.
        reservation.correct(len(rows) * _JOB_BYTES)
        unpaused_bytes = 0
        try:
            for job_id, digest in known.items():
                row = rows.pop(job_id, None)
                if row is None:
                    yield job_id, None
                elif (new_digest := hash(row)) != digest:
                    job = _encode(row, new_digest)
                    unpaused_bytes += len(job.response)
                    yield job_id, job
                    del job
                    if unpaused_bytes >= PAUSE_BYTES:
                        unpaused_bytes = 0
                        await self._pause(tenant_id)
        finally:
            reservation.release()


def _encode(row: Row, digest: int) -> _JobState:
    response = WatchJobResponse(job=job_details_fields(row)).SerializeToString()
    return _JobState(response, row["status"] not in _ACTIVE_STATUSES, digest)
