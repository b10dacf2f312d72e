"""Simulated fleets that are fast."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from jobs_grpc.dev.simulator.behavior import DeviceBehavior
from jobs_grpc.dev.simulator.fleet import Fleet, run_fleet
from jobs_grpc.dev.simulator.totals import Totals
from tests.support.waiting import TIMEOUT


def make_fleet(devices: int, address: str, tenant: str, **fields: Any) -> Fleet:
    """Return a fleet of the devices d00001, d00002 …, as Database.add_devices names them.

    Executions are fast and succeed, unless `fields` of DeviceBehavior or Fleet differ.
    """
    behavior = {
        "latency": (0.0, 0.02),
        "failure_rate": 0.0,
        "reject_rate": 0.0,
        "stall_rate": 0.0,
        "progress": 1,
        "seed": 1,
    }
    for name in behavior.keys() & fields.keys():
        behavior[name] = fields.pop(name)
    fields.setdefault("poll", fields.get("poll_interval") is not None)
    settings: dict[str, Any] = {"poll_interval": None, "bridge": False, "timeout": TIMEOUT} | fields
    return Fleet(
        server=address,
        tenant=tenant,
        device_ids=[f"d{number:05}" for number in range(1, devices + 1)],
        behavior=DeviceBehavior(**behavior),  # type: ignore[arg-type]  # a dict has one value type
        **settings,
    )


@asynccontextmanager
async def running_fleet(fleet: Fleet) -> AsyncIterator[Totals]:
    """Run the fleet during the block and yield its totals."""
    totals = Totals()
    task = asyncio.create_task(run_fleet(fleet, totals))
    try:
        yield totals
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled(), task.exception()
