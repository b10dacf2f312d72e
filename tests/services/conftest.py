"""Fixtures of the tests of services."""

import pytest

from tests.support.callers import Device, Events, Fleet
from tests.support.events import EventLog
from tests.support.world import World


@pytest.fixture
async def ten_devices(world: World) -> None:
    await world.add_devices(10)


@pytest.fixture
async def pump(world: World) -> Device:
    await world.add_devices(["pump", "valve"])
    return world.device("pump")


@pytest.fixture
def fleet(world: World) -> Fleet:
    return world.fleet


@pytest.fixture
def events(world: World) -> Events:
    return world.events


@pytest.fixture
def log(world: World) -> EventLog:
    return EventLog(world.database, world.operator)
