"""Fixtures of the tests of services."""

import pytest

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.server import Server
from tests.support.world import World


@pytest.fixture
def world(database: Database, server: Server, operator: Operator) -> World:
    """The test's tenant."""
    return World(database, server, operator)


@pytest.fixture
async def ten_devices(world: World) -> None:
    """The devices d00001 to d00010."""
    await world.add_devices(10)
