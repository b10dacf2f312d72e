"""Errors of the command: one line for people and an exit code for scripts."""

from enum import IntEnum

import asyncpg
import grpc

from jobs_grpc.client.status_text import status_text
from jobs_grpc.config import ConfigError
from jobs_grpc.db.migrate import MigrationError
from jobs_grpc.db.readiness import NotIsolated
from jobs_grpc.dev.embedded_postgres import EmbeddedPostgresError
from jobs_grpc.server.sockets import ListenError

EXIT_CODES_HELP = """\
exit codes:
  0    success
  1    any other error
  2    invalid arguments, settings or request
  3    job or device not found
  4    the current state does not allow the call, e.g. the job id is in use
  5    server or database unavailable, overloaded or too slow, or a limit is exceeded
  6    not authenticated or not permitted
  130  interrupted
"""


class ExitCode(IntEnum):
    """Exit codes; EXIT_CODES_HELP explains them."""

    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    WRONG_STATE = 4
    UNAVAILABLE = 5
    NOT_PERMITTED = 6


_EXIT_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: ExitCode.USAGE,
    grpc.StatusCode.NOT_FOUND: ExitCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: ExitCode.WRONG_STATE,
    grpc.StatusCode.FAILED_PRECONDITION: ExitCode.WRONG_STATE,
    grpc.StatusCode.ABORTED: ExitCode.WRONG_STATE,
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ExitCode.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.NOT_PERMITTED,
    grpc.StatusCode.PERMISSION_DENIED: ExitCode.NOT_PERMITTED,
}


class CliError(Exception):
    """Ends the command with a message for the user and an exit code."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def to_cli_error(error: Exception) -> CliError | None:
    """Convert an error that users can cause or fix; None if it is a bug and needs a traceback."""
    match error:
        case CliError():
            return error
        case ConfigError():
            return CliError(str(error), ExitCode.USAGE)
        case MigrationError() | NotIsolated() | EmbeddedPostgresError() | ListenError():
            return CliError(str(error))
        case grpc.RpcError():
            return CliError(status_text(error.code(), error.details()), exit_code(error.code()))
        case asyncpg.LockNotAvailableError():
            return CliError("another session holds a required lock; retry", ExitCode.UNAVAILABLE)
        case asyncpg.ClientConfigurationError():
            return CliError(f"invalid database URL: {_one_line(error)}", ExitCode.USAGE)
        case asyncpg.PostgresError() | asyncpg.InterfaceError():
            return CliError(f"PostgreSQL: {_one_line(error)}")
        case TimeoutError():
            return CliError("the database did not respond in time; retry", ExitCode.UNAVAILABLE)
        case OSError():
            return CliError(_one_line(error), ExitCode.UNAVAILABLE)
    return None


def exit_code(code: grpc.StatusCode) -> ExitCode:
    """Return the exit code for a call that failed with `code`."""
    return _EXIT_CODES.get(code, ExitCode.ERROR)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
