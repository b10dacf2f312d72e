"""One hot job: reports a second, and how the document's design completes a job.

It completes a job by looking, after each report, for what remains: an UPDATE and a COUNT,
each in its own transaction. It is given 32 connections and no service around it.
"""

import asyncio
import time
from collections.abc import Iterable

import asyncpg
import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.calls import TENANT, Void, rpc
from bench.environment import Environment, Server
from bench.measure import DOCUMENT, LIMIT, SERVICE, Results, Scale, alternate
from bench.workloads.calls import rate

REPORTERS = 32
_DEVICES = 50_000

# A statement; what a batch of the service has at most.
_BATCH = 500

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
    """report, update: a second."""
    await env.empty()
    devices = max(_DEVICES if scale.reports > 1000 else 1000, scale.reports)
    await seed.fleet(env, TENANT, devices)
    case = f"a job of {devices:,}"
    async with env.serving() as service:
        for number in range(scale.runs):
            # Each in turn on a fresh job of its own.
            for job_id in ("streamed", "bare"):
                await seed.job(env, TENANT, f"{job_id}-{number}")
            await env.settle()
            one_by_one = await _one_by_one(env, f"bare-{number}", max(100, scale.reports // 20))
            results.add("report", case, DOCUMENT, "/s", one_by_one)
            results.add(
                "report", case, SERVICE, "/s", await _streamed(service, f"streamed-{number}", scale)
            )
            results.add("report", case, LIMIT, "/s", await _bare(env, f"bare-{number}", scale))
        await _updates(env, scale, results, service, case)


async def _updates(
    env: Environment, scale: Scale, results: Results, service: Server, case: str
) -> None:
    """Progress of one device, a call each, by 16 callers at once: one row, one mutex."""
    await seed.job(env, TENANT, "updated")
    call = rpc(
        service.address,
        "UpdateExecution",
        device_pb.UpdateExecutionRequest(job_id="updated", status=pb.JobExecution.IN_PROGRESS),
        device="d0000000",
        service="fleet.jobs.v1.DeviceJobService",
    )

    async def one_by_one() -> float:
        return await _one_by_one(env, "updated", max(100, scale.reports // 20), ["d0000000"])

    await alternate(
        results,
        "update",
        case,
        "/s",
        scale.runs,
        {SERVICE: rate(call, scale, varies=16), DOCUMENT: one_by_one},
    )


async def _one_by_one(
    env: Environment, job_id: str, reports: int, devices: Iterable[str] = ()
) -> float:
    names = list(devices) or [f"d{number:07}" for number in range(reports)]
    numbers = iter(range(reports))

    async def reporter(connection: asyncpg.Connection) -> None:
        for number in numbers:
            await connection.execute(
                "UPDATE job_executions SET status = 'SUCCEEDED', last_updated_at = now()"
                " WHERE tenant_id = $1 AND job_id = $2 AND device_id = $3",
                TENANT,
                job_id,
                names[number % len(names)],
            )
            await connection.fetchval(
                "SELECT COUNT(*) FROM job_executions WHERE tenant_id = $1 AND job_id = $2"
                " AND status NOT IN ('SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED')",
                TENANT,
                job_id,
            )

    connections = [await env.connect_document() for _ in range(REPORTERS)]
    started = time.perf_counter()
    await asyncio.gather(*map(reporter, connections))
    seconds = time.perf_counter() - started
    for connection in connections:
        await connection.close()
    return reports / seconds


async def _bare(env: Environment, job_id: str, scale: Scale) -> float:
    """The rows that the reports write, in batches, and nothing else."""
    names = [f"d{number:07}" for number in range(scale.reports)]
    started = time.perf_counter()
    for first in range(0, len(names), _BATCH):
        batch = names[first : first + _BATCH]
        async with env.service.transaction():
            await env.service.execute(_BARE_COUNT, TENANT, job_id, len(batch))
            await env.service.execute(_BARE_UPDATE, TENANT, job_id, batch)
    return len(names) / (time.perf_counter() - started)


async def _streamed(server: Server, job_id: str, scale: Scale) -> float:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)

        async def reporter(first: int) -> int:
            stream = stub.ReportExecutions(metadata=_METADATA)

            async def write() -> None:
                for number in range(first, scale.reports, REPORTERS):
                    update = device_pb.UpdateExecutionRequest(
                        job_id=job_id, status=pb.JobExecution.SUCCEEDED
                    )
                    await stream.write(
                        device_pb.ReportExecutionsRequest(device_id=f"d{number:07}", report=update)
                    )
                await stream.done_writing()

            writing = asyncio.create_task(write())
            stored = 0
            async for answer in stream:
                stored += answer.WhichOneof("result") == "execution"
            await writing
            return stored

        started = time.perf_counter()
        stored = sum(await asyncio.gather(*map(reporter, range(REPORTERS))))
        seconds = time.perf_counter() - started
    answer = await rpc(server.address, "GetJob", pb.GetJobRequest(job_id=job_id)).once()
    counted = pb.GetJobResponse.FromString(answer.body).job.succeeded_count
    if not stored == counted == scale.reports:
        raise Void(f"{stored} of {scale.reports} were acknowledged, {counted} counted")
    return scale.reports / seconds
