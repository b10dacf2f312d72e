"""Streams whose responses are not read take bounded memory: each test measures a server process.

The messages are chosen to take as much memory as possible for each byte that the client sends.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.message import Message

from tests.support.database import Database
from tests.support.http2 import message
from tests.support.http2_windows import Connection, connections, streams
from tests.support.scale import SCALE
from tests.support.server_process import ServerProcess
from tests.support.waiting import TIMEOUT

REPORT_EXECUTIONS = "/fleet.jobs.v1.DeviceJobService/ReportExecutions"
WATCH_PENDING = "/fleet.jobs.v1.DeviceJobService/WatchPendingExecutions"
WATCH_JOB = "/fleet.jobs.v1.JobService/WatchJob"

DEVICES = 500

# Calls of another tenant during which an attack must not exceed the memory.
CALLS = 20 if SCALE == 1 else 50

# 32 KiB as JSON, and a megabyte as a decoded message.
LISTS: dict[str, Any] = {"a": [[]] * 10_900}

# 28 KiB as JSON, and more than half a megabyte as a decoded message.
KEYS: dict[str, Any] = {f"{n:04}": 0 for n in range(3100)}

# 32 KiB as JSON, and 128 KiB as text in Python.
EMOJI = {"e": "\N{GRINNING FACE}", "a": "a" * 32_700}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def check_memory_of_unread_streams(
    process: ServerProcess,
    method: str,
    metadata: Sequence[dict[str, str]],
    requests: Callable[[int], Iterable[bytes]],
) -> None:
    """Keep a stream for each metadata, with a window of 0, and send `requests(number)` on it.

    Another tenant calls meanwhile. No call may fail, but it may take long, because it waits for
    seconds while the process converts details.
    """
    other = process.operator("other")
    async with connections(process.address) as attackers, asyncio.timeout(16 * TIMEOUT):

        async def send(connection: Connection, stream: int, number: int) -> None:
            connection.open(stream, method, metadata[number])
            for request in requests(number):
                await connection.send(stream, request)

        sending = [
            asyncio.create_task(send(*stream, number))
            for number, stream in enumerate(streams(attackers, len(metadata)))
        ]
        try:
            for _ in range(CALLS):
                await other.stub.ListJobs(pb.ListJobsRequest(), metadata=other.metadata)
            process.check_memory()
        finally:
            for task in sending:
                task.cancel()


async def create_jobs(
    process: ServerProcess, database: Database, tenants: list[str], details: Any = None
) -> None:
    """Create the job "j" for devices of each tenant, whose executions have `details`."""
    for tenant in tenants:
        await database.add_devices(tenant, DEVICES)
        await process.operator(tenant).create(job_id="j", target_all=True)
    if details is not None:
        await database.owner.execute(
            "UPDATE jobs.job_executions SET status_details = $2 WHERE tenant_id = ANY ($1)",
            tenants,
            json.dumps(details),
        )


def report(number: int, report_type: Any = device_pb.ExecutionReport) -> Any:
    update = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.IN_PROGRESS)
    return report_type(device_id=f"d{number % DEVICES + 1:05}", report=update)


def batches(details: Message | None) -> list[bytes]:
    """Messages that have 100 reports each."""
    result = []
    for first in range(0, DEVICES, 100):
        reports = [report(first + number) for number in range(100)]
        for item in reports:
            if details is not None:
                item.report.status_details.CopyFrom(details)
        result.append(message(device_pb.ReportExecutionsRequest(reports=reports)))
    return result


@pytest.mark.parametrize(
    "details",
    [
        pytest.param({"a": [[]] * 600}, id="lists"),
        pytest.param({chr(0x100 + n): None for n in range(250)}, id="keys"),
    ],
)
async def test_unread_batches_of_reports_with_large_details_hold_bounded_memory(
    process: ServerProcess, database: Database, tenant: str, details: dict[str, Any]
) -> None:
    """60 streams that send messages of 250 KiB, which take several MiB decoded."""
    await create_jobs(process, database, [tenant])
    request = device_pb.UpdateExecutionRequest()
    request.status_details.update(details)
    messages = batches(request.status_details)

    await check_memory_of_unread_streams(
        process,
        REPORT_EXECUTIONS,
        [{"x-tenant-id": tenant}] * 60,
        lambda number: (messages[(number + n) % len(messages)] for n in range(20)),
    )


async def test_unread_batches_of_reports_on_stored_details_hold_bounded_memory(
    process: ServerProcess, database: Database, tenant: str
) -> None:
    """250 streams of ten tenants that send messages of 2 KB, about executions with 32 KiB each."""
    tenants = [f"{tenant}-{number}" for number in range(10)]
    await create_jobs(process, database, tenants, EMOJI)
    messages = batches(None)

    await check_memory_of_unread_streams(
        process,
        REPORT_EXECUTIONS,
        [{"x-tenant-id": tenants[number % 10]} for number in range(250)],
        lambda number: (messages[(number + n) % len(messages)] for n in range(20)),
    )


@pytest.mark.parametrize("details", [LISTS, EMOJI], ids=["lists", "emoji"])
async def test_unread_single_reports_on_stored_details_hold_bounded_memory(
    process: ServerProcess, database: Database, tenant: str, details: dict[str, Any]
) -> None:
    """100 streams whose responses have the stored details, 32 KiB each."""
    await create_jobs(process, database, [tenant], details)

    await check_memory_of_unread_streams(
        process,
        REPORT_EXECUTIONS,
        [{"x-tenant-id": tenant}] * 100,
        lambda number: (
            message(report(7 * number + n, device_pb.ReportExecutionsRequest)) for n in range(300)
        ),
    )


async def test_unread_watches_of_jobs_with_large_documents_hold_bounded_memory(
    process: ServerProcess, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    await process.operator(tenant).create(job_id="j", target_all=True, document_params=KEYS)
    request = message(pb.WatchJobRequest(job_id="j"))

    await check_memory_of_unread_streams(
        process, WATCH_JOB, [{"x-tenant-id": tenant}] * 600, lambda _: [request]
    )


async def test_unread_watches_of_devices_with_large_documents_hold_bounded_memory(
    process: ServerProcess, database: Database, tenant: str
) -> None:
    """Each device has 50 pending executions, so its response has 1.6 MiB."""
    await database.add_devices(tenant, DEVICES)
    operator = process.operator(tenant)
    for number in range(50):
        await operator.create(job_id=f"j{number}", target_all=True, document_params=EMOJI)
    request = message(device_pb.WatchPendingExecutionsRequest(limit=100))

    await check_memory_of_unread_streams(
        process,
        WATCH_PENDING,
        [{"x-tenant-id": tenant, "x-device-id": f"d{n + 1:05}"} for n in range(DEVICES)],
        lambda _: [request],
    )
