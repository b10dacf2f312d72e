"""Servers under test whose background work is that of the machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from jobs_grpc.maintenance.sweeper import Sweeper
from tests.machine.clock import Clock
from tests.machine.machine import Service
from tests.support.database import Database, request_session
from tests.support.postgres import Postgres
from tests.support.server import Server
from tests.support.webhooks import RecordingSender, running_webhook_server


@asynccontextmanager
async def server_without_sweeper(
    database: Database, cluster: tuple[Postgres, str], webhook_keys: Path
) -> AsyncIterator[Server]:
    """A server whose background work is done elsewhere, so that only the machine sweeps."""
    postgres, template = cluster
    async with (
        postgres.database(template) as other,
        running_webhook_server(
            database, webhook_keys, RecordingSender(), JOBS_OWNER_DATABASE_URL=postgres.dsn(other)
        ) as server,
    ):
        yield server


@asynccontextmanager
async def service(
    database: Database, server: Server, clock: Clock, sender: RecordingSender | None = None
) -> AsyncIterator[Service]:
    async with Sweeper(database.owner_dsn) as sweeper, request_session(database) as (_, store):
        yield Service(database, server, sweeper, store, clock, sender or RecordingSender())
