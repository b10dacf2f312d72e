"""Migrates a database to this version's schema: forward only, one migration at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from jobs_grpc.config import ConfigError
from jobs_grpc.db import citus, device_tables, schema
from jobs_grpc.db.connect import connect
from jobs_grpc.db.conversion import ConversionError, convert
from jobs_grpc.db.fact_labels import REMEDY, describe_fact_labels
from jobs_grpc.db.index_migrations import run_index_statements, run_outside_transaction
from jobs_grpc.db.migration_progress import Report, reporting_progress
from jobs_grpc.db.pg_errors import CONNECTION_LOST
from jobs_grpc.db.schema import Migration, migrations
from jobs_grpc.db.scram import scram_verifier
from jobs_grpc.db.sql_statements import execute_each, split_statements
from jobs_grpc.db.views_and_functions import ReplacementError, replace_views_and_functions

T = TypeVar("T")

DEFAULT_REQUEST_ROLE = "jobs_request"

# Only one process migrates at a time. The number is arbitrary.
_ADVISORY_LOCK = 7_203_114_905

# How long a statement of a migration waits for a lock. Calls that need the same table queue behind
# it, so the wait is short.
_LOCK_TIMEOUT = "5s"
_SET_LOCK_TIMEOUT = f"SET lock_timeout = '{_LOCK_TIMEOUT}'"

# How often a transaction that calls block is run before it fails, in about a minute, and how much
# longer it waits for a lock each time. Calls that lock in another order deadlock with it, so the
# first waits are shorter than deadlock_timeout.
_ATTEMPTS = 17
_WAIT_MS = 200

# How often a process that waits for another one's migration tries to lock.
_LOCK_POLL_SECONDS = 0.5


class MigrationError(Exception):
    """The database cannot be migrated. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class RequestRole:
    """The PostgreSQL login that serves calls. `password` is used only to create it."""

    name: str = DEFAULT_REQUEST_ROLE
    password: str | None = None

    @classmethod
    def from_dsn(cls, dsn: str | None) -> "RequestRole":
        """Return the user and password of a request DSN; without a DSN, the default role.

        Raises ConfigError if the DSN names no user: the driver would use the name of the
        operating-system user, which is most likely the owner.
        """
        if dsn is None:
            return cls()
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
        user = unquote(parts.username or "") or query.get("user", [""])[-1]
        password = unquote(parts.password or "") or query.get("password", [""])[-1]
        if not user:
            raise ConfigError(
                "JOBS_DATABASE_URL names no user for the request role: add one to it, or pass"
                " --request-role"
            )
        return cls(user, password or None)


async def migrate(
    owner_dsn: str,
    role: RequestRole,
    report: Report | None = None,
    *,
    require_citus: bool = False,
    device_tables_manager: device_tables.Choice | None = None,
    changes: list[str] | None = None,
) -> list[str]:
    """Apply missing migrations, views and functions, and grant `role` what it needs.

    For `device_tables_manager` see device_tables.py.

    If the database has the extension citus, distribute the tables and functions. Calls `report`
    about once a second with what a long migration is doing. Appends one line per change to
    `changes` once it is committed, and returns the list. If it is interrupted, repeat it. Raises
    MigrationError, and what asyncpg raises if the database is unavailable.
    """
    changes = [] if changes is None else changes
    connection = await connect(owner_dsn, timeout=10)
    try:
        if await connection.fetchval("SELECT $1 IN (current_user, session_user)", role.name):
            raise MigrationError(
                f"{role.name} is the owner and can't also be the request role;"
                " JOBS_DATABASE_URL needs a separate login"
            )
        on_citus = await citus.is_installed(connection)
        if on_citus:
            await citus.check_cluster(connection)
        elif require_citus:
            raise MigrationError(
                "the database has no extension citus: run CREATE EXTENSION citus in this database"
                " on every node, and add the workers with SELECT citus_add_node('HOST', PORT)"
            )
        async with reporting_progress(owner_dsn, connection, report):
            await _lock(connection, report)
            await connection.execute(_SET_LOCK_TIMEOUT)
            await execute_each(connection, schema.read_sql("bootstrap.sql"))
            changes += await convert(connection, role.name)
            changes += await device_tables.decide(connection, device_tables_manager)
            missing = await _missing_migrations(connection)
            before = [migration for migration in missing if not migration.after_code]
            after = [migration for migration in missing if migration.after_code]
            await _apply(connection, before, changes, report)
            changes += await _ensure_role(connection, role, on_citus=on_citus)
            apply_code = partial(_apply_code, connection, role, bool(before), on_citus)
            changes += await _repeat_blocked(apply_code, report)
            changes += await _set_up_device_tables(connection, role, device_tables_manager)
            await _apply(connection, after, changes, report)
            if before:
                changes += await _examine_labels(connection)
            return changes
    except (
        citus.ClusterError,
        ConversionError,
        device_tables.NotWritable,
        ReplacementError,
    ) as e:
        raise MigrationError(str(e)) from e
    finally:
        await connection.close()


