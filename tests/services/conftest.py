"""Fixtures of the tests of services."""

import pytest

from tests.support.callers import Device, Events, Fleet
from tests.support.events import EventLog
from tests.support.world import World


@pytest.fixture
async def ten_devices(world: World) -> None:
    """The devices d00001 to d00010."""
    await world.add_devices(10)


@pytest.fixture
async def pump(world: World) -> Device:
    """The device "pump"; the tenant also has "valve"."""
    await world.add_devices(["pump", "valve"])
    return world.device("pump")


@pytest.fixture
def fleet(world: World) -> Fleet:
    """A caller of FleetService in the test's tenant."""
    return world.fleet


@pytest.fixture
def events(world: World) -> Events:
    """A caller of EventService in the test's tenant."""
    return world.events


@pytest.fixture
def log(world: World) -> EventLog:
    """The events of the job "j"."""
    return EventLog(world.database, world.operator)
