"""Replaces the views and functions of a database with those of this version.

Each file has one view, or one function without overloads, and is named after it. CREATE OR REPLACE
keeps the object, its privileges and what depends on it. It does not replace a function with other
parameters, and fails if the results of a function or the columns of a view do not fit: then the
earlier object is dropped, and what depends on it. That has files, which come later.
"""

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
_GRANTS = """
    SELECT c.oid, format(
        'GRANT %s ON jobs.%I TO %s', g.privilege_type, c.relname,
        CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END
    ) AS statement
    FROM pg_class c CROSS JOIN aclexplode(c.relacl) g
    WHERE c.relnamespace = 'jobs'::regnamespace AND c.relkind = 'v' AND g.grantee <> c.relowner
      AND c.relname = ANY ($1::text[])
"""


class ReplacementError(Exception):
    """Something without a file depends on what must be dropped. The message says what to do."""


async def replace_views_and_functions(connection: asyncpg.Connection) -> None:
    """Create all views and functions, and drop those that they replace.

    Runs in a transaction of the caller. Raises ReplacementError.
    """
    await execute_each(connection, schema.read_sql("dropped_functions.sql"))
    grants = await connection.fetch(_GRANTS, list(schema.code()))
    for name, sql in schema.code().items():
        await _replace(connection, name, sql)
    kept = {row["oid"] for row in await connection.fetch(_GRANTS, list(schema.code()))}
    for grant in grants:
        if grant["oid"] not in kept:
            await connection.execute(grant["statement"])


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


async def _drop(connection: asyncpg.Connection, row: asyncpg.Record) -> None:
    dependents = await connection.fetch(
        schema.read_sql("dependents.sql"), row["catalog"], row["oid"], list(schema.code())
    )
    if dependents:
        names = ", ".join(dependent["name"] for dependent in dependents)
        raise ReplacementError(
            f"{row['signature']} changes, and other objects depend on it: {names}; drop them,"
            " migrate, and create them again"
        )
    await connection.execute(f"DROP {row['kind']} IF EXISTS {row['signature']} CASCADE")
