"""A grpc.aio server of WatchPendingExecutions with nothing of the service.

`python -m bench.bare_stream_server ADDRESS` sends a response to each stream when it opens, and on
SIGUSR1 a second one.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1.jobs_pb2 import JobExecution


class _Watches(device_jobs_pb2_grpc.DeviceJobServiceServicer):
    def __init__(self) -> None:
        self.changed = asyncio.Event()

    async def WatchPendingExecutions(
        self, request: pb.WatchPendingExecutionsRequest, context: object
    ) -> AsyncIterator[pb.WatchPendingExecutionsResponse]:
        execution = pb.DeviceExecution(
            job_id="j", device_id="d0000000", document_type="bench", status=JobExecution.QUEUED
        )
        yield pb.WatchPendingExecutionsResponse()
        await self.changed.wait()
        yield pb.WatchPendingExecutionsResponse(executions=[execution])
        await asyncio.Event().wait()


async def _serve(address: str) -> None:
    server = grpc.aio.server(options=[("grpc.server.max_pending_requests", 100_000)])
    watches = _Watches()  # type: ignore[abstract]  # the benchmark calls one method only
    device_jobs_pb2_grpc.add_DeviceJobServiceServicer_to_server(watches, server)
    server.add_insecure_port(address)
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, watches.changed.set)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
