"""The limit of the transport: grpc.aio answering with a message that it has at hand.

`python -m bench.echo ADDRESS METHOD` reads the answer, serialized, from stdin. METHOD is
GetJob, or ReportExecutions, which answers each message of a stream.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb


class _Jobs(jobs_pb2_grpc.JobServiceServicer):
    def __init__(self, answer: bytes) -> None:
        self._answer = pb.GetJobResponse.FromString(answer)

    async def GetJob(self, request: pb.GetJobRequest, context: object) -> pb.GetJobResponse:
        return self._answer


class _DeviceJobs(device_jobs_pb2_grpc.DeviceJobServiceServicer):
    def __init__(self, answer: bytes) -> None:
        self._answer = device_pb.ReportExecutionsResponse.FromString(answer)

    async def ReportExecutions(
        self, request_iterator: AsyncIterator[device_pb.ReportExecutionsRequest], context: object
    ) -> AsyncIterator[device_pb.ReportExecutionsResponse]:
        async for _ in request_iterator:
            yield self._answer


async def _serve(address: str, method: str, answer: bytes) -> None:
    server = grpc.aio.server()
    if method == "GetJob":
        jobs_pb2_grpc.add_JobServiceServicer_to_server(_Jobs(answer), server)
    else:
        device_jobs_pb2_grpc.add_DeviceJobServiceServicer_to_server(_DeviceJobs(answer), server)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2], sys.stdin.buffer.read()))
