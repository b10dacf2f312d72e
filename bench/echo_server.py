"""A grpc.aio server that always sends the same response: the upper bound of the transport.

`python -m bench.echo_server ADDRESS METHOD` reads the serialized response from stdin. METHOD is
GetJob, or ReportExecutions, which responds to each message of the stream.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb


class _Jobs(jobs_pb2_grpc.JobServiceServicer):
    def __init__(self, response: bytes) -> None:
        self._response = pb.GetJobResponse.FromString(response)

    async def GetJob(self, request: pb.GetJobRequest, context: object) -> pb.GetJobResponse:
        return self._response


class _DeviceJobs(device_jobs_pb2_grpc.DeviceJobServiceServicer):
    def __init__(self, response: bytes) -> None:
        self._response = device_pb.ReportExecutionsResponse.FromString(response)

    async def ReportExecutions(
        self, request_iterator: AsyncIterator[device_pb.ReportExecutionsRequest], context: object
    ) -> AsyncIterator[device_pb.ReportExecutionsResponse]:
        async for _ in request_iterator:
            yield self._response


async def _serve(address: str, method: str, response: bytes) -> None:
    server = grpc.aio.server()
    if method == "GetJob":
        jobs_pb2_grpc.add_JobServiceServicer_to_server(
            _Jobs(response),  # type: ignore[abstract]  # the benchmark calls GetJob only
            server,
        )
    else:
        device_jobs_pb2_grpc.add_DeviceJobServiceServicer_to_server(
            _DeviceJobs(response),  # type: ignore[abstract]  # it calls ReportExecutions only
            server,
        )
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2], sys.stdin.buffer.read()))
