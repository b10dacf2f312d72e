"""A fleet of simulated devices, which call the service as real devices do."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2_grpc

from jobs_grpc.client.channel import KEEPALIVE, NO_PROXY
from jobs_grpc.dev.simulator.behavior import DeviceBehavior
from jobs_grpc.dev.simulator.bridge import Bridge
from jobs_grpc.dev.simulator.device import Device
from jobs_grpc.dev.simulator.device_client import DeviceClient
from jobs_grpc.dev.simulator.totals import Totals

# Concurrent unary calls of the fleet; bounds memory.
_MAX_CALLS = 256

_CHANNELS = 4

# Watches of one channel: half of what a server accepts on a connection by default, because streams
# that have just ended still count. Unary calls have channels of their own.
_WATCHES_PER_CHANNEL = 200

_CHANNEL_OPTIONS = (
    *KEEPALIVE,
    # Without this, all channels to an address share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The devices of a fleet, how they behave, and how they call the server."""

    server: str
    metadata: tuple[tuple[str, str], ...]
    device_ids: Sequence[str]
    behavior: DeviceBehavior
    poll_interval: float | None
    """Seconds between polls of a device; None: each device has a WatchPendingExecutions stream."""
    bridge: bool
    """Whether all devices report over one ReportExecutions stream."""
    timeout: float
    """Seconds for each unary call."""
    credentials: grpc.ChannelCredentials | None = None
    """None: without TLS."""


async def run_fleet(fleet: Fleet, totals: Totals) -> None:
    """Run the devices until the task is canceled.

    Raises an exception group of CallError if the server rejects the fleet permanently.
    """
    limit = asyncio.Semaphore(_MAX_CALLS)
    async with AsyncExitStack() as stack:
        stubs = [await _open_stub(fleet, stack) for _ in range(_CHANNELS)]
        watch_stubs: list[Any] = []
        async with asyncio.TaskGroup() as group:
            bridge = Bridge(stubs[0], fleet.metadata, totals) if fleet.bridge else None
            if bridge:
                group.create_task(bridge.run())
            for number, device_id in enumerate(fleet.device_ids):
                if number % _WATCHES_PER_CHANNEL == 0 and not fleet.poll_interval:
                    watch_stubs.append(await _open_stub(fleet, stack))
                metadata = (*fleet.metadata, ("x-device-id", device_id))
                stub = stubs[number % len(stubs)]
                watch_stub = watch_stubs[-1] if watch_stubs else stub
                client = DeviceClient(stub, watch_stub, metadata, fleet.timeout, limit, totals)
                send_report = bridge.report if bridge else client.report
                device = Device(device_id, fleet.behavior, client, send_report, totals)
                group.create_task(
                    device.poll(fleet.poll_interval) if fleet.poll_interval else device.watch()
                )


async def _open_stub(fleet: Fleet, stack: AsyncExitStack) -> Any:
    channel = (
        grpc.aio.secure_channel(fleet.server, fleet.credentials, options=_CHANNEL_OPTIONS)
        if fleet.credentials
        else grpc.aio.insecure_channel(fleet.server, options=(*_CHANNEL_OPTIONS, NO_PROXY))
    )
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(await stack.enter_async_context(channel))
    return stub
