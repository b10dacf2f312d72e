"""One hot job: reports a second through the service, and in the way of the document's design.

The document's design completes a job by looking, after each report, for what remains: an
UPDATE and a COUNT, each in its own transaction. It is given 32 connections and no service
around it. The service is a process of its own on the same PostgreSQL, with 32 report streams.
Both work on a job of the same size, first one, then the other, several times over.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, jobs_pb2, jobs_pb2_grpc

from jobs_grpc import embedded
from jobs_grpc.migrate import RequestRole, migrate

REPORTERS = 32
TENANT = "bench"
METADATA = (("x-tenant-id", TENANT),)

DOCUMENT = """
    CREATE TABLE IF NOT EXISTS document_executions (
        tenant_id text, job_id text, device_id text, status text NOT NULL DEFAULT 'QUEUED',
        last_updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, job_id, device_id));
    CREATE INDEX IF NOT EXISTS document_executions_status
        ON document_executions (tenant_id, job_id, status);
    TRUNCATE document_executions;
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.hot_job", description=__doc__)
    parser.add_argument("--devices", type=int, default=50_000, help="of the job [50000]")
    parser.add_argument("--reports", type=int, default=20_000, help="through the service [20000]")
    parser.add_argument("--one-by-one", type=int, default=1_000, help="the other way [1000]")
    parser.add_argument("--runs", type=int, default=3, help="of each, alternating [3]")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="jobs-bench-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        with embedded.running(Path(folder) / "data") as cluster:
            asyncio.run(_measure(cluster, args))


async def _measure(cluster: embedded.Cluster, args: argparse.Namespace) -> None:
    owner = await asyncpg.connect(cluster.dsn("postgres"))
    await owner.execute("CREATE DATABASE jobs")
    await owner.close()
    role = RequestRole()
    await migrate(cluster.dsn("jobs"), role)
    owner = await asyncpg.connect(cluster.dsn("jobs"))
    await owner.execute(
        "INSERT INTO device_state (tenant_id, device_id) SELECT $1, 'd' || n"
        " FROM generate_series(0, $2 - 1) n",
        TENANT,
        args.devices,
    )
    service, document = [], []
    async with _serving(cluster.dsn("jobs", role.name)) as address:
        for run in range(args.runs):
            await owner.execute("VACUUM ANALYZE")
            document.append(await _one_by_one(cluster.dsn("jobs"), owner, args))
            service.append(await _streamed(address, f"job-{run}", args.reports))
            print(f"run {run + 1}: one by one {document[-1]:,.0f}/s, streamed {service[-1]:,.0f}/s")
    await owner.close()
    ratio = statistics.median(service) / statistics.median(document)
    print(
        f"median of {args.runs}, a job of {args.devices:,} devices, {REPORTERS} reporters:"
        f" {statistics.median(document):,.0f}/s one by one,"
        f" {statistics.median(service):,.0f}/s streamed, {ratio:.1f}×"
    )


async def _one_by_one(dsn: str, owner: asyncpg.Connection, args: argparse.Namespace) -> float:
    await owner.execute(DOCUMENT)
    await owner.execute(
        "INSERT INTO document_executions (tenant_id, job_id, device_id)"
        " SELECT tenant_id, 'j', device_id FROM device_state"
    )
    await owner.execute("VACUUM ANALYZE document_executions")
    numbers = iter(range(args.one_by_one))

    async def reporter(connection: asyncpg.Connection) -> None:
        for number in numbers:
            await connection.execute(
                "UPDATE document_executions SET status = 'SUCCEEDED', last_updated_at = now()"
                " WHERE tenant_id = $1 AND job_id = 'j' AND device_id = $2",
                TENANT,
                f"d{number}",
            )
            await connection.fetchval(
                "SELECT COUNT(*) FROM document_executions WHERE tenant_id = $1 AND job_id = 'j'"
                " AND status NOT IN ('SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED')",
                TENANT,
            )

    connections = [await asyncpg.connect(dsn) for _ in range(REPORTERS)]
    started = time.perf_counter()
    await asyncio.gather(*(reporter(connection) for connection in connections))
    rate = args.one_by_one / (time.perf_counter() - started)
    for connection in connections:
        await connection.close()
    return rate


async def _streamed(address: str, job_id: str, reports: int) -> float:
    async with grpc.aio.insecure_channel(address) as channel:
        jobs: Any = jobs_pb2_grpc.JobServiceStub(channel)
        await jobs.CreateJob(
            jobs_pb2.CreateJobRequest(job_id=job_id, document_type="bench", target_all=True),
            metadata=METADATA,
        )
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)

        async def reporter(first: int) -> int:
            stream = stub.ReportExecutions(metadata=METADATA)

            async def write() -> None:
                for number in range(first, reports, REPORTERS):
                    update = pb.UpdateExecutionRequest(
                        job_id=job_id, status=jobs_pb2.JobExecution.SUCCEEDED
                    )
                    await stream.write(
                        pb.ReportExecutionsRequest(device_id=f"d{number}", report=update)
                    )
                await stream.done_writing()

            writing = asyncio.create_task(write())
            stored = 0
            async for answer in stream:
                stored += answer.WhichOneof("result") == "execution"
            await writing
            return stored

        started = time.perf_counter()
        stored = sum(await asyncio.gather(*(reporter(first) for first in range(REPORTERS))))
        seconds = time.perf_counter() - started
        job = (await jobs.GetJob(jobs_pb2.GetJobRequest(job_id=job_id), metadata=METADATA)).job
        if not stored == job.succeeded_count == reports:
            sys.exit(
                f"void: {stored} of {reports} were acknowledged, {job.succeeded_count} counted"
            )
        return reports / seconds


class _serving:  # noqa: N801 - read as a verb
    """`jobs-grpc serve` as a process of its own."""

    def __init__(self, dsn: str) -> None:
        self._environ = {
            "JOBS_DATABASE_URL": dsn,
            "JOBS_LISTEN": "127.0.0.1:50979",
            "JOBS_LOG_LEVEL": "ERROR",
        }

    async def __aenter__(self) -> str:
        command = [sys.executable, "-m", "jobs_grpc.cli", "serve"]
        self._process = subprocess.Popen(command, env=self._environ)  # noqa: ASYNC220, S603
        address = self._environ["JOBS_LISTEN"]
        async with grpc.aio.insecure_channel(address) as channel:
            jobs: Any = jobs_pb2_grpc.JobServiceStub(channel)
            for _ in range(100):
                try:
                    await jobs.ListJobs(
                        jobs_pb2.ListJobsRequest(), metadata=METADATA, wait_for_ready=True
                    )
                    return address
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)
        raise TimeoutError("the server does not answer")

    async def __aexit__(self, *args: object) -> None:
        self._process.terminate()
        self._process.wait()


if __name__ == "__main__":
    main()
