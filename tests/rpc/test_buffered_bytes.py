"""Messages of callers take bounded memory: each test attacks a server process and measures it.

Meanwhile another tenant calls, and none of its calls fails.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.process import free_address
from tests.support.database import Database
from tests.support.http2 import message
from tests.support.http2_windows import Connection, connections, streams
from tests.support.metrics import scrape_until
from tests.support.server_process import ServerProcess, running_server_process
from tests.support.waiting import wait_until_true

GET_JOB = "/fleet.jobs.v1.JobService/GetJob"
REPORT_EXECUTIONS = "/fleet.jobs.v1.DeviceJobService/ReportExecutions"
WATCH_PENDING = "/fleet.jobs.v1.DeviceJobService/WatchPendingExecutions"
WATCH_JOB = "/fleet.jobs.v1.JobService/WatchJob"

# 60 KiB in one element: the number of elements does not limit the page.
TEXT = json.dumps({"a": "1" * 61_440})

pytestmark = pytest.mark.slow


@asynccontextmanager
async def other_tenant_calls(process: ServerProcess, tenant: str) -> AsyncIterator[None]:
    """List jobs of another tenant repeatedly during the block. None of the calls may fail."""
    operator = process.operator(f"{tenant}-other")

    async def call() -> None:
        while True:
            await operator.list()
            await asyncio.sleep(0.02)

    calling = asyncio.create_task(call())
    try:
        yield
        await operator.list()
        assert not calling.done(), calling.exception()
    finally:
        calling.cancel()


def caller(tenant: str, number: int = 0) -> dict[str, str]:
    return {"x-tenant-id": tenant, "x-device-id": f"d{number + 1:05}"}


async def wait_for_ends(attackers: list[Connection], count: int) -> None:
    """Wait until the server has ended that many streams."""

    await wait_until_true(lambda: sum(attacker.ended_count for attacker in attackers) >= count)


async def test_unread_pages_hold_a_bounded_part_of_the_memory(
    database: Database, process: ServerProcess, tenant: str
) -> None:
    """100 pages of 4 MiB. The calls that do not fit are refused after a wait."""
    await database.add_devices(tenant, 60)
    await process.operator(tenant).create(job_id="j", target_all=True)
    await database.owner.execute(
        "UPDATE jobs.job_executions SET status_details = $2 WHERE tenant_id = $1", tenant, TEXT
    )
    request = message(pb.GetJobRequest(job_id="j", executions_limit=60))
    async with other_tenant_calls(process, tenant), connections(process.address) as attackers:
        for attacker, stream in streams(attackers, 100):
            attacker.open(stream, GET_JOB, {"x-tenant-id": tenant})
            await attacker.send(stream, request, end=True)
        await wait_for_ends(attackers, 80)

    process.check_memory()


async def test_half_sent_requests_of_many_tenants_hold_a_bounded_part_of_the_memory(
    process: ServerProcess, tenant: str
) -> None:
    """900 calls of 10 tenants, each without the last of its 500,000 bytes."""
    size = 500_000
    data = b"\0" + size.to_bytes(4, "big") + bytes(size - 1)
    async with other_tenant_calls(process, tenant), connections(process.address) as attackers:
        sending = []
        for number, (attacker, stream) in enumerate(streams(attackers, 900)):
            attacker.open(stream, GET_JOB, caller(f"{tenant}-{number % 10}"))
            sending.append(asyncio.create_task(attacker.send(stream, data)))
        await wait_for_ends(attackers, 600)

        process.check_memory()
        for task in sending:
            task.cancel()


async def test_data_that_the_server_does_not_read_is_bounded_for_each_stream(
    database: Database, process: ServerProcess, tenant: str
) -> None:
    """A watch reads one request. gRPC receives what follows it, up to a window of 64 KiB."""
    await database.add_devices(tenant, 100)
    request = message(device_pb.WatchPendingExecutionsRequest())
    async with other_tenant_calls(process, tenant), connections(process.address, 100) as attackers:
        sent = 0
        for number, attacker in enumerate(attackers):
            attacker.open(1, WATCH_PENDING, caller(tenant, number))
            await attacker.send(1, request)
            # The answer to a ping follows the windows that the server grants, and comes when it
            # has received everything before.
            for _ in range(3):
                await attacker.ping()
                sent += attacker.send_what_fits(1, 8 << 20)
            await attacker.ping()

        assert sent > 100 * 60 * 1024
        process.check_memory()


async def test_report_streams_of_a_tenant_are_limited_by_what_grpc_may_receive(
    process: ServerProcess, tenant: str
) -> None:
    """Each of 1,500 streams could hold half a message of 512 KiB."""
    async with other_tenant_calls(process, tenant), connections(process.address) as attackers:
        for attacker, stream in streams(attackers, 1500):
            attacker.open(stream, REPORT_EXECUTIONS, {"x-tenant-id": tenant})

        await wait_for_ends(attackers, 1500 - 128)

        process.check_memory()


@pytest.mark.wrong_counts("stages and criteria are stored without counts")
async def test_changes_of_watched_jobs_hold_a_bounded_part_of_the_memory(
    database: Database, tenant: str
) -> None:
    """2,000 watches, each of its own job, whose clients read the first state but not the next."""
    await database.add_devices(tenant, 1)
    metrics = free_address()
    async with (
        running_server_process(database.request_dsn, JOBS_METRICS_LISTEN=metrics) as process,
        other_tenant_calls(process, tenant),
        connections(process.address, window=1000) as attackers,
    ):
        await process.operator(tenant).create(job_id="j", target_all=True)
        await _copy_job(database, tenant, 2000)
        for number, (attacker, stream) in enumerate(streams(attackers, 2000)):
            attacker.open(stream, WATCH_JOB, {"x-tenant-id": tenant})
            request = message(pb.WatchJobRequest(job_id=f"j{number}"))
            await attacker.send(stream, request, end=True)
        await scrape_until(metrics, lambda read: read.calls("msg_sent_total", "WatchJob") == 2000)
        await database.owner.execute(
            "UPDATE jobs.jobs SET document_params = $2 WHERE tenant_id = $1",
            tenant,
            json.dumps({"a": "x" * 100_000}),
        )
        # Some streams hold all bytes of the tenant; one statement reads for the others.
        await scrape_until(metrics, lambda read: read.value("jobs_buffered_bytes_waiting") == 1)

        process.check_memory()


async def _copy_job(database: Database, tenant: str, count: int) -> None:
    for table in ("jobs", "job_progress"):
        await database.owner.execute(
            f"INSERT INTO jobs.{table}"
            " SELECT (jsonb_populate_record(j, jsonb_build_object('job_id', 'j' || n))).*"
            f" FROM jobs.{table} j CROSS JOIN generate_series(0, $2 - 1) AS n"
            " WHERE j.tenant_id = $1 AND j.job_id = 'j'",
            tenant,
            count,
        )
