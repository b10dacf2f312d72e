"""Checks of the database as the request role: what the server needs to serve calls."""

import time
from collections.abc import Awaitable, Callable

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.doctor import cleanup, cluster, connections, device_tables, schema
from jobs_grpc.doctor.connection import (
    DATABASE_ERRORS,
    ConnectError,
    check_failed,
    connect,
    connect_failed,
    fetch_one,
)
from jobs_grpc.doctor.finding import Finding, Status

_MIN_VERSION = 15

# Seconds by which the clocks may differ, in addition to the uncertainty of the measurement.
_MAX_CLOCK_DIFFERENCE = 2.0

Check = Callable[[asyncpg.Connection, Config], Awaitable[list[Finding]]]


async def check_database(config: Config) -> list[Finding]:
    """Run the checks that need a connection of the request role."""
    checks: dict[str, Check] = {
        "database": _check_server,
        "clock": _check_clock,
        "cluster": cluster.check_cluster,
        "schema": schema.check_schema,
        "isolation": schema.check_isolation,
        "privileges": schema.check_privileges,
        "device-tables": device_tables.check_device_tables,
        "connections": connections.check_limits,
        "pool": connections.check_sessions,
        "dead-rows": cleanup.check_dead_rows,
        "slots": cleanup.check_slots,
    }
    try:
        async with connect(config.database.url, config) as connection:
            return [
                finding
                for name, check in checks.items()
                for finding in await _run(name, check, connection, config)
            ]
    except ConnectError as e:
        del checks["database"]
        skipped = [Finding(name, Status.SKIPPED, "needs the database") for name in checks]
        return [connect_failed("database", "JOBS_DATABASE_URL", e), *skipped]


async def _run(
    name: str, check: Check, connection: asyncpg.Connection, config: Config
) -> list[Finding]:
    """Run one check. If it fails, the next ones still run."""
    try:
        return await check(connection, config)
    except DATABASE_ERRORS as e:
        return [check_failed(name, e)]


async def _check_server(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    row = await fetch_one(connection, "server")
    detail = f"PostgreSQL {row['version']}, database {row['database']}, role {row['role']}"
    if problem := version_problem(row["version_number"]):
        return [Finding("database", Status.ERROR, f"{detail}: {problem}", "upgrade PostgreSQL")]
    if row["read_only"]:
        return [
            Finding(
                "database",
                Status.ERROR,
                f"{detail}: transactions are read-only",
                "connect to the primary server, or unset default_transaction_read_only",
            )
        ]
    return [Finding("database", Status.OK, detail)]


def version_problem(version_number: int) -> str | None:
    """Why a server_version_num, such as 150002, is not supported; None if it is."""
    supported = version_number >= _MIN_VERSION * 10000
    return None if supported else f"version {_MIN_VERSION} or newer is needed"


async def _check_clock(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    # Prepares the statement, so that the measurement does not include that.
    await fetch_one(connection, "clock")
    before, started = time.time(), time.perf_counter()
    row = await fetch_one(connection, "clock")
    uncertainty = (time.perf_counter() - started) / 2
    difference = before + uncertainty - row["seconds"]
    direction = "ahead of" if difference > 0 else "behind"
    detail = f"this host is {abs(difference):.3f} s {direction} PostgreSQL (±{uncertainty:.3f} s)"
    if abs(difference) - uncertainty <= _MAX_CLOCK_DIFFERENCE:
        return [Finding("clock", Status.OK, detail)]
    return [
        Finding(
            "clock",
            Status.WARNING,
            f"{detail}; tokens and certificates expire by this host's clock, jobs by PostgreSQL's",
            "synchronize the clocks of both hosts (chrony, systemd-timesyncd)",
        )
    ]
