"""Reports per second for one job, one per message and a hundred per message.

The service and the echo server receive 32 streams. The reference design completes a job by
counting, after each report, the executions that are not finished: an UPDATE and a COUNT, each in
its own transaction. These statements run on 32 connections, without a FastAPI service around them.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from functools import partial

import asyncpg
import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.figures import BASELINE, ECHO, FASTAPI, SERVICE, Measure
from bench.h2load import run_clients
from bench.peers import Peers
from bench.process import Server
from bench.requests import DEVICE_JOB_SERVICE, TENANT, grpc_call
from bench.run import InvalidRun
from bench.workloads import Bench

REPORTERS = 32
_DEVICES = 50_000

# Reports per statement, the most that a batch of the service has.
_BATCH = 500

# Reports per message, where a message has several: the most that the service accepts.
_PER_MESSAGE = 100

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


async def run(bench: Bench) -> None:
    """Measure report, in reports per second."""
    await bench.env.clear()
    reports = bench.scale.reports
    devices = max(_DEVICES if reports > 1000 else 1000, reports)
    await seed.insert_devices(bench.env, TENANT, devices)
    case = f"a job of {devices:,} devices"
    # All messages have the same number of reports, so that the sizes of responses can be checked.
    per_message = min(_PER_MESSAGE, reports // REPORTERS)
    per_stream = 2 * reports // REPORTERS // per_message * per_message
    several = f"{case}, {per_message} reports per message"
    async with bench.env.server() as service:
        await _compare(bench, service, case, reports, 1)
        await _compare(bench, service, several, REPORTERS * per_stream, per_message)


async def _compare(
    bench: Bench, service: Server, case: str, reports: int, per_message: int
) -> None:
    env = bench.env
    sample_job = f"reported-{per_message}-s"  # as long as the IDs of the other jobs
    await seed.insert_job(env, TENANT, sample_job)
    sample = await _send_sample(service, _message(sample_job, range(per_message)))
    async with env.echo_server("ReportExecutions", sample) as echo:
        for server in (service, echo) if per_message == 1 else ():  # a warm-up
            messages = _messages(sample_job, reports, per_message)
            await _measure_streams(server, messages, reports, sample)
        for number in range(bench.scale.runs):
            # Each run uses its own new jobs.
            job, bare_job = f"reported-{per_message}-{number}", f"bare-{per_message}-{number}"
            for name in (job, bare_job):
                await seed.insert_job(env, TENANT, name)
            await env.vacuum()
            messages = _messages(job, reports, per_message)
            subjects: dict[str, Measure] = {}
            if per_message == 1:
                count = max(100, reports // 20)
                subjects[FASTAPI] = partial(run_reference_statements, env, TENANT, bare_job, count)
            for subject, server in ((SERVICE, service), (ECHO, echo)):
                subjects[subject] = partial(
                    _measure_streams, server, messages, reports, sample, per_message
                )
            subjects[BASELINE] = partial(_measure_bare_sql, env, bare_job, reports)
            await bench.in_turn("report", case, "/s", runs=1, **subjects)
            await _check_stored(service, job, reports)


def _messages(
    job_id: str, reports: int, per_message: int
) -> list[list[device_pb.ReportExecutionsRequest]]:
    """Return the messages of each stream."""
    return [
        [
            _message(job_id, numbers[first : first + per_message])
            for first in range(0, len(numbers), per_message)
        ]
        for numbers in (range(first, reports, REPORTERS) for first in range(REPORTERS))
    ]


async def run_reference_statements(
    env: Peers, tenant: str, job_id: str, reports: int, devices: Iterable[str] = ()
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


async def _measure_bare_sql(env: Peers, job_id: str, reports: int) -> float:
    """Write the rows that the reports write, in batches of bare SQL."""
    names = [f"d{number:07}" for number in range(reports)]
    started = time.perf_counter()
    for first in range(0, len(names), _BATCH):
        batch = names[first : first + _BATCH]
        async with env.owner.transaction():
            await env.owner.execute(_BARE_COUNT, TENANT, job_id, len(batch))
            await env.owner.execute(_BARE_UPDATE, TENANT, job_id, batch)
    return len(names) / (time.perf_counter() - started)


async def _measure_streams(
    server: Server,
    messages: Sequence[Sequence[device_pb.ReportExecutionsRequest]],
    reports: int,
    sample_response: bytes,
    per_message: int = 1,
) -> float:
    """Send each stream its messages as fast as the server reads them; return reports per second.

    The client is h2load: a Python client would use two thirds of the CPU that the server uses.
    """
    streams = [
        grpc_call(server.address, "ReportExecutions", *stream, service=DEVICE_JOB_SERVICE)
        for stream in messages
    ]
    seconds = await run_clients(
        [[stream] for stream in streams],
        responses=reports // per_message,
        sample_response=sample_response,
        size_tolerance=_SIZE_TOLERANCE * per_message,
    )
    return reports / seconds


def _message(job_id: str, numbers: Sequence[int]) -> device_pb.ReportExecutionsRequest:
    """A message with a report of each device, one or several."""
    report = _succeeded(job_id)
    if len(numbers) == 1:
        return device_pb.ReportExecutionsRequest(device_id=_device(numbers[0]), report=report)
    return device_pb.ReportExecutionsRequest(
        reports=[
            device_pb.ExecutionReport(device_id=_device(number), report=report)
            for number in numbers
        ]
    )


def _succeeded(job_id: str) -> device_pb.UpdateExecutionRequest:
    return device_pb.UpdateExecutionRequest(job_id=job_id, status=pb.JobExecution.SUCCEEDED)


def _device(number: int) -> str:
    return f"d{number:07}"


async def _send_sample(server: Server, request: device_pb.ReportExecutionsRequest) -> bytes:
    """Send a message and return the serialized response."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
        stream = stub.ReportExecutions(iter([request]), metadata=_METADATA)
        responses = [response async for response in stream]
    results = [r for response in responses for r in response.results or [response]]
    if {result.WhichOneof("result") for result in results} != {"execution"}:
        raise InvalidRun(f"a report returned {responses}")
    return bytes(responses[0].SerializeToString())


async def _check_stored(server: Server, job_id: str, reports: int) -> None:
    """Raise InvalidRun unless all reports are stored; the size check tolerates a few errors."""
    response = await grpc_call(server.address, "GetJob", pb.GetJobRequest(job_id=job_id)).send()
    counted = pb.GetJobResponse.FromString(response.body).job.succeeded_count
    if counted != reports:
        raise InvalidRun(f"{counted} of {reports} reports are counted")
