"""Checks of maintenance: the owner's login, and how late background work is."""

from contextlib import suppress

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db import schema
from jobs_grpc.doctor.connection import (
    DATABASE_ERRORS,
    ConnectError,
    check_failed,
    connect,
    connect_failed,
    fetch_one,
)
from jobs_grpc.doctor.counts import check_counts
from jobs_grpc.doctor.finding import Finding, Status

_CHECK = "maintenance"
_COUNTS_CHECK = "device-counts"

# Seconds. A sweep begins every second; work on a large job can take minutes.
_MAX_LAG = 300.0


async def check_maintenance(config: Config, max_executions: int) -> list[Finding]:
    """Run the checks that need a connection of the owner."""
    owner_url = config.maintenance.owner_database_url
    if owner_url is None:
        return [
            Finding(
                _CHECK,
                Status.WARNING,
                "JOBS_OWNER_DATABASE_URL is not set: this server runs no maintenance, and whether"
                " another one does is unknown",
                "set it on at least one server, and run `jobs-grpc doctor` there",
            )
        ]
    try:
        async with connect(owner_url, config) as connection:
            if problem := await _check_owner(connection, config):
                return [problem]
            return [
                *await _check_lag(connection, config),
                *await _check_device_counts(connection),
                *await check_counts(connection, max_executions),
            ]
    except ConnectError as e:
        return [connect_failed(_CHECK, "JOBS_OWNER_DATABASE_URL", e)]
    except DATABASE_ERRORS as e:
        return [check_failed(_CHECK, e)]


async def _check_owner(connection: asyncpg.Connection, config: Config) -> Finding | None:
    """Return why maintenance cannot work with this login, or None."""
    owner = await fetch_one(connection, "owner")
    # If the request role can't connect, another check reports it.
    with suppress(ConnectError):
        async with connect(config.database.url, config) as other:
            request = await fetch_one(other, "owner")
            if (owner["started"], owner["database"]) != (request["started"], request["database"]):
                return Finding(
                    _CHECK,
                    Status.ERROR,
                    "JOBS_OWNER_DATABASE_URL names a different database than JOBS_DATABASE_URL",
                    "set both to the same host and database",
                )
    if not owner["has_tables"]:
        return Finding(_CHECK, Status.SKIPPED, "needs the schema")
    if not owner["sees_all_rows"]:
        return Finding(
            _CHECK,
            Status.ERROR,
            f"{owner['role']} does not see the rows of all tenants, so no work is found",
            "set JOBS_OWNER_DATABASE_URL to the login of the owner of the tables",
        )
    return None


async def _check_device_counts(connection: asyncpg.Connection) -> list[Finding]:
    """Report tenants whose number of devices, for JOBS_MAX_TENANT_DEVICES, is wrong."""
    try:
        rows = await connection.fetch(schema.read_sql("checks/doctor/device_counts.sql"))
    except TimeoutError:
        # Reads the whole table, which can take longer on a large one that is healthy.
        return [
            Finding(
                _COUNTS_CHECK,
                Status.WARNING,
                "the devices could not be counted in time",
                "as the owner, compare jobs.device_counts with:"
                " SELECT tenant_id, count(*) FROM public.device_state GROUP BY tenant_id;",
            )
        ]
    except DATABASE_ERRORS as e:
        return [check_failed(_COUNTS_CHECK, e)]
    if not rows:
        return [Finding(_COUNTS_CHECK, Status.OK, "the stored device counts are correct")]
    return [
        Finding(
            _COUNTS_CHECK,
            Status.WARNING,
            f"tenant {row['tenant_id']} has {row['counted']:,} devices, but the stored count is"
            f" {row['stored']:,}: rows of public.device_state were changed outside the API",
            "as the owner, run `DELETE FROM jobs.device_counts WHERE tenant_id ="  # noqa: S608 - shown, not run
            f" {row['tenant_literal']}`. The next call that registers or deletes devices"
            " counts them again",
        )
        for row in rows
    ]


async def _check_lag(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Report the work that should have been done long ago."""
    async with connection.transaction(readonly=True):
        # As in the searches of maintenance: only the partial indexes deliver the order.
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        row = await fetch_one(connection, "maintenance_lag", config.maintenance.retention_days)
    lags = {task: lag for task, lag in row.items() if lag is not None}
    remedy = (
        "start a server with JOBS_OWNER_DATABASE_URL; if one runs, its log has lines that begin"
        " with `maintenance`"
    )
    findings = [
        Finding(_CHECK, Status.ERROR, f"{task} is {lag:.0f} s late", remedy)
        for task, lag in lags.items()
        if lag > _MAX_LAG
    ]
    if findings:
        return findings
    oldest = f"the oldest work is {max(lags.values()):.0f} s late" if lags else "no work is due"
    return [Finding(_CHECK, Status.OK, oldest)]
