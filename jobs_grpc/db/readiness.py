"""Checks that a database has this version's schema and isolates tenants."""

import asyncpg

from jobs_grpc.db import schema


class NotReady(Exception):
    """The service cannot serve calls at the moment. The message says why."""


class DatabaseAway(NotReady):
    """The database does not respond. Outage logs this."""


class SchemaMismatch(NotReady):
    """The schema is not the one of this version."""


class NotIsolated(Exception):
    """Row-level security does not limit the request role to one tenant."""


async def check_ready(connection: asyncpg.Connection) -> None:
    """Check the database for the connection's role. Raises NotReady and NotIsolated."""
    await _check_privileges(connection, "checks/schema_usage.sql")
    await _check_isolation(connection)
    await _check_schema(connection)
    await _check_privileges(connection, "checks/privileges.sql")


async def _check_isolation(connection: asyncpg.Connection) -> None:
    problems = await connection.fetch(
        schema.read_sql("checks/isolation.sql"), list(schema.TENANT_TABLES)
    )
    if problems:
        problem = "; ".join(row["problem"] for row in problems)
        remedy = " ".join(f"{row['remedy']};" for row in problems)
        raise NotIsolated(f"tenants are not isolated: {problem}. To fix it, run: {remedy}")


async def _check_schema(connection: asyncpg.Connection) -> None:
    try:
        current = await connection.fetchval(
            schema.read_sql("checks/schema.sql"),
            [migration.version for migration in schema.migrations()],
            [migration.checksum for migration in schema.migrations()],
            schema.code_checksum(),
        )
    except (
        asyncpg.InvalidSchemaNameError,
        asyncpg.UndefinedTableError,
        asyncpg.InsufficientPrivilegeError,
    ):
        current = False
    if not current:
        raise SchemaMismatch("the schema is not the one of this version: run `jobs-grpc migrate`")


async def _check_privileges(connection: asyncpg.Connection, check: str) -> None:
    missing = await connection.fetch(schema.read_sql(check))
    if missing:
        remedy = " ".join(f"{row['remedy']};" for row in missing)
        raise NotReady(f"the request role lacks privileges: as the tables' owner, run: {remedy}")
