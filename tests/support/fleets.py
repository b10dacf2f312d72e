"""Simulated fleets that are quick."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from jobs_grpc.client.retry import Totals
from jobs_grpc.dev.simulator.fleet import Behaviour, Fleet, run_fleet
from tests.support.waiting import TIMEOUT


def make_fleet(devices: int, address: str, tenant: str, **fields: Any) -> Fleet:
    """The devices of Database.add_devices: quick and without fail, unless fields say otherwise."""
    behaviour = {
        "latency": (0.0, 0.02),
        "failure_rate": 0.0,
        "reject_rate": 0.0,
        "silence_rate": 0.0,
        "progress": 1,
        "seed": 1,
    }
    for name in behaviour.keys() & fields.keys():
        behaviour[name] = fields.pop(name)
    settings: dict[str, Any] = {"poll": None, "bridge": False, "timeout": TIMEOUT} | fields
    return Fleet(
        server=address,
        metadata=(("x-tenant-id", tenant),),
        device_ids=[f"d{number:05}" for number in range(1, devices + 1)],
        behaviour=Behaviour(**behaviour),  # type: ignore[arg-type]  # a dict has one type of value
        **settings,
    )


@asynccontextmanager
async def running_fleet(fleet: Fleet) -> AsyncIterator[Totals]:
    """The fleet, for the time of the block, and what it has done."""
    totals = Totals()
    task = asyncio.create_task(run_fleet(fleet, totals))
    try:
        yield totals
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled(), task.exception()
