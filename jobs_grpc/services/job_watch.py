"""Watches jobs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing

from fleet.jobs.v1.jobs_pb2 import WatchJobResponse

from jobs_grpc.byte_budget import ByteBudget, Reservation, response_bytes
from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import JobNotFound
from jobs_grpc.services.rollout_conversions import job_details_fields
from jobs_grpc.services.watch_hub import WatchHub

# Jobs that a tenant's watches read at a time. A row can have a document and 100 stages.
_JOBS_PER_FETCH = 100

# The statuses of jobs that are not finished.
_ACTIVE_STATUSES = ("IN_PROGRESS", "PAUSED")


class _WatchedJob:
    """A state of a job, which is encoded once for all its watches."""

    __slots__ = ("_response", "_row", "finished")

    def __init__(self, row: Row) -> None:
        self._row = row
        self._response: bytes | None = None
        self.finished = row["status"] not in _ACTIVE_STATUSES

    def __hash__(self) -> int:
        return hash(self._row)

    def response(self) -> bytes:
        """Return the encoded response."""
        if self._response is None:
            response = WatchJobResponse(job=job_details_fields(self._row))
            self._response = response.SerializeToString()
        return self._response


class JobWatch:
    """Watches jobs, which are polled every `interval` seconds.

    `stopping` is set when the server begins to stop.
    """

    def __init__(
        self, store: Store, budget: ByteBudget, interval: float, stopping: asyncio.Event
    ) -> None:
        self._store = store
        self._budget = budget
        self._hub = WatchHub(self._read, interval, stopping, keys_per_fetch=_JOBS_PER_FETCH)

    @property
    def watchers(self) -> int:
        """The number of open watches."""
        return self._hub.watchers

    async def run(
        self, tenant_id: str, job_id: str, write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Write a response with the job, and again after each change, until it is finished.

        Raises JobNotFound, also after the job is deleted, and ServerStopping when the server stops.
        """
        reservation = Reservation(self._budget, tenant_id)
        try:
            async with aclosing(self._hub.watch(tenant_id, job_id)) as jobs:
                async for job in jobs:
                    if job is None:
                        raise JobNotFound(job_id)
                    await reservation.add(response_bytes(len(job.response())), None)
                    await write(job.response())
                    reservation.release()
                    if job.finished:
                        return
                    del job  # until the next change
        finally:
            reservation.release()

    async def _read(self, tenant_id: str, job_ids: Iterable[str]) -> dict[str, _WatchedJob | None]:
        jobs: dict[str, _WatchedJob | None] = dict.fromkeys(job_ids)
        for row in await self._store.get_jobs(tenant_id, job_ids=list(jobs)):
            jobs[row["job_id"]] = _WatchedJob(row)
        return jobs
