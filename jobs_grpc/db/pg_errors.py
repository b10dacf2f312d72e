"""What an error of the driver speaks of: the statement, or the server and the way there."""

import asyncpg

# SQLSTATE classes and codes that speak of the server's condition, not of the statement:
# connection exceptions, insufficient resources, shutdown and start, system errors,
# read-only after a failover.
_OUTAGE = ("08", "53", "57P", "58", "25006")

# Those of a statement that may succeed the next time: canceled, serialization failure, deadlock.
_TRANSIENT = ("57014", "40001", "40P01")

# A prepared statement that is not there, or is already.
_FOREIGN_SESSION = ("26000", "42P05")

# What a lost connection can surface as. InternalClientError: asyncpg caught in mid-switch.
CONNECTION_LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def is_unavailable(error: Exception) -> bool:
    """Whether what an error of the driver speaks of may be over the next time."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in _TRANSIENT:
        return True
    return is_outage(error)


def is_outage(error: Exception) -> bool:
    """Whether an error of the driver speaks of the server or the way there, not of the SQL.

    A TimeoutError does: whoever can tell that it was the statement has to say so.
    """
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_OUTAGE)
    # asyncpg's own DataError is an InterfaceError, too: an argument of a wrong type, our defect.
    return isinstance(error, (*CONNECTION_LOST, TimeoutError)) and not isinstance(error, ValueError)


def is_missing_prepared_statement(error: Exception) -> bool:
    """Whether the connection speaks to another session than before: a pooler stands between."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate in _FOREIGN_SESSION
