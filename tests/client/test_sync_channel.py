"""The channel for synchronous callers."""

import asyncio
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from jobs_grpc.client import RetryPolicy, sync_channel
from tests.support.scripted_server import Answer, Refusal, running_scripted_server


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_sync_channel_repeats_only_calls_that_are_always_safe(
    quick: RetryPolicy, code: grpc.StatusCode
) -> None:
    away = Refusal(code)
    answers: list[Answer] = [away, pb.GetJobResponse(job=pb.Job(job_id="j"))]
    async with running_scripted_server(GetJob=answers, CreateJob=away) as server:

        def call() -> pb.GetJobResponse:
            with sync_channel(server.address, retry=quick) as channel:
                stub: Any = jobs_pb2_grpc.JobServiceStub(channel)
                with pytest.raises(grpc.RpcError):
                    stub.CreateJob(pb.CreateJobRequest(), timeout=10)
                response: pb.GetJobResponse = stub.GetJob(pb.GetJobRequest(job_id="j"))
                return response

        response = await asyncio.to_thread(call)

    assert response.job.job_id == "j"
    assert server.calls == {"GetJob": 2, "CreateJob": 1}
