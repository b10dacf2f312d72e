"""The database and the server of the benchmark, and the time that the SQL takes."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from bench.environment import Environment
from bench.year.fleet import FIRST_VERSION, devices
from bench.year.ledger import Ledger
from bench.year.recount import EVENT_RETENTION, RETENTION
from bench.year.scale import Scale
from tests.harness.calls import Calls
from tests.support.database import Database
from tests.support.waiting import wait_until

SETTINGS = (
    *("shared_buffers=512MB", "max_wal_size=4GB"),
    # A real second has hours of the year.
    "autovacuum_naptime=1s",
)

_SECONDS_AHEAD = "year.seconds_ahead"
_INSERT_DEVICES = f"""
    WITH device AS (
        INSERT INTO public.device_state (tenant_id, device_id) SELECT $1, unnest($2::text[])
    ), fact AS (
        INSERT INTO jobs.device_facts (tenant_id, device_id, facts, facts_updated_at)
        SELECT $1, unnest($2::text[]), '{{"version": "{FIRST_VERSION}"}}', jobs.now()
    )
    INSERT INTO jobs.devices (tenant_id, device_id, labels, time_zone)
    SELECT $1, d.id, d.labels, d.zone
    FROM unnest($2::text[], $3::jsonb[], $4::text[]) AS d (id, labels, zone)
"""


async def year_database(env: Environment, scale: Scale) -> Database:
    """Let the time of the database move, and insert the devices of all tenants."""
    await _let_time_move(env.owner)
    fleet = devices(scale.devices, scale.cohorts)
    labels = [json.dumps(device.labels) for device in fleet]
    for tenant in scale.tenant_ids:
        await env.owner.execute(
            _INSERT_DEVICES,
            tenant,
            [device.device_id for device in fleet],
            labels,
            [device.zone for device in fleet],
        )
    return Database(env.owner_dsn, env.dsn, env.owner)


@asynccontextmanager
async def year_server(
    env: Environment, variables: Mapping[str, str]
) -> AsyncIterator[tuple[Calls, Calls]]:
    """Run the server with maintenance. Yields connections for calls and for streams of events."""
    async with (
        env.maintaining_server(
            JOBS_LOG_LEVEL="WARNING",
            JOBS_RETENTION_DAYS=str(RETENTION.days),
            JOBS_EVENT_RETENTION_DAYS=str(EVENT_RETENTION.days),
            # A full scan a day. All joins are by notes, except for those after ResumeJob.
            JOBS_JOIN_SCAN_INTERVAL="86400",
            **variables,
        ) as server,
        server.calls() as calls,
        server.calls() as streams,
    ):
        yield calls, streams


async def move_time(owner: asyncpg.Connection, ledger: Ledger, at: datetime) -> None:
    """Move the time that the SQL takes. It passes from then on."""
    seconds = round((at - datetime.now(UTC)).total_seconds(), 3)
    await owner.execute(f"ALTER SYSTEM SET {_SECONDS_AHEAD} = '{seconds}'")
    await owner.execute("SELECT pg_reload_conf()")

    async def has_moved() -> bool:
        found = await owner.fetchval(f"SELECT current_setting('{_SECONDS_AHEAD}')")
        return bool(found == f"{seconds}")

    # PostgreSQL sends the signal to all its sessions at once.
    await wait_until(has_moved)
    ledger.offset = timedelta(seconds=seconds)


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


def logged_errors(log: Path) -> list[str]:
    """Return the errors that the server has logged."""
    lines = log.read_text().splitlines()
    return [line for line in lines if " ERROR " in line or "Traceback" in line]
