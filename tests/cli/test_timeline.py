"""`jobs-grpc timeline` on terminals; the transcript timeline.txt has its lines."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.cli import run_on_terminal, spawn
from tests.support.scripted_server import running_scripted_server

_MINUTE = 60


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """A server with a job of four devices, of which one succeeded and one failed."""
    buckets = [
        pb.TimelineBucket(time=Timestamp(seconds=_MINUTE), succeeded_count=1),
        pb.TimelineBucket(time=Timestamp(seconds=2 * _MINUTE), failed_count=1),
    ]
    timeline = pb.GetJobTimelineResponse(
        computed_at=Timestamp(seconds=5 * _MINUTE),
        bucket_size=Duration(seconds=1),
        buckets=buckets,
    )
    job = pb.Job(job_id="j", total_executions=4, created_at=Timestamp())
    response = pb.GetJobResponse(job=job)
    async with running_scripted_server(GetJobTimeline=timeline, GetJob=response) as server:
        yield server.address


@pytest.mark.parametrize("no_color", ["", "1"])
async def test_timeline_has_colors_on_a_terminal_unless_no_color_is_set(
    address: str, no_color: str
) -> None:
    code, shown = await run_on_terminal(
        "timeline", "j", "--server", address, "--tenant", "t", NO_COLOR=no_color
    )

    assert code == 0
    assert ("\x1b[31m×" in shown) != bool(no_color)
    assert "│" in shown


async def test_timeline_is_ascii_if_the_output_has_no_other_characters(address: str) -> None:
    process = await spawn(
        "timeline", "j", "--server", address, "--tenant", "t", PYTHONIOENCODING="ascii"
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()

    lines = out.decode("ascii").splitlines()
    assert err == b""
    assert lines[2] == "# succeeded 1  x failed 1"
    assert lines[-2] == f"0 +{'-' * 76}"
    assert "\\" not in out.decode()
