"""Names the devices that do not report while `watch` shows their job."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import JobsClient, JobsError

# Seconds without a change of the job, and without a report of a device.
_QUIET = 30.0

# Devices that are named, and executions that are read.
_NAMED = 3
_READ = 100


@asynccontextmanager
async def stalled_devices(
    jobs: JobsClient, show: Callable[[list[str]], None]
) -> AsyncIterator[Callable[[pb.Job], None]]:
    """Yield a function that takes each state of the job.

    If none follows for 30 seconds, `show` gets lines about the devices that have not reported for
    as long, and no lines when the job changes. Errors are ignored, because the watch of the job
    reports them.
    """
    changed = asyncio.Event()
    last = pb.Job()

    def take(job: pb.Job) -> None:
        nonlocal last
        last = job
        changed.set()

    async def look() -> None:
        while True:
            try:
                async with asyncio.timeout(_QUIET):
                    await changed.wait()
                changed.clear()
                show([])
            except TimeoutError:
                with suppress(JobsError):
                    lines = await _read(jobs, last) if last.execution_counts.in_progress else []
                    if not changed.is_set():
                        show(lines)

    task = asyncio.create_task(look())
    try:
        yield take
    finally:
        task.cancel()


async def _read(jobs: JobsClient, job: pb.Job) -> list[str]:
    pager = jobs.executions(
        job.job_id, status=pb.JobExecution.IN_PROGRESS, page_size=_READ, limit=_READ
    )
    reported_before = datetime.now(UTC).timestamp() - _QUIET
    devices = [
        execution.device_id
        async for execution in pager
        if execution.last_updated_at.seconds <= reported_before
    ]
    if not devices:
        return []
    lines = [f"no report for {_QUIET:.0f} s: {', '.join(devices[:_NAMED])}"]
    if len(devices) > _NAMED:
        more = "more" if pager.next_page_token else f"{len(devices) - _NAMED} more"
        lines[0] += f" and {more}"
        lines.append(f"  jobs-grpc get {job.job_id} --status IN_PROGRESS  see all")
    return lines
