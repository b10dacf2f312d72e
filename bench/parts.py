"""The parts without the service: grpc.aio and asyncpg, set up as there, and nothing in between.

`python -m bench.parts ADDRESS TENANT [mapping]` reads the answer to GetJob, serialized, from
stdin. For each call it asks the database of PARTS_DSN what the service asks, and throws the rows
away; or, with `mapping`, answers what the service makes of them.
"""

import asyncio
import os
import sys

import asyncpg
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from jobs_grpc.db.connections import set_types
from jobs_grpc.server.grpc_server import make_server
from jobs_grpc.services.conversions import append_executions, job_fields
from jobs_grpc.services.pagination import append_until_full

# As many as the service has at most.
_CONNECTIONS = 10

# What the service asks for by default.
_EXECUTIONS = 1001


class _Parts(jobs_pb2_grpc.JobServiceServicer):
    def __init__(self, tenant: str, answer: pb.GetJobResponse, mapping: bool) -> None:
        self._tenant = tenant
        self._mapping = mapping
        self._answer = answer
        self._idle: asyncio.LifoQueue[asyncpg.Connection] = asyncio.LifoQueue()

    async def connect(self) -> None:
        for _ in range(_CONNECTIONS):
            connection = await asyncpg.connect(os.environ["PARTS_DSN"])
            await set_types(connection)
            self._idle.put_nowait(connection)

    async def GetJob(self, request: pb.GetJobRequest, context: object) -> pb.GetJobResponse:
        connection = await self._idle.get()
        try:
            [row] = await connection.fetch(
                "SELECT * FROM jobs.get_job($1, $2, $3)", self._tenant, request.job_id, _EXECUTIONS
            )
        finally:
            self._idle.put_nowait(connection)
        if not self._mapping:
            return self._answer
        response = pb.GetJobResponse(job=job_fields(row))
        append_until_full(
            response.job.executions, append_executions(response.job.executions, row), _EXECUTIONS
        )
        return response


async def _serve(address: str, parts: _Parts) -> None:
    await parts.connect()
    server = make_server((), 4 * 1024 * 1024, address)
    jobs_pb2_grpc.add_JobServiceServicer_to_server(parts, server)
    server.add_insecure_port(address)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    ready = pb.GetJobResponse.FromString(sys.stdin.buffer.read())
    asyncio.run(_serve(sys.argv[1], _Parts(sys.argv[2], ready, sys.argv[3:] == ["mapping"])))
