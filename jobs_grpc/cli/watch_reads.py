"""What `watch` reads besides the job: its last events, and the devices that do not report."""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import grpc
from fleet.jobs.v1 import events_pb2 as events_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli.connection import connect
from jobs_grpc.client import EventsClient, JobsClient, JobsError, RetryPolicy

_EVENT_COUNT = 3

# Between two reads. A job can change more often.
_MIN_INTERVAL_SECONDS = 1.0

# Timeout of the last read, when the job is finished.
_LAST_READ_SECONDS = 2.0


@asynccontextmanager
async def last_events(
    args: argparse.Namespace, show: Callable[[list[events_pb.Event]], None]
) -> AsyncIterator[Callable[[], None]]:
    """Yield a function that requests a read: `show` soon gets the last events, oldest first.

    Errors are ignored, because the watch of the job reports them.
    """
    changed = asyncio.Event()
    async with connect(args, RetryPolicy(max_attempts=1), EventsClient) as events:

        async def read() -> None:
            pager = events.list_job_events(
                args.job_id, newest_first=True, page_size=_EVENT_COUNT, limit=_EVENT_COUNT
            )
            show([event async for event in pager][::-1])

        async def read_after_changes() -> None:
            while True:
                await changed.wait()
                changed.clear()
                try:
                    await read()
                except JobsError as e:
                    if e.code is grpc.StatusCode.UNIMPLEMENTED:  # The server is older.
                        return
                await asyncio.sleep(_MIN_INTERVAL_SECONDS)

        task = asyncio.create_task(read_after_changes())
        try:
            yield changed.set
            with suppress(JobsError, TimeoutError):
                async with asyncio.timeout(_LAST_READ_SECONDS):
                    await read()
        finally:
            task.cancel()


# Seconds between two looks, and without a report of a device.
_QUIET = 30.0

# Devices that are named, and executions that are read for them: pages, until there are enough.
_NAMED = 3
_PAGE = 100
_READ = 1000


class _ServerClock:
    """A lower bound of the server's time, from the times that it sends."""

    def __init__(self) -> None:
        self._offset = float("-inf")

    def observe(self, timestamp: Timestamp) -> None:
        self._offset = max(self._offset, _seconds(timestamp) - time.monotonic())

    def now(self) -> float:
        return time.monotonic() + self._offset


@asynccontextmanager
async def stalled_devices(
    jobs: JobsClient, show: Callable[[list[str]], None]
) -> AsyncIterator[Callable[[pb.Job], None]]:
    """Yield a function that takes each state of the job.

    Every 30 seconds, `show` gets lines about the devices that have not reported for as long, or no
    lines. Errors are ignored, because the watch of the job reports them.
    """
    last = pb.Job()
    clock = _ServerClock()

    def take(job: pb.Job) -> None:
        nonlocal last
        last = job
        clock.observe(job.updated_at)
        if not job.execution_counts.in_progress:
            show([])

    async def look() -> None:
        while True:
            await asyncio.sleep(_QUIET)
            if last.execution_counts.in_progress:
                with suppress(JobsError):
                    show(await _read(jobs, last.job_id, clock))

    task = asyncio.create_task(look())
    try:
        yield take
    finally:
        task.cancel()


async def _read(jobs: JobsClient, job_id: str, clock: _ServerClock) -> list[str]:
    status = pb.JobExecution.IN_PROGRESS
    pager = jobs.executions(job_id, status=status, page_size=_PAGE, limit=_READ)
    devices: list[str] = []
    async for page in pager.pages():
        for execution in page:
            clock.observe(execution.last_updated_at)
        reported_before = clock.now() - _QUIET
        devices += [e.device_id for e in page if _seconds(e.last_updated_at) <= reported_before]
        if len(devices) > _NAMED:
            break
    if not devices:
        return []
    lines = [f"no report for {_QUIET:.0f} s: {', '.join(devices[:_NAMED])}"]
    if len(devices) > _NAMED:
        more = "more" if pager.next_page_token else f"{len(devices) - _NAMED} more"
        lines[0] += f" and {more}"
        lines.append(f"  jobs-grpc get {job_id} --status IN_PROGRESS  see all")
    return lines


def _seconds(timestamp: Timestamp) -> float:
    return timestamp.ToNanoseconds() / 1e9
