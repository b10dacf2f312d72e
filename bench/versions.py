"""Versions of the service that are compared: a database each, and their CPU times."""

import importlib.util
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import asyncpg

from bench.process import cpu_seconds
from bench.requests import TENANT, InvalidRun
from jobs_grpc.db.migrate import RequestRole
from jobs_grpc.db.store import ExecutionUpdate, Store
from jobs_grpc.dev.embedded_postgres import Cluster
from tests.chaos.system import THIS_VERSION, Code
from tests.support.database import store_on

BEFORE, NOW = "before", "now"
"""The names of the versions and of their databases."""


@dataclass(frozen=True)
class Version:
    """A database with the schema of a version, and the statements of that version."""

    name: str
    owner: asyncpg.Connection
    connection: asyncpg.Connection
    """As the request role."""
    store: Store
    devices: int

    async def cpu_time(self, call: Awaitable[object]) -> float:
        """Await a call and return the CPU seconds that its process of PostgreSQL used."""
        pid = self.connection.get_server_pid()
        before = cpu_seconds([pid])
        await call
        return cpu_seconds([pid]) - before

    async def create(self, job_id: str, *, tenant: str = TENANT, **fields: Any) -> None:
        """Create a job, for all devices of the tenant if no field is a target."""
        request = {"document_type": "bench", "expires_in_hours": 24} | fields
        if not any(field.startswith("target_") for field in fields):
            request["target_all"] = True
        await self.store.create_job(
            tenant,
            job_id=job_id,
            request=json.dumps(request),
            document_params="{}",
            created_by="operator",
            max_targets=1_000_000,
            max_active_jobs=None,
            default_expires_in_hours=24,
        )

    async def update(self, updates: Sequence[ExecutionUpdate]) -> None:
        """Start executions or report on them, in one batch."""
        rows = await self.store.update_executions(TENANT, updates, wait_ms=1000)
        if any(cast("Any", row)["outcome"] != "APPLIED" for row in rows):
            raise InvalidRun(f"{self.name}: an update returned {rows[0]}")


async def measure_in_turn(
    versions: Sequence[Version], call: Callable[[Version, int], Awaitable[object]], number: int
) -> dict[str, float]:
    """Let each version make a call, and return the CPU times by version."""
    # Neither version is always the first.
    order = versions[:: -1 if number % 2 else 1]
    return {version.name: await version.cpu_time(call(version, number)) for version in order}


async def open_versions(
    stack: AsyncExitStack, cluster: Cluster, before: Code, devices: int
) -> Sequence[Version]:
    """Open an earlier version and this one, in this order."""
    return [
        await stack.enter_async_context(open_version(cluster, name, code, devices))
        for name, code in ((BEFORE, before), (NOW, THIS_VERSION))
    ]


@asynccontextmanager
async def open_version(
    cluster: Cluster, name: str, code: Code, devices: int
) -> AsyncIterator[Version]:
    """Create a database with the schema of a version."""
    async with migrated_database(cluster, name, code) as (owner, dsn):
        connection = await asyncpg.connect(dsn)
        # Its statements pass the arguments that a server of the version passes.
        store = store_on(connection, store_class=_store_class(code))
        try:
            yield Version(name, owner, connection, store, devices)
        finally:
            await connection.close()


@asynccontextmanager
async def migrated_database(
    cluster: Cluster, name: str, code: Code
) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """Create a database with the schema of a version.

    Yields a connection as its owner, and the DSN of the request role.
    """
    role = RequestRole().name
    admin = await asyncpg.connect(cluster.dsn("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    await code.migrate(cluster.dsn(name), cluster.dsn(name, role))
    owner = await asyncpg.connect(cluster.dsn(name))
    for table in ("jobs", "job_executions", "job_progress"):
        await owner.execute(f"ALTER TABLE jobs.{table} SET (autovacuum_enabled = false)")
    try:
        yield owner, cluster.dsn(name, role)
    finally:
        await owner.close()


def _store_class(code: Code) -> type[Store]:
    """Load the store of a version, with everything else of this version."""
    spec = importlib.util.spec_from_file_location(
        "store_of_version", code.folder / "jobs_grpc/db/store.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    store: type[Store] = module.Store
    return store
