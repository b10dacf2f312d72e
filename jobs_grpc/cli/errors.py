"""Failures as a person should see them: one line, and an exit code for scripts."""

import asyncpg
import grpc

from jobs_grpc.client.status_text import call_text
from jobs_grpc.config import ConfigError
from jobs_grpc.db.migrate import MigrationError
from jobs_grpc.db.readiness import NotIsolated
from jobs_grpc.dev.embedded_postgres import EmbeddedError
from jobs_grpc.server.sockets import CannotListen

FAILED = 1
USAGE = 2
NOT_FOUND = 3
REFUSED = 4
UNAVAILABLE = 5
UNKNOWN_CALLER = 6

_EXIT_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: USAGE,
    grpc.StatusCode.NOT_FOUND: NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: REFUSED,
    grpc.StatusCode.ABORTED: REFUSED,
    grpc.StatusCode.UNAVAILABLE: UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED: UNKNOWN_CALLER,
    grpc.StatusCode.PERMISSION_DENIED: UNKNOWN_CALLER,
}


class Failed(Exception):
    """A failure that has been put into words for the user."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def explain(error: Exception) -> Failed | None:
    """A known kind of failure in words; None if it is a defect and deserves its traceback."""
    match error:
        case ConfigError():
            return Failed(str(error), USAGE)
        case MigrationError() | NotIsolated() | EmbeddedError() | CannotListen():
            return Failed(str(error))
        case grpc.RpcError():
            return _explain_rpc(error)
        case asyncpg.LockNotAvailableError():
            return Failed("another session holds a lock that is needed; try again", UNAVAILABLE)
        case asyncpg.ClientConfigurationError():
            return Failed(f"a database URL is wrong: {_one_line(error)}", USAGE)
        case asyncpg.PostgresError() | asyncpg.InterfaceError():
            return Failed(f"PostgreSQL says: {_one_line(error)}")
        case TimeoutError():
            return Failed("the database does not answer in time", UNAVAILABLE)
        case OSError():
            return Failed(_one_line(error), UNAVAILABLE)
    return None


def exit_code(code: grpc.StatusCode) -> int:
    """What a command ends with when a call has failed so."""
    return _EXIT_CODES.get(code, FAILED)


def _explain_rpc(error: grpc.RpcError) -> Failed:
    code: grpc.StatusCode = error.code()
    return Failed(call_text(code, error.details()), exit_code(code))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
