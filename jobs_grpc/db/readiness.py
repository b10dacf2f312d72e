"""Checks that a database has this version's schema and isolates tenants."""

import asyncpg

from jobs_grpc.db import citus, schema
from jobs_grpc.db.tenant_tables import TENANT_TABLES


class NotReady(Exception):
    """The service cannot serve calls at the moment. The message says why."""


class DatabaseUnresponsive(NotReady):
    """The database does not respond. Outage logs this."""


class SchemaMismatch(NotReady):
    """The schema is not the one of this version."""


class NotIsolated(Exception):
    """Row-level security does not limit the request role to one tenant."""


async def check_ready(connection: asyncpg.Connection, *, all_nodes: bool = True) -> None:
    """Check the database for the connection's role. Raises NotReady and NotIsolated.

    With `all_nodes`, check the isolation on all nodes of a Citus cluster.
    """
    _require_privileges(await missing_schema_usage(connection))
    if problems := await isolation_problems(connection, all_nodes=all_nodes):
        problem = "; ".join(problem for problem, _ in problems)
        remedy = " ".join(f"{remedy};" for _, remedy in problems)
        raise NotIsolated(f"tenants are not isolated: {problem}. To fix it, run: {remedy}")
    await _check_schema(connection)
    _require_privileges(await missing_table_privileges(connection))


async def isolation_problems(
    connection: asyncpg.Connection, *, all_nodes: bool = True
) -> list[tuple[str, str]]:
    """Return why the role is not limited to one tenant, each with the SQL that fixes it.

    Raises NotReady if a node of a Citus cluster can't be checked.
    """
    rows = await connection.fetch(schema.read_sql("checks/isolation.sql"), list(TENANT_TABLES))
    problems = [(row["problem"], row["remedy"]) for row in rows]
    # What is wrong here is wrong on the other nodes as well, and its remedy is sent to them.
    if not problems and all_nodes and await citus.is_installed(connection):
        try:
            return await citus.isolation_problems(connection)
        except citus.ClusterError as e:
            raise NotReady(str(e)) from e
    return problems


async def missing_schema_usage(connection: asyncpg.Connection) -> list[str]:
    """Return the SQL that grants the role the use of the schemas. The other checks need it."""
    return await _remedies(connection, "checks/schema_usage.sql")


async def missing_table_privileges(connection: asyncpg.Connection) -> list[str]:
    """Return the SQL that grants the role the table privileges that it lacks.

    Fails if a table does not exist.
    """
    names, privileges = zip(*schema.table_privileges(), strict=True)
    missing = await _remedies(connection, "checks/privileges.sql", list(names), list(privileges))
    # Reads jobs.device_tables, so it needs a privilege that the first check covers.
    return missing or await _remedies(connection, "checks/device_privileges.sql")


async def _remedies(connection: asyncpg.Connection, check: str, *args: object) -> list[str]:
    return [row["remedy"] for row in await connection.fetch(schema.read_sql(check), *args)]


def _require_privileges(remedies: list[str]) -> None:
    if remedies:
        remedy = " ".join(f"{remedy};" for remedy in remedies)
        raise NotReady(f"the request role lacks privileges: as the tables' owner, run: {remedy}")


async def _check_schema(connection: asyncpg.Connection) -> None:
    try:
        current = await connection.fetchval(
            schema.read_sql("checks/schema.sql"),
            # As text: asyncpg knows text[] and need not look it up in the catalog.
            [str(migration.version) for migration in schema.migrations()],
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
