"""Memory of a server process when idle, after load, and with many open streams."""

import asyncio

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc

from bench import seed
from bench.figures import SERVICE, Results, Scale
from bench.h2load import run_load
from bench.peers import Peers
from bench.process import OWN_CONNECTIONS, Server
from bench.requests import TENANT
from bench.workloads.throughput import TEN, get_job_calls

_STREAMS_PER_CONNECTION = 100
_MIB = 1 << 20


async def run(env: Peers, scale: Scale, results: Results) -> None:
    """Measure memory, in MiB resident."""
    await env.clear()
    await seed.insert_devices(env, TENANT, scale.open_streams)
    await seed.insert_devices(env, TEN, 10)
    await seed.insert_job(env, TEN, "j")
    await env.vacuum()
    async with env.server() as service:
        call, _ = get_job_calls(service, service, TEN)
        results.add("memory", "idle", SERVICE, "MiB", service.resident_bytes() / _MIB)
        await run_load(call, seconds=scale.seconds)
        results.add("memory", "after a load", SERVICE, "MiB", service.resident_bytes() / _MIB)
        await _open_streams(service, scale, results)
        await run_load(call, seconds=scale.seconds)
        results.add(
            "memory", "after load and streams", SERVICE, "MiB", service.resident_bytes() / _MIB
        )


async def _open_streams(service: Server, scale: Scale, results: Results) -> None:
    """Open WatchPendingExecutions for many devices and wait for the first response of each."""
    channels = [
        grpc.aio.insecure_channel(service.address, OWN_CONNECTIONS)
        for _ in range(-(-scale.open_streams // _STREAMS_PER_CONNECTION))
    ]
    streams = []
    for number in range(scale.open_streams):
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channels[number % len(channels)])
        metadata = (("x-tenant-id", TENANT), ("x-device-id", f"d{number:07}"))
        streams.append(
            stub.WatchPendingExecutions(
                device_pb.WatchPendingExecutionsRequest(), metadata=metadata
            )
        )
    await asyncio.gather(*(stream.read() for stream in streams))
    results.add(
        "memory",
        f"{scale.open_streams:,} open streams",
        SERVICE,
        "MiB",
        service.resident_bytes() / _MIB,
    )
    for channel in channels:
        await channel.close()
