"""Reports per second for one job.

The service and the echo server receive 32 streams. The reference design completes a job by
counting, after each report, the executions that are not finished: an UPDATE and a COUNT, each in
its own transaction. These statements run on 32 connections, without a FastAPI service around them.
"""

import asyncio
import time
from collections.abc import Iterable
from functools import partial

import asyncpg
import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.environment import Environment, Server
from bench.figures import BASELINE, ECHO, FASTAPI, SERVICE, Results, Scale, alternate
from bench.h2load import run_clients
from bench.requests import DEVICES, TENANT, InvalidRun, grpc_call

REPORTERS = 32
_DEVICES = 50_000

# Reports per statement, the most that a batch of the service has.
_BATCH = 500

# Timestamps differ in length by some bytes; a response with an error is 50 bytes shorter.
_SIZE_TOLERANCE = 4

_METADATA = (("x-tenant-id", TENANT),)

_BARE_UPDATE = """
    UPDATE jobs.job_executions SET status = 'SUCCEEDED', version = version + 1,
        last_updated_at = now()
    WHERE tenant_id = $1 AND job_id = $2 AND device_id = ANY ($3::text[]) AND status = 'QUEUED'
"""
_BARE_COUNT = """
    UPDATE jobs.job_progress SET queued = queued - $3, succeeded = succeeded + $3
    WHERE tenant_id = $1 AND job_id = $2
"""


async def run(env: Environment, scale: Scale, results: Results) -> None:
    """Measure report, in reports per second."""
    await env.clear()
    devices = max(_DEVICES if scale.reports > 1000 else 1000, scale.reports)
    await seed.insert_devices(env, TENANT, devices)
    case = f"a job of {devices:,} devices"
    async with env.service_server() as service:
        await seed.insert_job(env, TENANT, "streamed-x")
        like = await _sample_response(service, "streamed-x")
        async with env.echo_server("ReportExecutions", like) as echo:
            for server in (service, echo):
                await _streamed(server, "streamed-x", scale, like)
            for number in range(scale.runs):
                # Each run uses its own new job.
                streamed, bare = f"streamed-{number}", f"bare-{number}"
                await seed.insert_job(env, TENANT, streamed)
                await seed.insert_job(env, TENANT, bare)
                await env.vacuum()
                subjects = {
                    FASTAPI: partial(
                        report_one_by_one, env, TENANT, bare, max(100, scale.reports // 20)
                    ),
                    SERVICE: partial(_streamed, service, streamed, scale, like),
                    BASELINE: partial(_bare_sql, env, bare, scale),
                    ECHO: partial(_streamed, echo, streamed, scale, like),
                }
                await alternate(results, "report", case, "/s", 1, subjects)
                await _check_stored(service, streamed, scale.reports)


async def report_one_by_one(
    env: Environment, tenant: str, job_id: str, reports: int, devices: Iterable[str] = ()
) -> float:
    """Run the statements of the reference design for each report; return reports per second.

    The reports are of `devices` in turn, or by default each of another device.
    """
    device_ids = list(devices) or [f"d{number:07}" for number in range(reports)]
    numbers = iter(range(reports))

    async def reporter(connection: asyncpg.Connection) -> None:
        for number in numbers:
            await connection.execute(
                "UPDATE job_executions SET status = 'SUCCEEDED', last_updated_at = now()"
                " WHERE tenant_id = $1 AND job_id = $2 AND device_id = $3",
                tenant,
                job_id,
                device_ids[number % len(device_ids)],
            )
            await connection.fetchval(
                "SELECT COUNT(*) FROM job_executions WHERE tenant_id = $1 AND job_id = $2"
                " AND status NOT IN ('SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED')",
                tenant,
                job_id,
            )

    connections = [await env.connect_fastapi() for _ in range(REPORTERS)]
    started = time.perf_counter()
    await asyncio.gather(*map(reporter, connections))
    seconds = time.perf_counter() - started
    for connection in connections:
        await connection.close()
    return reports / seconds


async def _bare_sql(env: Environment, job_id: str, scale: Scale) -> float:
    """Write the rows that the reports write, in batches of bare SQL."""
    names = [f"d{number:07}" for number in range(scale.reports)]
    started = time.perf_counter()
    for first in range(0, len(names), _BATCH):
        batch = names[first : first + _BATCH]
        async with env.service.transaction():
            await env.service.execute(_BARE_COUNT, TENANT, job_id, len(batch))
            await env.service.execute(_BARE_UPDATE, TENANT, job_id, batch)
    return len(names) / (time.perf_counter() - started)


async def _streamed(server: Server, job_id: str, scale: Scale, like: bytes) -> float:
    """Send all reports on 32 streams as fast as the server reads them; return reports per second.

    The client is h2load: a Python client would use two thirds of the CPU that the server uses.
    """
    streams = [
        grpc_call(
            server.address,
            "ReportExecutions",
            *(_report(job_id, number) for number in range(first, scale.reports, REPORTERS)),
            service=DEVICES,
        )
        for first in range(REPORTERS)
    ]
    seconds = await run_clients(
        [[stream] for stream in streams],
        responses=scale.reports,
        sample_response=like,
        size_tolerance=_SIZE_TOLERANCE,
    )
    return scale.reports / seconds


def _report(job_id: str, number: int) -> device_pb.ReportExecutionsRequest:
    update = device_pb.UpdateExecutionRequest(job_id=job_id, status=pb.JobExecution.SUCCEEDED)
    return device_pb.ReportExecutionsRequest(device_id=f"d{number:07}", report=update)


async def _sample_response(server: Server, job_id: str) -> bytes:
    """Send one report and return the serialized response."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
        stream = stub.ReportExecutions(iter([_report(job_id, 0)]), metadata=_METADATA)
        responses = [response async for response in stream]
    if [response.WhichOneof("result") for response in responses] != ["execution"]:
        raise InvalidRun(f"a report returned {responses}")
    return bytes(responses[0].SerializeToString())


async def _check_stored(server: Server, job_id: str, reports: int) -> None:
    """Raise InvalidRun unless all reports are stored; the size check tolerates a few errors."""
    response = await grpc_call(server.address, "GetJob", pb.GetJobRequest(job_id=job_id)).send()
    counted = pb.GetJobResponse.FromString(response.body).job.succeeded_count
    if counted != reports:
        raise InvalidRun(f"{counted} of {reports} reports are counted")
