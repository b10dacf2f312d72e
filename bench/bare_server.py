"""A bare grpc.aio server, whose throughput is the upper bound of the transport.

`python -m bench.bare_server ADDRESS METHOD` reads a serialized response from stdin. GetJob returns
the response. ReportExecutions sends it for each message of the stream. WatchPendingExecutions sends
an empty response first, and the given one on SIGUSR1.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

_RESPONSES: dict[str, Any] = {
    "GetJob": pb.GetJobResponse,
    "ReportExecutions": device_pb.ReportExecutionsResponse,
    "WatchPendingExecutions": device_pb.WatchPendingExecutionsResponse,
}


class _Jobs(jobs_pb2_grpc.JobServiceServicer):
    def __init__(self, response: Any) -> None:
        self._response = response

    async def GetJob(self, request: pb.GetJobRequest, context: object) -> pb.GetJobResponse:
        return self._response  # type: ignore[no-any-return]


class _DeviceJobs(device_jobs_pb2_grpc.DeviceJobServiceServicer):
    def __init__(self, response: Any) -> None:
        self._response = response
        self.changed = asyncio.Event()

    async def ReportExecutions(
        self, request_iterator: AsyncIterator[device_pb.ReportExecutionsRequest], context: object
    ) -> AsyncIterator[device_pb.ReportExecutionsResponse]:
        async for _ in request_iterator:
            yield self._response

    async def WatchPendingExecutions(
        self, request: device_pb.WatchPendingExecutionsRequest, context: object
    ) -> AsyncIterator[device_pb.WatchPendingExecutionsResponse]:
        yield device_pb.WatchPendingExecutionsResponse()
        await self.changed.wait()
        yield self._response
        await asyncio.Event().wait()


async def _serve(address: str, method: str, sent: bytes) -> None:
    response = _RESPONSES[method].FromString(sent)
    server = grpc.aio.server(options=[("grpc.server.max_pending_requests", 100_000)])
    jobs_pb2_grpc.add_JobServiceServicer_to_server(
        _Jobs(response),  # type: ignore[abstract]  # the benchmarks call GetJob only
        server,
    )
    devices = _DeviceJobs(response)  # type: ignore[abstract]  # the same
    device_jobs_pb2_grpc.add_DeviceJobServiceServicer_to_server(devices, server)
    server.add_insecure_port(address)
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, devices.changed.set)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2], sys.stdin.buffer.read()))
