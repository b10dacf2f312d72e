"""Fixtures of the tests of maintenance."""

from collections.abc import AsyncIterator

import pytest

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.support.database import Database
from tests.support.waiting import TIMEOUT


@pytest.fixture
async def sweeper(database: Database) -> AsyncIterator[Sweeper]:
    """A sweeper that keeps jobs for 30 days, and waits for busy ones as long as a test takes."""
    async with Sweeper(database.owner_dsn, retention_days=30, lock_wait=4 * TIMEOUT) as sweeper:
        yield sweeper
