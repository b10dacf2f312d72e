"""One hot job: reports a second, and how the document's design completes a job.

It completes a job by looking, after each report, for what remains: an UPDATE and a COUNT,
each in its own transaction. It is given 32 connections and no service around it. The service
is given 32 streams, and so is an echo, which shows what the transport alone can do.
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
from bench.calls import DEVICES, TENANT, Void, rpc
from bench.environment import Environment, Server
from bench.h2load import together
from bench.measure import DOCUMENT, ECHO, LIMIT, SERVICE, Results, Scale, alternate

REPORTERS = 32
_DEVICES = 50_000

# A statement; what a batch of the service has at most.
_BATCH = 500

# Answers differ in their times; one with an error is 50 bytes shorter.
_VARIES = 4

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
    """report: a second."""
    await env.empty()
    devices = max(_DEVICES if scale.reports > 1000 else 1000, scale.reports)
    await seed.fleet(env, TENANT, devices)
    case = f"a job of {devices:,}"
    async with env.serving() as service:
        await seed.job(env, TENANT, "streamed-x")
        like = await _answer(service, "streamed-x")
        async with env.echoing("ReportExecutions", like) as echo:
            for warmed in (service, echo):
                await _streamed(warmed, "streamed-x", scale, like)
            for number in range(scale.runs):
                # Each in turn on a fresh job of its own.
                streamed, bare = f"streamed-{number}", f"bare-{number}"
                await seed.job(env, TENANT, streamed)
                await seed.job(env, TENANT, bare)
                await env.settle()
                subjects = {
                    DOCUMENT: partial(one_by_one, env, TENANT, bare, max(100, scale.reports // 20)),
                    SERVICE: partial(_streamed, service, streamed, scale, like),
                    LIMIT: partial(_bare, env, bare, scale),
                    ECHO: partial(_streamed, echo, streamed, scale, like),
                }
                await alternate(results, "report", case, "/s", 1, subjects)
                await _expect(service, streamed, scale.reports)


async def one_by_one(
    env: Environment, tenant: str, job_id: str, reports: int, devices: Iterable[str] = ()
) -> float:
    """Reports a second in the document's design, of these devices in turn, or each of its own."""
    names = list(devices) or [f"d{number:07}" for number in range(reports)]
    numbers = iter(range(reports))

    async def reporter(connection: asyncpg.Connection) -> None:
        for number in numbers:
            await connection.execute(
                "UPDATE job_executions SET status = 'SUCCEEDED', last_updated_at = now()"
                " WHERE tenant_id = $1 AND job_id = $2 AND device_id = $3",
                tenant,
                job_id,
                names[number % len(names)],
            )
            await connection.fetchval(
                "SELECT COUNT(*) FROM job_executions WHERE tenant_id = $1 AND job_id = $2"
                " AND status NOT IN ('SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED')",
                tenant,
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


async def _streamed(server: Server, job_id: str, scale: Scale, like: bytes) -> float:
    """Each reporter opens a stream and sends its reports at once; the server holds it back.

    The client is h2load: one in Python would take two thirds of the CPU that the server takes.
    """
    streams = [
        rpc(
            server.address,
            "ReportExecutions",
            *(_report(job_id, number) for number in range(first, scale.reports, REPORTERS)),
            service=DEVICES,
        )
        for first in range(REPORTERS)
    ]
    seconds = await together(
        [[stream] for stream in streams], answers=scale.reports, like=like, varies=_VARIES
    )
    return scale.reports / seconds


def _report(job_id: str, number: int) -> device_pb.ReportExecutionsRequest:
    update = device_pb.UpdateExecutionRequest(job_id=job_id, status=pb.JobExecution.SUCCEEDED)
    return device_pb.ReportExecutionsRequest(device_id=f"d{number:07}", report=update)


async def _answer(server: Server, job_id: str) -> bytes:
    """What one report is answered with, serialized."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
        stream = stub.ReportExecutions(iter([_report(job_id, 0)]), metadata=_METADATA)
        answers = [answer async for answer in stream]
    if [answer.WhichOneof("result") for answer in answers] != ["execution"]:
        raise Void(f"a report was answered {answers}")
    return bytes(answers[0].SerializeToString())


async def _expect(server: Server, job_id: str, reports: int) -> None:
    """All have been stored: sizes alone would not tell a few errors among many answers."""
    answer = await rpc(server.address, "GetJob", pb.GetJobRequest(job_id=job_id)).once()
    counted = pb.GetJobResponse.FromString(answer.body).job.succeeded_count
    if counted != reports:
        raise Void(f"of {reports} reports {counted} are counted")
