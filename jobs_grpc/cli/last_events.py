"""Reads the last events of a job while `watch` shows it on a terminal."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import grpc
from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.cli.connection import connect
from jobs_grpc.client import EventsClient, JobsError, RetryPolicy

_COUNT = 3

# Minimum seconds between two reads. A job can change more often.
_INTERVAL = 1.0

# Seconds that the last read may take, when the job is finished.
_LAST_READ = 2.0


@asynccontextmanager
async def last_events(
    args: argparse.Namespace, show: Callable[[list[pb.Event]], None]
) -> AsyncIterator[Callable[[], None]]:
    """Yield a function that requests a read: `show` soon gets the last events, oldest first.

    Errors are ignored, because the watch of the job reports them.
    """
    changed = asyncio.Event()
    async with connect(args, RetryPolicy(max_attempts=1), EventsClient) as events:

        async def read() -> None:
            pager = events.list_job_events(
                args.job_id, newest_first=True, page_size=_COUNT, limit=_COUNT
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
                await asyncio.sleep(_INTERVAL)

        task = asyncio.create_task(read_after_changes())
        try:
            yield changed.set
            with suppress(JobsError, TimeoutError):
                async with asyncio.timeout(_LAST_READ):
                    await read()
        finally:
            task.cancel()
