"""The memory of a server process: at rest, and with many streams open."""

import asyncio
import itertools
import time

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.calls import TENANT, rpc
from bench.environment import Environment, Server
from bench.h2load import load
from bench.measure import SERVICE, Results, Scale
from bench.workloads.calls import TEN, create_one, get

_STREAMS_A_CONNECTION = 100
_MIB = 1 << 20


async def run(env: Environment, scale: Scale, results: Results) -> None:
    """memory: MiB resident."""
    await env.empty()
    await seed.fleet(env, TENANT, scale.streams)
    await seed.fleet(env, TEN, 10)
    await seed.job(env, TEN, "j")
    await env.settle()
    async with env.serving() as service:
        call, _ = get(service, service, TEN)
        results.add("memory", "at rest", SERVICE, "MiB", service.resident() / _MIB)
        await load(call, seconds=scale.seconds)
        results.add("memory", "after a load", SERVICE, "MiB", service.resident() / _MIB)
        await _watched(service, scale, results)
        await load(call, seconds=scale.seconds)
        results.add("memory", "after both", SERVICE, "MiB", service.resident() / _MIB)


async def _watched(service: Server, scale: Scale, results: Results) -> None:
    """WatchPendingExecutions of many devices, each of which has got its first answer."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.aio.insecure_channel(service.address, options=options)
        for _ in range(-(-scale.streams // _STREAMS_A_CONNECTION))
    ]
    streams = []
    for number in range(scale.streams):
        stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channels[number % len(channels)])
        metadata = (("x-tenant-id", TENANT), ("x-device-id", f"d{number:07}"))
        streams.append(
            stub.WatchPendingExecutions(
                device_pb.WatchPendingExecutionsRequest(), metadata=metadata
            )
        )
    await asyncio.gather(*(stream.read() for stream in streams))
    results.add(
        "memory", f"{scale.streams:,} open streams", SERVICE, "MiB", service.resident() / _MIB
    )
    for channel in channels:
        await channel.close()


async def soak(env: Environment, scale: Scale, results: Results, minutes: int) -> None:
    """soak: MiB resident, a minute after the other, under creates, reads and lists in turn."""
    await env.empty()
    await seed.fleet(env, TEN, 10)
    await seed.job(env, TEN, "j")
    async with env.serving() as service:
        listing = rpc(service.address, "ListJobs", pb.ListJobsRequest(), tenant=TEN)
        turns = itertools.cycle(
            (create_one(service, service)[0], get(service, service, TEN)[0], listing)
        )
        started = time.monotonic()
        for minute in range(1, minutes + 1):
            while time.monotonic() < started + 60 * minute:
                # A page of jobs that others create is not of one size.
                await load(next(turns), seconds=scale.seconds, varies=1 << 20)
            if minute in {1, minutes} or not minute % 10:
                case = f"minute {minute}"
                results.add("soak", case, SERVICE, "MiB", service.resident() / _MIB)