async def _examine_labels(connection: asyncpg.Connection) -> list[str]:
    """Name labels that look like facts. An error only says so: the migration is complete."""
    try:
        found = await describe_fact_labels(connection)
    except (*CONNECTION_LOST, TimeoutError, asyncpg.PostgresError) as e:
        cause = str(e) or type(e).__name__
        return [f"did not search for labels that begin with fact. ({cause}); jobs-grpc doctor does"]
    return [f"{found}; {REMEDY}"] if found else []


async def _lock(connection: asyncpg.Connection, report: Report | None) -> None:
    """Wait until no other session migrates, then lock until the session ends.

    Without pg_advisory_lock(), which would wait within a statement: CREATE INDEX CONCURRENTLY of
    the other session waits for the snapshots of all running statements, so both would wait for
    each other.
    """
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _ADVISORY_LOCK):
        if report:
            report("waiting for another session that migrates")
        await asyncio.sleep(_LOCK_POLL_SECONDS)


async def _missing_migrations(connection: asyncpg.Connection) -> list[Migration]:
    """Return the migrations to apply. Raises MigrationError if an applied one has changed."""
    applied = {
        row["version"]: row["checksum"]
        for row in await connection.fetch("SELECT version, checksum FROM jobs.migrations")
    }
    missing = []
    for migration in migrations():
        checksum = applied.get(migration.version)
        if checksum is None:
            missing.append(migration)
        elif checksum != migration.checksum:
            raise MigrationError(
                f"migration {migration.label} was applied with different SQL: the database belongs"
                " to another product, or was altered; use another database or restore this one"
            )
    return missing


async def _apply(
    connection: asyncpg.Connection,
    missing: list[Migration],
    changes: list[str],
    report: Report | None,
) -> None:
    for migration in missing:
        if migration.in_transaction:
            await _repeat_blocked(partial(_apply_in_transaction, connection, migration), report)
        else:
            await run_outside_transaction(connection, migration)
            await connection.execute(_SET_LOCK_TIMEOUT)
            await _record(connection, migration)
        changes.append(f"applied migration {migration.label}")


async def _apply_in_transaction(
    connection: asyncpg.Connection, migration: Migration, lock_timeout: str
) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{lock_timeout}'")
        await execute_each(connection, migration.sql)
        await _record(connection, migration)


async def _repeat_blocked(run: Callable[[str], Awaitable[T]], report: Report | None) -> T:
    """Run a transaction with a lock timeout.

    If calls block it, pause as long as it has waited, and run it again.
    """
    for wait_ms in range(_WAIT_MS, _WAIT_MS * _ATTEMPTS, _WAIT_MS):
        with suppress(asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError):
            return await run(f"{wait_ms}ms")
        if report:
            report("waiting for calls that use the same tables or views")
        await asyncio.sleep(wait_ms / 1000)
    return await run(_LOCK_TIMEOUT)


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO jobs.migrations (version, name, checksum) VALUES ($1, $2, $3)",
        migration.version,
        migration.name,
        migration.checksum,
    )


