"""Classifies errors of asyncpg: is the statement wrong, or is the database unavailable?"""

import re

import asyncpg

# SQLSTATE prefixes of errors of the database server, not of the statement: connection exceptions,
# insufficient resources, shutdown and startup, system errors, read-only after a failover.
_OUTAGE = ("08", "53", "57P", "58", "25006")

# Errors of a statement that can succeed when retried: query canceled, serialization failure,
# deadlock detected.
_TRANSIENT = ("57014", "40001", "40P01")

# Errors of a call if Citus moves its shard meanwhile: the remaining statements of the call run in a
# session of another node, where the tenant is not set (see citus/policies.sql). Nothing is stored.
_SHARD_MOVED = {
    "42704": re.compile('parameter "app.tenant_id"'),
    # The message names the shard, which is a table with a number at its end.
    "42501": re.compile(r'violates row-level security policy.* for table "\w+_\d+"'),
    "XX000": re.compile("valid entry for shard"),
}

# The session lacks a prepared statement, or has another one with its name.
_PREPARED_STATEMENT = ("26000", "42P05")

# The schema, a table, a column, a function or a type does not exist; or a function has other
# columns than before.
_SCHEMA = ("3F000", "42P01", "42703", "42883", "42704", "42804")

# Errors of a statement that a migration interrupts: a deadlock, or a view, table or function that
# has changed since the running function was planned.
_INTERRUPTED_BY_MIGRATION = ("40P01", *_SCHEMA, "0A000")

# The start of the message if a function or a view was dropped while a statement looked it up.
# PostgreSQL has no SQLSTATE for it.
_DROPPED = ("cache lookup failed for", "could not open relation with OID")

# What asyncpg raises when a connection is lost. InternalClientError: lost while the connection
# changes its state.
CONNECTION_LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def is_retryable(error: Exception) -> bool:
    """Whether a retry of the statement can succeed: an outage or a transient error."""
    if isinstance(error, asyncpg.PostgresError) and (
        error.sqlstate in _TRANSIENT or is_shard_moved(error)
    ):
        return True
    return is_outage(error)


def is_outage(error: Exception) -> bool:
    """Whether the error is one of the database server or the network, not of the statement.

    TimeoutError counts as an outage. A caller that knows that only its statement was slow must
    handle it first.
    """
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_OUTAGE)
    # asyncpg.DataError (a wrong argument type, our bug) is an InterfaceError and a ValueError.
    return isinstance(error, (*CONNECTION_LOST, TimeoutError)) and not isinstance(error, ValueError)


def is_prepared_statement_mismatch(error: Exception) -> bool:
    """Whether a pooler has switched the connection to a session with other statements."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate in _PREPARED_STATEMENT


def is_schema_error(error: Exception) -> bool:
    """Whether the statement refers to something that the schema lacks."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate in _SCHEMA


def is_interrupted_by_migration(error: asyncpg.PostgresError) -> bool:
    """Whether a migration may have interrupted the statement, so that a repeat can succeed."""
    dropped = error.sqlstate == "XX000" and str(error).startswith(_DROPPED)
    return dropped or error.sqlstate in _INTERRUPTED_BY_MIGRATION


def is_shard_moved(error: asyncpg.PostgresError) -> bool:
    """Whether Citus moved a shard while the statement used it, so that a repeat can succeed."""
    expected = _SHARD_MOVED.get(error.sqlstate or "")
    return expected is not None and expected.search(str(error)) is not None
