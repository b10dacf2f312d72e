"""A fleet of simulated devices, which call the service as real devices do."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from jobs_grpc.client import Connection, DeviceClient, RetryPolicy, Tls
from jobs_grpc.dev.simulator.behavior import DeviceBehavior
from jobs_grpc.dev.simulator.device import Device
from jobs_grpc.dev.simulator.totals import Totals

# Maximum concurrent unary calls of the fleet. By default, a server refuses more than 100 of a
# tenant.
_MAX_CALLS = 80

_CHANNELS = 4

# Watches of one channel: half of what a server accepts on a connection by default, because streams
# that have just ended still count. Unary calls have channels of their own.
_WATCHES_PER_CHANNEL = 200


@dataclass(frozen=True, slots=True)
class Fleet:
    """The devices of a fleet, how they behave, and how they call the server."""

    server: str
    tenant: str | None
    device_ids: Sequence[str]
    behavior: DeviceBehavior
    poll: bool
    """Whether the devices poll; otherwise each has a WatchPendingExecutions stream."""
    poll_interval: float | None
    """Seconds between polls of a device; None: as the server asks for (`poll_after`)."""
    bridge: bool
    """Whether all devices report over one ReportExecutions stream."""
    timeout: float
    """Seconds for each unary call with its retries."""
    token: Callable[[], str] | None = None
    tls: Tls | None = None
    """None: without TLS."""
    initial_version: str | None = None
    """The `version` fact that each device reports at the start; None: no facts."""


async def run_fleet(fleet: Fleet, totals: Totals) -> None:
    """Run the devices until the task is canceled.

    Raises an exception group of JobsError if the server rejects the fleet permanently.
    """
    call_slots = asyncio.Semaphore(_MAX_CALLS)
    watch_channels = -(-len(fleet.device_ids) // _WATCHES_PER_CHANNEL) or 1
    # Within the timeout.
    retry = RetryPolicy(max_attempts=1_000_000, on_retry=totals.record_error)
    options: dict[str, Any] = {
        "tenant": fleet.tenant,
        "token": fleet.token,
        "timeout": fleet.timeout,
        "retry": retry,
    }
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(
            Connection(fleet.server, tls=fleet.tls, channels=_CHANNELS)
        )
        watch_connection = await stack.enter_async_context(
            Connection(fleet.server, tls=fleet.tls, channels=watch_channels)
        )
        bridge = None
        if fleet.bridge:
            # A device has at most one report without an answer.
            stream = DeviceClient(connection, **options).report_stream(
                max_pending=len(fleet.device_ids) or 1
            )
            bridge = await stack.enter_async_context(stream)
        async with asyncio.TaskGroup() as group:
            for device_id in fleet.device_ids:
                device = Device(
                    device_id,
                    fleet.behavior,
                    DeviceClient(connection, device_id=device_id, **options),
                    DeviceClient(watch_connection, device_id=device_id, **options),
                    bridge,
                    call_slots,
                    totals,
                    fleet.initial_version,
                )
                group.create_task(
                    device.poll(fleet.poll_interval) if fleet.poll else device.watch()
                )