async def _apply_code(
    connection: asyncpg.Connection,
    role: RequestRole,
    force: bool,
    on_citus: bool,
    lock_timeout: str,
) -> list[str]:
    checksum = schema.code_checksum()
    rows = await connection.fetch("SELECT checksum FROM jobs.schema_code ORDER BY applied_at DESC")
    known = [row["checksum"] for row in rows]
    newest = known[0] if known else None
    if not force and newest != checksum and (checksum in known or await _is_ahead(connection)):
        return ["kept the views and functions of a newer version"]
    changes = []
    if on_citus and (nodes := await citus.nodes_without_privileges(connection, role.name)):
        changes.append(f"granted {role.name} the privileges on views on {', '.join(nodes)}")
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{lock_timeout}'")
        # Views first need the tables to be distributed, and grants the views.
        if on_citus:
            changes += await citus.distribute_tables(connection)
        if force or newest != checksum:
            await replace_views_and_functions(connection)
            await connection.execute(
                "INSERT INTO jobs.schema_code (checksum, applied_at) VALUES ($1, clock_timestamp())"
                " ON CONFLICT (checksum) DO UPDATE SET applied_at = excluded.applied_at",
                checksum,
            )
            changes.append("applied views and functions")
        if on_citus:
            await citus.distribute_functions(connection)
        await execute_each(
            connection, await _for_role(connection, role, schema.read_sql("grants.sql"))
        )
    return changes


async def _is_ahead(connection: asyncpg.Connection) -> bool:
    """Whether the database has a migration that this version does not have."""
    latest: int = await connection.fetchval("SELECT max(version) FROM jobs.migrations")
    return latest > migrations()[-1].version


async def _set_up_device_tables(
    connection: asyncpg.Connection, role: RequestRole, manager: device_tables.Choice | None
) -> list[str]:
    """Grant what calls need on the device tables, and create the indexes of own ones.

    If another role owns the tables, return the SQL for it.
    """
    if are_own := await device_tables.are_own(connection):
        await run_index_statements(
            connection, split_statements(schema.read_sql("own_device_indexes.sql"))
        )
        await connection.execute(_SET_LOCK_TIMEOUT)
        # Runs once. Servers that register devices meanwhile add the rows of their tenants: see
        # change_device_count.sql. Servers before 0.1.0 do not, but none can run: see conversion.py.
        if not await connection.fetchval("SELECT EXISTS (SELECT 1 FROM jobs.device_counts)"):
            await connection.execute(
                "INSERT INTO jobs.device_counts (tenant_id, device_count)"
                " SELECT tenant_id, count(*) FROM public.device_state GROUP BY tenant_id"
                " ON CONFLICT DO NOTHING"
            )
    else:
        # If the tables become own ones again, the devices are counted again.
        await connection.execute("DELETE FROM jobs.device_counts")
    privileges = ["SELECT", "INSERT", "UPDATE", "DELETE"] if are_own else ["SELECT"]
    tables = "public.device_state, public.device_group_members"
    sql = ""
    if not await connection.fetchval(
        "SELECT has_schema_privilege($1, 'public', 'USAGE')"
        " AND bool_and(has_table_privilege($1, name, privilege))"
        " FROM unnest(string_to_array($2, ', ')) AS name, unnest($3::text[]) AS privilege",
        role.name,
        tables,
        privileges,
    ):
        sql = (
            "GRANT USAGE ON SCHEMA public TO {role};"
            f" GRANT {', '.join(privileges)} ON {tables} TO {{role}};"
        )
    if manager == "platform":
        sql += f" REVOKE INSERT, UPDATE, DELETE ON {tables} FROM {{role}};"
    sql = await _for_role(connection, role, sql)
    try:
        async with connection.transaction():
            await execute_each(connection, sql)
    except asyncpg.InsufficientPrivilegeError:
        return [f"as the owner of the device tables, run: {sql.strip()}"]
    return []


async def _ensure_role(
    connection: asyncpg.Connection, role: RequestRole, *, on_citus: bool
) -> list[str]:
    sql = await _for_role(
        connection, role, "CREATE ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE"
    )
    # Not the password itself, which PostgreSQL may log as part of the statement.
    password = f" PASSWORD '{scram_verifier(role.password)}'" if role.password else ""
    changes = []
    if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role.name):
        try:
            await connection.execute(sql + password)
        except asyncpg.InsufficientPrivilegeError:
            hint = " PASSWORD '…'" if role.password else ""
            raise MigrationError(
                f"the owner lacks the privilege to create the request role; as an administrator,"
                f" run: {sql}{hint}; then migrate again"
            ) from None
        hint = "" if role.password else " without a password: set one if the server requires it"
        changes.append(f"created role {role.name}{hint}")
    if on_citus:
        await citus.create_role(connection, role.name, sql + password)
    return changes


async def _for_role(connection: asyncpg.Connection, role: RequestRole, sql: str) -> str:
    quoted = await connection.fetchval("SELECT quote_ident($1)", role.name)
    return sql.replace("{role}", quoted)
