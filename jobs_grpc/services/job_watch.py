"""Watches jobs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

from fleet.jobs.v1.jobs_pb2 import WatchJobResponse

from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import FINISHED_STATUSES, JobNotFound
from jobs_grpc.limits.memory_limit import MemoryLimit, Reservation
from jobs_grpc.services.batch_reader import BatchReader, Encode
from jobs_grpc.services.response_pages import MAX_RESPONSE_BYTES
from jobs_grpc.services.rollout_conversions import MAX_DETAILS_BYTES, job_details_fields
from jobs_grpc.services.schedule import MAX_SCHEDULE_BYTES
from jobs_grpc.services.targets import MAX_TARGET_BYTES
from jobs_grpc.services.watch_group import Changed
from jobs_grpc.services.watch_hub import POLL_INTERVAL, WatchHub

MAX_LABELS_BYTES = 15_000
"""The maximum size of the labels and the description of a Job."""


class _JobState(NamedTuple):
    """A state of a job as an encoded response, which is empty if there is no such job."""

    response: bytes
    finished: bool
    digest: int


class JobWatch:
    """Watches jobs, which are polled every `interval` seconds.

    `yield_now` lets other calls run while the jobs of a tenant are converted. `stopping` is set
    when the server begins to stop.
    """

    def __init__(
        self,
        store: Store,
        memory: MemoryLimit,
        max_document_bytes: int,
        stopping: asyncio.Event,
        yield_now: Callable[[str], Awaitable[None]],
        interval: float = POLL_INTERVAL,
    ) -> None:
        self._store = store
        self._memory = memory
        # The rows of a statement fit the bytes that are reserved for it.
        max_job_bytes = (
            max_document_bytes
            + MAX_DETAILS_BYTES
            + MAX_TARGET_BYTES
            + MAX_LABELS_BYTES
            + MAX_SCHEDULE_BYTES
        )
        self._jobs_per_statement = max(1, MAX_RESPONSE_BYTES // max_job_bytes)
        self.hub = WatchHub(self._changed_fingerprints, interval, stopping)
        store.on_write(self.hub.note_write)
        self._jobs = BatchReader[str, _JobState](
            self._read, memory, interval, stopping, yield_now, noun="the job"
        )

    async def run(
        self, tenant_id: str, job_id: str, write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Write a response with the job, and again after each change, until it is finished.

        Raises JobNotFound, also after the job is deleted, and ServerStopping when the server stops.
        """
        # The bytes of a response, from before it is encoded until gRPC has sent it.
        reservation = Reservation(self._memory, tenant_id)
        sent_digest: int | None = None
        try:
            with self.hub.watch(tenant_id, job_id) as watch:
                while True:
                    await watch.changed()
                    job = await self._jobs.read(tenant_id, job_id, reservation)
                    if not job.response:
                        raise JobNotFound(job_id)
                    # The job can be newer than the poll. Then the next poll finds a change that has
                    # been sent already.
                    if job.digest != sent_digest:
                        sent_digest = job.digest
                        await write(job.response)
                    if job.finished:
                        return
                    del job  # until the next change
                    reservation.release()
        finally:
            reservation.release()

    async def _changed_fingerprints(
        self, tenant_ids: list[str], job_ids: list[str], fingerprints: list[int | None]
    ) -> Changed:
        return await self._store.changed_job_fingerprints(
            tenant_ids, job_ids=job_ids, fingerprints=fingerprints
        )

    async def _read(self, tenant_id: str, job_ids: Sequence[str]) -> Iterator[Encode[_JobState]]:
        """Read jobs, each of them once; see batch_reader.Read."""
        distinct: dict[str, None] = {}
        for count, job_id in enumerate(job_ids):
            if job_id not in distinct and len(distinct) == self._jobs_per_statement:
                job_ids = job_ids[:count]
                break
            distinct[job_id] = None
        rows = {
            row["job_id"]: row
            for row in await self._store.get_jobs(tenant_id, job_ids=list(distinct))
        }

        @cache
        def encode(job_id: str) -> _JobState:
            return _encode(rows.get(job_id))

        return (partial(encode, job_id) for job_id in job_ids)


def _encode(row: Row | None) -> _JobState:
    if row is None:
        return _JobState(b"", finished=True, digest=0)
    response = WatchJobResponse(job=job_details_fields(row)).SerializeToString()
    return _JobState(response, row["status"] in FINISHED_STATUSES, hash(response))
