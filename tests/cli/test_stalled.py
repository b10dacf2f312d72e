"""The devices that `watch` names because they do not report."""

import asyncio
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli import watch_reads
from jobs_grpc.client.operator_client import Pager
from tests.support.waiting import TIMEOUT

# A time of the server's clock, which is far behind that of this machine.
_NOW = 1_000_000_000


class _Jobs:
    """Lists an execution that has not been updated for a minute, after others."""

    def __init__(self, others: int) -> None:
        times = [_NOW] * others + [_NOW - 60]
        self._executions = [
            pb.JobExecution(device_id=f"d{n}", last_updated_at=Timestamp(seconds=seconds))
            for n, seconds in enumerate(times)
        ]

    def executions(self, job_id: str, *, status: Any, page_size: int, limit: int) -> Pager[Any]:
        request = pb.ListJobExecutionsRequest(job_id=job_id, status=status)

        async def read() -> pb.ListJobExecutionsResponse:
            start = int(request.page_token or 0)
            end = start + request.limit
            return pb.ListJobExecutionsResponse(
                executions=self._executions[start:end],
                next_page_token=str(end) if end < len(self._executions) else "",
            )

        return Pager(read, request, "executions", page_size, "", limit)


@pytest.mark.parametrize("others", [1, 150], ids=["few", "more than a page"])
async def test_stalled_device_is_named_while_the_job_changes(
    monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """Also if the clocks of the server and of this machine differ."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda _: sleep(0))
    shown = asyncio.Queue[list[str]]()
    job = pb.Job(
        job_id="j",
        execution_counts=pb.ExecutionCounts(in_progress=others + 1),
        updated_at=Timestamp(seconds=_NOW - 10),
    )

    jobs: Any = _Jobs(others)
    async with (
        asyncio.timeout(TIMEOUT),
        watch_reads.stalled_devices(jobs, shown.put_nowait) as take,
    ):
        while shown.empty():
            take(job)
            await sleep(0)

    assert shown.get_nowait() == [f"no report for 30 s: d{others}"]
