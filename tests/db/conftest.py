"""Fixtures: a database and roles that a test can change."""

from collections.abc import AsyncIterator, Callable

import pytest

from jobs_grpc.db import migrate as runner
from jobs_grpc.db import schema
from jobs_grpc.db.schema import Migration
from tests.support.database import Database, fresh_database
from tests.support.postgres import Postgres


@pytest.fixture
async def fresh(cluster: tuple[Postgres, str]) -> AsyncIterator[Database]:
    """A new migrated database with a new request role."""
    async with fresh_database(cluster) as database:
        yield database


@pytest.fixture
async def other_role(cluster: tuple[Postgres, str], fresh: Database) -> AsyncIterator[str]:
    """Another role, which can own tables in the test's database."""
    async with cluster[0].unused_role(fresh.name) as role:
        await fresh.owner.execute(f"CREATE ROLE {role.name}")
        yield role.name


@pytest.fixture
def add_migration(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that adds a migration 9001 to those of `migrate`."""

    def add(sql: str) -> None:
        migrations = (*schema.migrations(), Migration(9001, "test", sql))
        monkeypatch.setattr(runner, "migrations", lambda: migrations)

    return add
