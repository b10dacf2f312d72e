"""Replaces the views and functions of a database with those of this version.

Each file has one view, or one function without overloads, and is named after it. CREATE OR REPLACE
keeps the object, its privileges and what depends on it. It does not replace a function with other
parameters. If the results or columns do not fit, drops the object with its dependents; their files
come later and create them again.
"""

from collections.abc import Collection
from contextlib import suppress

import asyncpg

from jobs_grpc.db import schema
from jobs_grpc.db.sql_statements import execute_each

_FUNCTIONS = """
    SELECT oid, xmin::text AS version, 'FUNCTION' AS kind, 'pg_proc' AS catalog,
           oid::regprocedure::text AS signature
    FROM pg_proc WHERE pronamespace = 'jobs'::regnamespace AND proname = $1
"""
_VIEWS = """
    SELECT oid, NULL AS version, 'VIEW' AS kind, 'pg_class' AS catalog,
           oid::regclass::text AS signature
    FROM pg_class WHERE relnamespace = 'jobs'::regnamespace AND relkind = 'v' AND relname = $1
"""
_OTHERS = """
    SELECT oid, 'FUNCTION' AS kind, 'pg_proc' AS catalog, oid::regprocedure::text AS signature,
           proname AS name
    FROM pg_proc WHERE pronamespace = 'jobs'::regnamespace AND proname <> ALL ($1::text[])
    UNION ALL
    SELECT oid, 'VIEW', 'pg_class', oid::regclass::text, relname
    FROM pg_class
    WHERE relnamespace = 'jobs'::regnamespace AND relkind = 'v' AND relname <> ALL ($1::text[])
"""
# Statements that lock the views, and change nothing. LOCK would also lock the tables below them. As
# in queries, a view comes before those that it uses.
_LOCKS = """
    SELECT format('ALTER VIEW %s OWNER TO %s', c.oid::regclass, c.relowner::regrole) AS statement
    FROM unnest($1::text[]) WITH ORDINALITY AS code (name, n)
    JOIN pg_class c ON c.relname = code.name
    WHERE c.relnamespace = 'jobs'::regnamespace AND c.relkind = 'v'
    ORDER BY code.n DESC
"""
# Statements that restore privileges. REVOKE, because PUBLIC may execute each new function.
_PRIVILEGES = """
    WITH objects AS (
        SELECT oid, relname AS name, format('jobs.%I', relname) AS object, '' AS columns,
               relacl AS acl, relowner AS owner
        FROM pg_class WHERE relnamespace = 'jobs'::regnamespace AND relkind = 'v'
        UNION ALL
        SELECT c.oid, c.relname, format('jobs.%I', c.relname), format(' (%I)', a.attname),
               a.attacl, c.relowner
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'jobs'::regnamespace AND c.relkind = 'v'
        UNION ALL
        SELECT oid, proname, format('FUNCTION jobs.%I', proname), '', proacl, proowner
        FROM pg_proc WHERE pronamespace = 'jobs'::regnamespace
    )
    SELECT oid, format('REVOKE ALL ON FUNCTION jobs.%I FROM PUBLIC', proname) AS statement
    FROM pg_proc
    WHERE pronamespace = 'jobs'::regnamespace AND proname = ANY ($1::text[]) AND proacl IS NOT NULL
    UNION ALL
    SELECT o.oid, format(
        'GRANT %s%s ON %s TO %s%s', g.privilege_type, o.columns, o.object,
        CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END,
        CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    )
    FROM objects o CROSS JOIN aclexplode(o.acl) g
    WHERE o.name = ANY ($1::text[]) AND g.grantee <> o.owner
    ORDER BY statement DESC  -- REVOKE first
"""


class ReplacementError(Exception):
    """An object that is not ours depends on one that must be dropped.

    The message says what to do.
    """


async def replace_views_and_functions(connection: asyncpg.Connection) -> None:
    """Create all views and functions, and drop those that they replace.

    Runs in a transaction of the caller. Raises ReplacementError.
    """
    for row in await connection.fetch(_LOCKS, list(schema.code())):
        await connection.execute(row["statement"])
    await execute_each(connection, schema.read_sql("dropped_functions.sql"))
    privileges = await connection.fetch(_PRIVILEGES, list(schema.code()))
    for name, sql in schema.code().items():
        await _replace(connection, name, sql)
    kept = {row["oid"] for row in await connection.fetch(_PRIVILEGES, list(schema.code()))}
    for row in privileges:
        if row["oid"] not in kept:
            # A view may have lost the column.
            with suppress(asyncpg.UndefinedColumnError):
                async with connection.transaction():
                    await connection.execute(row["statement"])


async def drop_others(connection: asyncpg.Connection) -> None:
    """Drop the views and functions that have no file. Raises ReplacementError."""
    others = await connection.fetch(_OTHERS, list(schema.code()))
    for row in others:
        await _drop(connection, row, {other["name"] for other in others})


async def _replace(connection: asyncpg.Connection, name: str, sql: str) -> None:
    earlier = await connection.fetch(_FUNCTIONS, name)
    try:
        async with connection.transaction():
            await execute_each(connection, sql)
    except (asyncpg.InvalidFunctionDefinitionError, asyncpg.InvalidTableDefinitionError):
        for row in [*earlier, *await connection.fetch(_VIEWS, name)]:
            await _drop(connection, row)
        await execute_each(connection, sql)
        return
    # Dropped now, because later files would use an earlier overload that fits better.
    if earlier:
        current = await connection.fetch(_FUNCTIONS, name)
        for row in current:
            if row in earlier:
                await _drop(connection, row)


async def _drop(
    connection: asyncpg.Connection, row: asyncpg.Record, others: Collection[str] = ()
) -> None:
    names = [*schema.code(), *others]
    dependents = await connection.fetch(
        schema.read_sql("dependents.sql"), row["catalog"], row["oid"], names
    )
    if dependents:
        listed = ", ".join(dependent["name"] for dependent in dependents)
        raise ReplacementError(
            f"{row['signature']} changes, and other objects depend on it: {listed}; drop them,"
            " migrate, and create them again"
        )
    await connection.execute(f"DROP {row['kind']} IF EXISTS {row['signature']} CASCADE")
