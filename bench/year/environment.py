"""The database and the server of the benchmark, and the time that the SQL takes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import grpc

from bench.environment import running_service
from bench.year.calls import Clock
from bench.year.consumers import Consumers
from bench.year.fleet import devices
from bench.year.recount import EVENT_RETENTION, RETENTION
from bench.year.scale import Scale
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev.embedded_postgres import Cluster
from tests.support.database import Database
from tests.support.waiting import wait_until

SETTINGS = (
    *("shared_buffers=512MB", "max_wal_size=4GB"),
    # A real second has hours of the year.
    "autovacuum_naptime=1s",
)

_SECONDS_AHEAD = "year.seconds_ahead"
_LOG = "server.log"
_ROLE = RequestRole("year_request")
_INSERT_DEVICES = """
    WITH device AS (
        INSERT INTO public.device_state (tenant_id, device_id) SELECT $1, unnest($2::text[])
    )
    INSERT INTO jobs.devices (tenant_id, device_id, labels, time_zone)
    SELECT $1, d.id, d.labels, d.zone
    FROM unnest($2::text[], $3::jsonb[], $4::text[]) AS d (id, labels, zone)
"""


@asynccontextmanager
async def year_database(cluster: Cluster, scale: Scale) -> AsyncIterator[Database]:
    """Create a database with the devices of all tenants."""
    dsn = cluster.dsn("year")
    first = await asyncpg.connect(cluster.dsn("postgres"))
    await first.execute("CREATE DATABASE year")
    await first.close()
    await migrate(dsn, _ROLE)
    owner = await asyncpg.connect(dsn)
    try:
        await _let_time_move(owner)
        fleet = devices(scale.devices, scale.cohorts)
        labels = [json.dumps(device.labels) for device in fleet]
        for tenant in scale.tenant_ids:
            await owner.execute(
                _INSERT_DEVICES,
                tenant,
                [device.device_id for device in fleet],
                labels,
                [device.zone for device in fleet],
            )
        yield Database(dsn, cluster.dsn("year", _ROLE.name), owner)
    finally:
        await owner.close()


@asynccontextmanager
async def year_server(
    database: Database, folder: Path, consumers: Consumers
) -> AsyncIterator[tuple[grpc.aio.Channel, grpc.aio.Channel]]:
    """Run the server with maintenance. Yields a channel for calls and one for streams of events."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        running_service(
            database.request_dsn,
            folder / _LOG,
            JOBS_OWNER_DATABASE_URL=database.owner_dsn,
            JOBS_LOG_LEVEL="WARNING",
            JOBS_RETENTION_DAYS=str(RETENTION.days),
            JOBS_EVENT_RETENTION_DAYS=str(EVENT_RETENTION.days),
            **consumers.variables,
        ) as server,
        grpc.aio.insecure_channel(server.address, options) as calls,
        grpc.aio.insecure_channel(server.address, options) as streams,
    ):
        yield calls, streams


async def move_time(owner: asyncpg.Connection, clock: Clock, at: datetime) -> None:
    """Move the time that the SQL takes. It passes from then on."""
    seconds = round((at - datetime.now(UTC)).total_seconds(), 3)
    await owner.execute(f"ALTER SYSTEM SET {_SECONDS_AHEAD} = '{seconds}'")
    await owner.execute("SELECT pg_reload_conf()")

    async def has_moved() -> bool:
        found = await owner.fetchval(f"SELECT current_setting('{_SECONDS_AHEAD}')")
        return bool(found == f"{seconds}")

    # PostgreSQL sends the signal to all its sessions at once.
    await wait_until(has_moved)
    clock.offset = timedelta(seconds=seconds)


async def _let_time_move(owner: asyncpg.Connection) -> None:
    """Let the two functions from which all SQL takes the time add a setting to it.

    If each step replaced the functions, all sessions would plan their statements again.
    """
    await owner.execute(f"ALTER SYSTEM SET {_SECONDS_AHEAD} = '0'")
    await owner.execute("SELECT pg_reload_conf()")
    for name, volatility, time in (
        ("now", "STABLE", "pg_catalog.now()"),
        ("clock_time", "VOLATILE", "clock_timestamp()"),
    ):
        await owner.execute(
            f"CREATE OR REPLACE FUNCTION jobs.{name}() RETURNS timestamptz LANGUAGE sql"
            f" {volatility} PARALLEL SAFE RETURN {time}"
            f" + make_interval(secs => current_setting('{_SECONDS_AHEAD}')::double precision)"
        )


def logged_errors(folder: Path) -> list[str]:
    """Return the errors that the server has logged."""
    lines = (folder / _LOG).read_text().splitlines()
    return [line for line in lines if " ERROR " in line or "Traceback" in line]
