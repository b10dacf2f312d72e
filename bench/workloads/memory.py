"""Memory of a server process when idle, after load, and with many open streams."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fleet.jobs.v1 import device_jobs_pb2 as device_pb

from bench import seed
from bench.figures import SERVICE
from bench.h2load import run_load
from bench.process import Server
from bench.requests import TENANT
from bench.workloads import Bench
from bench.workloads.throughput import TEN, get_job_call

_STREAMS_PER_CONNECTION = 100
_MIB = 1 << 20


async def run(bench: Bench) -> None:
    """Measure memory, in MiB resident."""
    env, streams = bench.env, bench.scale.open_streams
    await env.clear()
    await seed.insert_devices(env, TENANT, streams)
    await seed.insert_devices(env, TEN, 10)
    await seed.insert_job(env, TEN, "j")
    await env.vacuum()
    async with env.server() as service:

        def add(case: str) -> None:
            bench.results.add("memory", case, SERVICE, "MiB", service.resident_bytes() / _MIB)

        call = get_job_call(service, TEN)
        add("idle")
        await run_load(call, seconds=bench.scale.seconds)
        add("after a load")
        async with _open_streams(service, streams):
            add(f"{streams:,} open streams")
        await run_load(call, seconds=bench.scale.seconds)
        add("after load and streams")


@asynccontextmanager
async def _open_streams(service: Server, count: int) -> AsyncIterator[None]:
    """Open WatchPendingExecutions for many devices, which have their first response."""
    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(service.calls())
            for _ in range(-(-count // _STREAMS_PER_CONNECTION))
        ]
        request = device_pb.WatchPendingExecutionsRequest()
        streams = [
            connections[number % len(connections)].stream(request, TENANT, device=f"d{number:07}")
            for number in range(count)
        ]
        await asyncio.gather(*(stream.read() for stream in streams))
        yield
