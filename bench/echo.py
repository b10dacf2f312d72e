"""The limit of the transport: grpc.aio answering GetJob with a message that it has at hand.

`python -m bench.echo ADDRESS` reads the answer, serialized, from stdin.
"""

import asyncio
import sys

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc


class _Echo(jobs_pb2_grpc.JobServiceServicer):
    def __init__(self, answer: pb.GetJobResponse) -> None:
        self._answer = answer

    async def GetJob(self, request: pb.GetJobRequest, context: object) -> pb.GetJobResponse:
        return self._answer


async def _serve(address: str, answer: pb.GetJobResponse) -> None:
    server = grpc.aio.server()
    jobs_pb2_grpc.add_JobServiceServicer_to_server(_Echo(answer), server)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], pb.GetJobResponse.FromString(sys.stdin.buffer.read())))
