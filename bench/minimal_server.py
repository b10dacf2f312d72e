"""grpc.aio and asyncpg with the settings of the service, and nothing in between.

`python -m bench.minimal_server ADDRESS TENANT [convert]` reads a serialized GetJobResponse from
stdin. Each call runs the service's statement in the database of MINIMAL_DSN, discards the rows
and sends that response; with `convert` it converts the rows to a response as the service does.
"""

import asyncio
import os
import sys
from typing import Any

import asyncpg
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from jobs_grpc.config import LimitsConfig
from jobs_grpc.db.connection_pool import prepare_connection
from jobs_grpc.rpc.method_table import MethodTable
from jobs_grpc.server.grpc_server import make_server
from jobs_grpc.services.execution_page import append_executions
from jobs_grpc.services.row_conversions import job_fields

# The service's default JOBS_POOL_MAX_SIZE.
_CONNECTIONS = 10

# What the service passes by default: its executions_limit plus one.
EXECUTIONS_LIMIT = 1001


async def _pause() -> None:
    await asyncio.sleep(0)


class _MinimalJobs(jobs_pb2_grpc.JobServiceServicer):
    def __init__(self, tenant: str, response: pb.GetJobResponse, convert: bool) -> None:
        self._tenant = tenant
        self._convert = convert
        self._response = response
        self._idle: asyncio.LifoQueue[asyncpg.Connection] = asyncio.LifoQueue()

    async def connect(self) -> None:
        for _ in range(_CONNECTIONS):
            connection = await asyncpg.connect(os.environ["MINIMAL_DSN"])
            await prepare_connection(connection)
            self._idle.put_nowait(connection)

    async def GetJob(self, request: pb.GetJobRequest, context: object) -> pb.GetJobResponse:
        connection = await self._idle.get()
        try:
            [row] = await connection.fetch(
                "SELECT * FROM jobs.get_job($1, $2, $3)",
                self._tenant,
                request.job_id,
                EXECUTIONS_LIMIT,
            )
        finally:
            self._idle.put_nowait(connection)
        if not self._convert:
            return self._response
        response = pb.GetJobResponse(job=job_fields(row))
        await append_executions(response.job, row, EXECUTIONS_LIMIT, _pause)
        return response


async def _serve(address: str, servicer: _MinimalJobs) -> None:
    await servicer.connect()
    # Without the pipeline: each handler is registered as it is.
    methods: Any = MethodTable(lambda _, handler: handler)
    jobs_pb2_grpc.add_JobServiceServicer_to_server(servicer, methods)
    server = make_server(methods, LimitsConfig(), address)
    server.add_insecure_port(address)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    response = pb.GetJobResponse.FromString(sys.stdin.buffer.read())
    servicer = _MinimalJobs(  # type: ignore[abstract]  # the benchmark calls GetJob only
        sys.argv[2], response, sys.argv[3:] == ["convert"]
    )
    asyncio.run(_serve(sys.argv[1], servicer))
