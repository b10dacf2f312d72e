"""Connects to a database, and says why that fails."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db import schema
from jobs_grpc.db.connect import CONNECT_TIMEOUT
from jobs_grpc.db.connect import connect as connect_to_host
from jobs_grpc.db.pg_errors import CONNECTION_LOST, is_schema_error
from jobs_grpc.doctor.finding import Finding, Status

_STATEMENT_TIMEOUT = 10.0
_CLOSE_TIMEOUT = 1.0

DATABASE_ERRORS = (*CONNECTION_LOST, TimeoutError, asyncpg.PostgresError)

# Remedies by SQLSTATE, the longest prefix first. {setting} is the variable with the URL.
_REMEDIES = {
    "3D000": "create the database, or correct its name in {setting}; then run `jobs-grpc migrate`",
    "42501": "GRANT CONNECT ON DATABASE … TO …, as the owner of the database",
    "53300": "raise max_connections or the CONNECTION LIMIT of the role or database, or lower"
    " JOBS_POOL_MAX_SIZE",
    "28": "correct the user or password in {setting}; `jobs-grpc migrate` creates the role of"
    " JOBS_DATABASE_URL",
}


class ConnectError(Exception):
    """The database cannot be used; the cause says why."""


@asynccontextmanager
async def connect(url: str, config: Config) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection for the block. Raises ConnectError."""
    try:
        connection = await connect_to_host(
            url,
            timeout=CONNECT_TIMEOUT,
            command_timeout=_STATEMENT_TIMEOUT,
            statement_cache_size=config.database.statement_cache_size,
        )
    except DATABASE_ERRORS as e:
        raise ConnectError from e
    try:
        yield connection
    finally:
        try:
            await connection.close(timeout=_CLOSE_TIMEOUT)
        except DATABASE_ERRORS:
            connection.terminate()


async def fetch_one(connection: asyncpg.Connection, name: str, *args: object) -> asyncpg.Record:
    """Return the row of the statement in checks/doctor/`name`.sql."""
    [row] = await connection.fetch(schema.read_sql(f"checks/doctor/{name}.sql"), *args)
    return row


def connect_failed(check: str, setting: str, error: ConnectError) -> Finding:
    """Say why the database of `setting` cannot be used."""
    cause = error.__cause__
    sqlstate = (cause.sqlstate or "") if isinstance(cause, asyncpg.PostgresError) else ""
    remedies = (text for prefix, text in _REMEDIES.items() if sqlstate.startswith(prefix))
    default = "start PostgreSQL, or correct the address in {setting}"
    remedy = next(remedies, default).format(setting=setting)
    return Finding(check, Status.ERROR, f"can't connect: {_text(cause)}", remedy)


def check_failed(check: str, error: Exception) -> Finding:
    """Say why a check could not be made."""
    remedy = "fix the cause, then run `jobs-grpc doctor` again"
    return Finding(check, Status.ERROR, f"the check failed: {_text(error)}", remedy)


def not_examined(check: str, error: Exception) -> Finding:
    """Say why a check was not made. Other checks report the database and schema that it needs."""
    if isinstance(error, ConnectError):
        return Finding(check, Status.SKIPPED, "needs the database")
    if is_schema_error(error):
        return Finding(check, Status.SKIPPED, "needs the schema")
    return check_failed(check, error)


def _text(error: BaseException | None) -> str:
    """The text of an error on one line. asyncpg puts no password into it."""
    if isinstance(error, TimeoutError):
        return "no response in time"
    return " ".join(str(error).split()) or type(error).__name__
