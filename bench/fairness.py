"""Measure the latency of a quiet tenant alone and during the flood of another tenant.

Run by `make bench-fairness`. PostgreSQL, the service and the flood are separate processes.
The flood consists of many callers of one tenant, each of which sends its next call as soon as the
previous one has finished. After a RESOURCE_EXHAUSTED it waits for the delay in RetryInfo, or
with --rude not at all. The calls cancel a job whose lock is held, so they wait in the database;
with --busy they read. The flood runs at low priority, because it stands for other machines. The
quiet tenant sends one GetJob after the other. The two phases alternate.
"""

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any, cast

import asyncpg
import grpc
from fleet.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev import embedded_postgres

TENANTS = ("quiet", "flood")

# Seconds between two calls of the quiet tenant.
PAUSE = 0.002


def main() -> None:
    """Measure and print, or run as the flood process."""
    parser = argparse.ArgumentParser(prog="bench.fairness", description=__doc__)
    parser.add_argument("--callers", type=int, default=100, help="callers of the flood [100]")
    parser.add_argument("--connections", type=int, default=8, help="connections of the flood [8]")
    parser.add_argument("--seconds", type=float, default=15, help="seconds per phase [15]")
    parser.add_argument("--runs", type=int, default=3, help="number of pairs of phases [3]")
    parser.add_argument(
        "--busy", action="store_true", help="the flood reads instead of waiting for a lock"
    )
    parser.add_argument("--rude", action="store_true", help="the flood retries without delay")
    parser.add_argument("--flood", metavar="ADDRESS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.flood:
        os.nice(19)
        asyncio.run(_flood(args.flood, args))
        return
    with tempfile.TemporaryDirectory(prefix="jobs-bench-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        with embedded_postgres.running(Path(folder) / "data") as cluster:
            asyncio.run(_measure(cluster, args, Path(folder) / "server.log"))


async def _measure(cluster: embedded_postgres.Cluster, args: argparse.Namespace, log: Path) -> None:
    owner = await asyncpg.connect(cluster.dsn("postgres"))
    await owner.execute("CREATE DATABASE jobs")
    await owner.close()
    role = RequestRole()
    await migrate(cluster.dsn("jobs"), role)
    owner = await asyncpg.connect(cluster.dsn("jobs"))
    await owner.execute(
        "INSERT INTO device_state (tenant_id, device_id) SELECT t, 'd' || n"
        " FROM unnest($1::text[]) t, generate_series(1, 100) n",
        list(TENANTS),
    )
    alone, during_flood = [], []
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    async with _Process(
        *("-m", "jobs_grpc.cli", "serve"),
        log=log,
        JOBS_DATABASE_URL=cluster.dsn("jobs", role.name),
        JOBS_LISTEN=address,
        JOBS_LOG_LEVEL="ERROR",
    ):
        for tenant in TENANTS:
            if not await _create_job(address, tenant):
                sys.exit(f"the server did not start: {await asyncio.to_thread(log.read_text)}")
        flood = ["-m", "bench.fairness", "--flood", address, "--callers", str(args.callers)]
        flood += ["--connections", str(args.connections)]
        flood += [f"--{name}" for name in ("busy", "rude") if vars(args)[name]]
        lock = owner.transaction()
        await lock.start()
        await owner.execute("SELECT FROM jobs.job_progress WHERE tenant_id = 'flood' FOR UPDATE")
        for run in range(args.runs):
            alone += (quiet_alone := await _quiet_latencies(address, args.seconds))
            async with _Process(*flood) as process:
                await process.stdout.readline()
                during_flood += (quiet_during := await _quiet_latencies(address, args.seconds))
                process.terminate()
                flood_rates = (await process.stdout.read()).decode().strip()
            print(
                f"run {run + 1}: alone {_summary(quiet_alone)};"
                f" during the flood {_summary(quiet_during)}; flood {flood_rates}"
            )
        await lock.rollback()
    await owner.close()
    ratio = _p99(during_flood) / _p99(alone)
    print(
        f"all: alone {_summary(alone)}; during the flood {_summary(during_flood)}; p99 {ratio:.2f}×"
    )


async def _quiet_latencies(address: str, seconds: float) -> list[float]:
    """Call GetJob for some seconds; return the latencies in milliseconds."""
    latencies = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = jobs_pb2_grpc.JobServiceStub(channel)
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            await stub.GetJob(jobs_pb2.GetJobRequest(job_id="j"), metadata=_metadata("quiet"))
            latencies.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(PAUSE)
    return latencies


async def _flood(address: str, args: argparse.Namespace) -> None:
    """Call until SIGTERM; print a line at the start and the rates at the end."""
    counts = {"succeeded": 0, "failed": 0}
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(15, stop.set)

    async with AsyncExitStack() as open_channels:
        # Give each channel its own connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        stubs: list[Any] = []
        for _ in range(args.connections):
            channel = grpc.aio.insecure_channel(address, options=options)
            await open_channels.enter_async_context(channel)
            stubs.append(jobs_pb2_grpc.JobServiceStub(channel))

        async def caller(stub: Any) -> None:
            while True:
                try:
                    if args.busy:
                        request = jobs_pb2.GetJobRequest(job_id="j")
                        await stub.GetJob(request, metadata=_metadata("flood"))
                    else:
                        cancel = jobs_pb2.CancelJobRequest(job_id="j")
                        await stub.CancelJob(cancel, metadata=_metadata("flood"))
                    counts["succeeded"] += 1
                except grpc.aio.AioRpcError as e:
                    counts["failed"] += 1
                    if not args.rude:
                        await asyncio.sleep(_retry_delay(e))

        tasks = [asyncio.create_task(caller(stubs[n % len(stubs)])) for n in range(args.callers)]
        started = time.perf_counter()
        print("flooding", flush=True)
        await stop.wait()
        seconds = time.perf_counter() - started
        print(", ".join(f"{count / seconds:,.0f}/s {what}" for what, count in counts.items()))
        for task in tasks:
            task.cancel()


def _retry_delay(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(cast("Any", error))
    for detail in status.details if status else ():
        retry = RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.seconds)
    return 0


async def _create_job(address: str, tenant: str) -> bool:
    """Create the tenant's job; return whether that succeeded within about ten seconds."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = jobs_pb2_grpc.JobServiceStub(channel)
        request = jobs_pb2.CreateJobRequest(job_id="j", document_type="x", target_all=True)
        for _ in range(100):
            try:
                await stub.CreateJob(request, metadata=_metadata(tenant))
                return True
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
    return False


def _metadata(tenant: str) -> tuple[tuple[str, str], ...]:
    return (("x-tenant-id", tenant),)


def _p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[98]


def _summary(latencies: list[float]) -> str:
    p50 = statistics.median(latencies)
    return f"p50 {p50:.1f} ms, p99 {_p99(latencies):.1f} ms ({len(latencies):,} calls)"


class _Process:
    """A Python process that is terminated when the block ends; its stderr goes to `log`."""

    def __init__(self, *arguments: str, log: Path | None = None, **environ: str) -> None:
        self._arguments = arguments
        self._log = log
        self._environ = os.environ | environ

    async def __aenter__(self) -> Any:
        with self._log.open("w") if self._log else nullcontext() as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                env=self._environ,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        return self._process

    async def __aexit__(self, *args: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


if __name__ == "__main__":
    main()
