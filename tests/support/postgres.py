"""PostgreSQL for tests: one cluster, one migrated template, a clone for whoever asks."""

import itertools
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev import embedded_postgres

_PREFIX = f"jobs_test_{os.getpid()}"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Postgres:
    """A cluster that tests may create databases and roles in."""

    owner_dsn: str
    role: RequestRole

    def dsn(self, database: str, role: RequestRole | None = None) -> str:
        """A DSN for a database, as the owner or as a role."""
        parts = urlsplit(self.owner_dsn)
        netloc = parts.netloc
        if role is not None:
            netloc = f"{role.name}:{role.password}@{netloc.rpartition('@')[2]}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))

    async def execute(self, sql: str) -> None:
        """Run SQL as the owner, outside of any test's database."""
        connection = await asyncpg.connect(self.owner_dsn)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    @asynccontextmanager
    async def database(self, template: str = "template1") -> AsyncIterator[str]:
        """A new database, dropped at the end."""
        name = f"{_PREFIX}_{next(_numbers)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @asynccontextmanager
    async def role_in(self, database: str) -> AsyncIterator[RequestRole]:
        """A role that nobody has made yet; if it is there at the end, it is dropped."""
        role = RequestRole(f"{database}_role_{next(_numbers)}", "secret")
        try:
            yield role
        finally:
            owner = await asyncpg.connect(self.dsn(database))
            if await owner.fetchval("SELECT to_regrole($1) IS NOT NULL", role.name):
                await owner.execute(f"REASSIGN OWNED BY {role.name} TO current_user")
                await owner.execute(f"DROP OWNED BY {role.name}; DROP ROLE {role.name}")
            await owner.close()


@contextmanager
def new_data_dir() -> Iterator[Path]:
    """A data folder, not made yet, where the account that PostgreSQL runs as can reach it."""
    with tempfile.TemporaryDirectory(prefix="jobs-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "data"


@contextmanager
def running_cluster() -> Iterator[str]:
    """The owner DSN of JOBS_TEST_DATABASE_URL, or of an embedded cluster of our own."""
    if dsn := os.environ.get("JOBS_TEST_DATABASE_URL"):
        yield dsn
        return
    with new_data_dir() as data_dir:
        settings = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
        with embedded_postgres.running(data_dir, *settings, "max_connections=300") as running:
            yield running.dsn("postgres")


@asynccontextmanager
async def running_postgres() -> AsyncIterator[tuple[Postgres, str]]:
    """A cluster with a request role, and the name of a migrated template database."""
    with running_cluster() as owner_dsn:
        role = RequestRole(f"{_PREFIX}_request", secrets.token_hex(8))
        running = Postgres(owner_dsn, role)
        try:
            async with running.database() as template:
                await migrate(running.dsn(template), role)
                yield running, template
        finally:
            await running.execute(f"DROP ROLE IF EXISTS {role.name}")
