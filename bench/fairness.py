"""A quiet tenant beside another's flood: its latency alone, and while the flood goes on.

Run by `make bench-fairness`. PostgreSQL, the service and the flood are processes of their own.
The flood is so many callers of another tenant, each of which calls again as soon as it is
answered; what the server refuses comes back after the delay that it asks for, or, with
--rude, at once. Its calls are cancels of a job that somebody else holds, so they wait in the
database; or, with --busy, reads, as many as the server can answer. It runs at low priority:
it stands for machines of somebody else's. The quiet tenant reads, one call after another.
Phases alternate.
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
from typing import Any

import asyncpg
import grpc
from fleet.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev import embedded_postgres

TENANTS = ("quiet", "flood")

# Between two calls of the quiet tenant, in seconds: it is not to be a flood itself.
PAUSE = 0.002


def main() -> None:
    """Measure and print; or be the flood."""
    parser = argparse.ArgumentParser(prog="bench.fairness", description=__doc__)
    parser.add_argument("--callers", type=int, default=100, help="of the flood [100]")
    parser.add_argument("--connections", type=int, default=8, help="of the flood [8]")
    parser.add_argument("--seconds", type=float, default=15, help="a phase [15]")
    parser.add_argument("--runs", type=int, default=3, help="pairs of phases [3]")
    parser.add_argument("--busy", action="store_true", help="the flood reads, and does not wait")
    parser.add_argument("--rude", action="store_true", help="the flood does not wait for retries")
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
    alone, beside = [], []
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    async with _process(
        *("-m", "jobs_grpc.cli", "serve"),
        log=log,
        JOBS_DATABASE_URL=cluster.dsn("jobs", role.name),
        JOBS_LISTEN=address,
        JOBS_LOG_LEVEL="ERROR",
    ):
        for tenant in TENANTS:
            if not await _is_there(address, tenant):
                sys.exit(f"the server does not answer: {await asyncio.to_thread(log.read_text)}")
        flood = ["-m", "bench.fairness", "--flood", address, "--callers", str(args.callers)]
        flood += ["--connections", str(args.connections)]
        flood += [f"--{name}" for name in ("busy", "rude") if vars(args)[name]]
        held = owner.transaction()
        await held.start()
        await owner.execute("SELECT FROM jobs.job_progress WHERE tenant_id = 'flood' FOR UPDATE")
        for run in range(args.runs):
            alone += (quiet := await _quiet(address, args.seconds))
            async with _process(*flood) as process:
                await process.stdout.readline()
                beside += (besieged := await _quiet(address, args.seconds))
                process.terminate()
                answered = (await process.stdout.read()).decode().strip()
            print(f"run {run + 1}: alone {_show(quiet)}; beside {_show(besieged)}; {answered}")
        await held.rollback()
    await owner.close()
    ratio = _p99(beside) / _p99(alone)
    print(f"all: alone {_show(alone)}; beside {_show(beside)}; p99 {ratio:.2f}×")


async def _quiet(address: str, seconds: float) -> list[float]:
    """The milliseconds of each call."""
    took = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = jobs_pb2_grpc.JobServiceStub(channel)
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            await stub.GetJob(jobs_pb2.GetJobRequest(job_id="j"), metadata=_metadata("quiet"))
            took.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(PAUSE)
    return took


async def _flood(address: str, args: argparse.Namespace) -> None:
    """Call until SIGTERM, then say how often; a line at the start."""
    counts = {"answered": 0, "refused": 0}
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(15, stop.set)

    async with AsyncExitStack() as open_channels:
        # Channels of one process share connections, unless they are told not to.
        alone = [("grpc.use_local_subchannel_pool", 1)]
        stubs: list[Any] = []
        for _ in range(args.connections):
            channel = grpc.aio.insecure_channel(address, options=alone)
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
                    counts["answered"] += 1
                except grpc.aio.AioRpcError as e:
                    counts["refused"] += 1
                    if not args.rude:
                        await asyncio.sleep(_delay(e))

        tasks = [asyncio.create_task(caller(stubs[n % len(stubs)])) for n in range(args.callers)]
        started = time.perf_counter()
        print("flooding", flush=True)
        await stop.wait()
        seconds = time.perf_counter() - started
        print(", ".join(f"{count / seconds:,.0f}/s {what}" for what, count in counts.items()))
        for task in tasks:
            task.cancel()


def _delay(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        retry = RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.seconds)
    return 0


async def _is_there(address: str, tenant: str) -> bool:
    """Whether the server has made the tenant's job, within some ten seconds."""
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


def _p99(took: list[float]) -> float:
    return statistics.quantiles(took, n=100)[98]


def _show(took: list[float]) -> str:
    return f"p50 {statistics.median(took):.1f} ms, p99 {_p99(took):.1f} ms ({len(took):,} calls)"


class _process:  # noqa: N801 - read as a verb
    """A Python process, ended with the block; what it says of itself goes to `log`."""

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
