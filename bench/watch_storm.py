"""Open many watches at once, as a process of its own.

`python -m bench.watch_storm ADDRESS TENANT WATCHES` opens one WatchPendingExecutions for each of
the tenant's devices d0000000, d0000001 and so on, prints the seconds until all have their first
message and how many failed, and keeps the others open until SIGTERM.
"""

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2, device_jobs_pb2_grpc

# Servers limit the streams of a connection.
_WATCHES_PER_CONNECTION = 100


async def _open(address: str, tenant: str, watches: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    failed = 0

    async def watch(stub: Any, device: int) -> Any:
        nonlocal failed
        metadata = (("x-tenant-id", tenant), ("x-device-id", f"d{device:07}"))
        call = stub.WatchPendingExecutions(
            device_jobs_pb2.WatchPendingExecutionsRequest(), metadata=metadata
        )
        try:
            await call.read()
        except grpc.aio.AioRpcError:
            failed += 1
        return call

    async with AsyncExitStack() as open_channels:
        channels = []
        for _ in range(-(-watches // _WATCHES_PER_CONNECTION)):
            channel = grpc.aio.insecure_channel(
                address, options=[("grpc.use_local_subchannel_pool", 1)]
            )
            await open_channels.enter_async_context(channel)
            channels.append(channel)
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        stubs = [device_jobs_pb2_grpc.DeviceJobServiceStub(channel) for channel in channels]
        print("connected", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        started = time.perf_counter()
        calls = await asyncio.gather(*(watch(stubs[n % len(stubs)], n) for n in range(watches)))
        print(f"{time.perf_counter() - started:.3f} {failed}", flush=True)
        await stop.wait()
        for call in calls:
            call.cancel()


if __name__ == "__main__":
    os.nice(19)
    asyncio.run(_open(sys.argv[1], sys.argv[2], int(sys.argv[3])))
