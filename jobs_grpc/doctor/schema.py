"""Checks of the schema: its version, the isolation of tenants, and privileges."""

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db import readiness
from jobs_grpc.db.conversion import FIRST_CHECKSUM
from jobs_grpc.db.schema import code_checksum, migrations
from jobs_grpc.doctor.connection import fetch_one
from jobs_grpc.doctor.finding import Finding, Status

_NEEDS_USAGE = "needs privileges on the schemas"
_NEEDS_SCHEMA = "needs the schema of this version"


async def check_schema(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Compare the applied migrations, views and functions with those of this version."""
    if await readiness.missing_schema_usage(connection):
        return [Finding("schema", Status.SKIPPED, _NEEDS_USAGE)]
    return [await _check_schema(connection)]


async def check_isolation(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Report each reason why row-level security does not limit the role to one tenant."""
    if await readiness.missing_schema_usage(connection):
        return [Finding("isolation", Status.SKIPPED, _NEEDS_USAGE)]
    try:
        problems = await readiness.isolation_problems(connection)
    except readiness.NotReady as e:
        return [Finding("isolation", Status.ERROR, str(e), "correct the cause on that node")]
    if problems:
        return [
            Finding("isolation", Status.ERROR, problem, f"{remedy};")
            for problem, remedy in problems
        ]
    if not (await fetch_one(connection, "schema"))["exists"]:
        return [Finding("isolation", Status.SKIPPED, _NEEDS_SCHEMA)]
    return [Finding("isolation", Status.OK, "row-level security limits the role to one tenant")]


async def check_privileges(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Report each privilege that the request role lacks."""
    remedies = await readiness.missing_schema_usage(connection)
    if not remedies:
        if (await _check_schema(connection)).status != Status.OK:
            return [Finding("privileges", Status.SKIPPED, _NEEDS_SCHEMA)]
        remedies = await readiness.missing_table_privileges(connection)
    if not remedies:
        return [Finding("privileges", Status.OK, "the request role has all that calls need")]
    detail = "the request role lacks a privilege that calls need"
    return [
        Finding("privileges", Status.ERROR, detail, f"as the owner, run: {remedy};")
        for remedy in remedies
    ]


async def _check_schema(connection: asyncpg.Connection) -> Finding:
    schema = await fetch_one(connection, "schema")
    if not schema["exists"]:
        return _error("the database has no tables of jobs-grpc")
    if not schema["readable"]:
        return _error("the request role can't read which migrations were applied")
    applied = await fetch_one(connection, "migrations", code_checksum())
    checksums = dict(zip(applied["versions"], applied["checksums"], strict=True))
    if checksums.get(1) == FIRST_CHECKSUM:
        return _error(
            "the database has the tables of an earlier version",
            "stop all servers, back up the database, and run `jobs-grpc migrate`",
        )
    for migration in migrations():
        checksum = checksums.pop(migration.version, None)
        if checksum is None:
            return _error(f"migration {migration.label} was not applied")
        if checksum != migration.checksum:
            return _error(
                f"migration {migration.label} was applied with different SQL: the database belongs"
                " to another product, or was altered",
                "use another database, or restore this one from a backup",
            )
    if not applied["has_code"]:
        return _error("the views and functions of this version were not applied")
    detail = f"has all migrations up to {migrations()[-1].label}"
    if checksums:
        detail += f", and those of a newer version up to {max(checksums):04}"
    return Finding("schema", Status.OK, detail)


def _error(detail: str, remedy: str = "run `jobs-grpc migrate` of this version") -> Finding:
    return Finding("schema", Status.ERROR, detail, remedy)
