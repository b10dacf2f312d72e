"""Memory of a server process when idle, after load, and with many open streams."""

import asyncio
import itertools
import time

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.environment import Environment, Server
from bench.figures import SERVICE, Results, Scale
from bench.h2load import run_load
from bench.requests import TENANT, InvalidRun, grpc_call
from bench.workloads.throughput import TEN, create_job_calls, get_job_calls

_STREAMS_PER_CONNECTION = 100
_MIB = 1 << 20

# A soak fails if the memory of the last minute exceeds the memory of the first one by this factor.
_MAX_GROWTH = 1.25


async def run(env: Environment, scale: Scale, results: Results) -> None:
    """Measure memory, in MiB resident."""
    await env.clear()
    await seed.insert_devices(env, TENANT, scale.open_streams)
    await seed.insert_devices(env, TEN, 10)
    await seed.insert_job(env, TEN, "j")
    await env.vacuum()
    async with env.service_server() as service:
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
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.aio.insecure_channel(service.address, options=options)
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


async def soak(env: Environment, scale: Scale, results: Results, minutes: int) -> None:
    """Measure soak: MiB resident by minute, under creates, reads and lists in turn."""
    await env.clear()
    await seed.insert_devices(env, TEN, 10)
    await seed.insert_job(env, TEN, "j")
    async with env.service_server() as service:
        list_jobs = grpc_call(service.address, "ListJobs", pb.ListJobsRequest(), tenant=TEN)
        calls = itertools.cycle(
            (
                create_job_calls(service, service)[0],
                get_job_calls(service, service, TEN)[0],
                list_jobs,
            )
        )
        started = time.monotonic()
        for minute in range(1, minutes + 1):
            while time.monotonic() < started + 60 * minute:
                # Creates change the size of a page of jobs.
                await run_load(next(calls), seconds=scale.seconds, size_tolerance=1 << 20)
            if minute in {1, minutes} or not minute % 10:
                case = f"minute {minute}"
                results.add("soak", case, SERVICE, "MiB", service.resident_bytes() / _MIB)
    first, last = (figure.median for figure in (results[0], results[-1]))
    if last > first * _MAX_GROWTH:
        raise InvalidRun(f"memory grew from {first:.1f} to {last:.1f} MiB")
