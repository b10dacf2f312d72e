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
