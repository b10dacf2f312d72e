"""Fixtures: a cluster a session, a database and a server a module, a tenant a test."""

import os
import uuid
from collections.abc import AsyncIterator

# Starting PostgreSQL forks, and gRPC's fork handlers can kill the child. gRPC reads this
# variable when it is imported, hence before the imports below.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.postgres import Postgres, running_postgres
from tests.support.server import Server, running_server

# How fast the machine is at the moment, is not what is tested.
settings.register_profile(
    "steady", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
)
settings.load_profile("steady")


@pytest.fixture(scope="session")
async def cluster() -> AsyncIterator[tuple[Postgres, str]]:
    """PostgreSQL, and the name of the migrated template."""
    async with running_postgres() as running:
        yield running


@pytest.fixture(scope="module")
async def database(cluster: tuple[Postgres, str]) -> AsyncIterator[Database]:
    """A migrated database of the module's own."""
    running, template = cluster
    async with running.database(template) as name:
        owner_dsn = running.dsn(name)
        owner = await asyncpg.connect(owner_dsn)
        yield Database(owner_dsn, running.dsn(name, running.role), owner)
        await owner.close()


@pytest.fixture(scope="module")
async def server(database: Database) -> AsyncIterator[Server]:
    """The service on the module's database, ready."""
    async with running_server(database.request_dsn) as running:
        yield running


@pytest.fixture
def tenant() -> str:
    """A tenant of the test's own, without devices."""
    return f"tenant-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def operator(server: Server, tenant: str) -> Operator:
    """A caller in the test's tenant."""
    return server.operator(tenant, user="olivia")


@pytest.fixture
def long_lock_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What devices say keeps its place among those who wait for a job, for as long as a test."""
    monkeypatch.setattr("jobs_grpc.db.update_batcher._PATIENCE", 60_000)
