"""Errors of the command: one line for people, JSON for programs, and an exit code for scripts."""

import errno
import re
from enum import IntEnum

import grpc

from jobs_grpc.client import JobsError

EXIT_CODES_HELP = """\
exit codes:
  0    success
  1    any other error
  2    invalid arguments, settings or request
  3    job, execution, device or webhook not found
  4    the current state does not allow the call, e.g. the job ID is in use
  5    server or database unavailable, overloaded or too slow, or a limit is
       exceeded
  6    not authenticated or not permitted
  130  interrupted
"""

# Messages of gRPC when nothing listens, and when only one end uses TLS. "Failed to connect"
# excludes connections that were established and then lost.
_HINTS = (
    (
        r"Connection refused",
        " (is it running? to use another one, set --server, JOBS_SERVER or --context)",
    ),
    (
        r"failed to connect .*(Socket closed|Connection reset by peer)$",
        " (if the server requires TLS, add --tls or --ca;"
        " if it requires a client certificate, add --cert and --key)",
    ),
    (
        r"failed to connect .*WRONG_VERSION_NUMBER",
        " (if the server does not use TLS, remove --tls, --ca, --cert and --key)",
    ),
)

# Replace messages of the server that do not name the object, or its tenant. The names in braces are
# metadata of the error.
_TEXTS = {
    "JOB_NOT_FOUND": "job {jobId} not found in tenant {tenantId}",
    "DEVICE_NOT_FOUND": "device {deviceId} not found in tenant {tenantId}",
    "EXECUTION_NOT_FOUND": "device {deviceId} has no execution of job {jobId} in tenant {tenantId}",
    "GROUP_EMPTY": "group {groupId} has no members in tenant {tenantId}",
    "TENANT_EMPTY": "no devices in tenant {tenantId}",
    "STAGE_EMPTY": "Stage {stage} has no devices: no device of the job is in group {groupId}, or"
    " earlier stages claim them all; correct the group, or allow it with --stage"
    " group:{groupId},allow-empty",
    "WEBHOOK_NOT_FOUND": "webhook {webhookId} not found in tenant {tenantId}",
    "EXECUTION_FINISHED": "the execution of job {jobId} on device {deviceId} is finished in status"
    " {status}",
    "JOB_NOT_CANCELABLE": "cannot cancel job {jobId} in status {status}",
}


class ExitCode(IntEnum):
    """Exit codes; EXIT_CODES_HELP explains them."""

    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    WRONG_STATE = 4
    UNAVAILABLE = 5
    NOT_PERMITTED = 6


_CODES = {
    ExitCode.USAGE: "INVALID_ARGUMENT",
    ExitCode.NOT_FOUND: "NOT_FOUND",
    ExitCode.WRONG_STATE: "ALREADY_EXISTS FAILED_PRECONDITION ABORTED OUT_OF_RANGE",
    ExitCode.UNAVAILABLE: "UNAVAILABLE DEADLINE_EXCEEDED RESOURCE_EXHAUSTED",
    ExitCode.NOT_PERMITTED: "UNAUTHENTICATED PERMISSION_DENIED",
}
_EXIT_CODES = {name: exit_code for exit_code, names in _CODES.items() for name in names.split()}


class CliError(Exception):
    """Ends the command with a message for the user and an exit code."""

    def __init__(
        self, message: str, exit_code: ExitCode = ExitCode.ERROR, **details: object
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self._details = details

    def as_dict(self) -> dict[str, object]:
        return {"message": str(self), **self._details, "exit_code": int(self.exit_code)}


class InvalidInput(CliError):
    """The arguments, a setting or a file of the user are invalid."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.USAGE)


class UsageError(InvalidInput):
    """The arguments do not fit the usage of the command."""

    def __init__(self, message: str, program: str, usage: str) -> None:
        super().__init__(message)
        self.program = program
        self.usage = usage


def call_error(error: JobsError, server: str, *, has_token: bool = True) -> CliError:
    """Return the error of a call that failed at the server with this address."""
    details = {
        "code": error.code.name,
        "reason": error.reason,
        "metadata": error.metadata,
        "violations": error.violations,
        "retry_after": error.retry_after,
        "request_id": error.request_id,
    }
    given = {name: value for name, value in details.items() if value}
    text = call_error_text(error, server)
    if error.reason == "ROLE_REQUIRED" and not has_token:
        text += " (set the roles with --roles or JOBS_ROLES)"
    return CliError(text, _EXIT_CODES.get(error.code.name, ExitCode.ERROR), **given)


def call_error_text(error: JobsError, server: str) -> str:
    """Describe a failed call in one line. An error without a reason is not from the service."""
    message = " ".join(_named_object(error).split())
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"refused by a limit: {error.code.name}: {message}"
    if error.reason:
        return f"{error.code.name}: {message}"
    if error.code is grpc.StatusCode.UNAVAILABLE:
        hints = (hint for pattern, hint in _HINTS if re.search(pattern, message))
        return f"can't reach the server at {server}: {_cause(message)}{next(hints, '')}"
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no response in time from the server at {server}; raise --timeout to wait longer"
    return f"{error.code.name}: {message}"


def _named_object(error: JobsError) -> str:
    """Return the message, with the name of the object if the server's message has none."""
    try:
        text = _TEXTS[error.reason].format_map(error.metadata)
    except KeyError:  # Another reason, or a server that sends less metadata.
        return error.message
    return f"{text} ({error.metadata['hint']})" if "hint" in error.metadata else text


def retry_note(error: JobsError, server: str) -> str:
    """Say why a call to this server is retried.

    Only an error without a reason means that nothing answered.
    """
    message = " ".join(error.message.split())
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"refused by a limit, retrying: {message}"
    if error.reason:
        return f"the server can't serve the call, retrying: {error.code.name}: {message}"
    return f"can't reach the server at {server}, retrying: {_cause(message) or error.code.name}"


def _cause(message: str) -> str:
    """Return the last part of a chain of causes from gRPC."""
    return re.sub(r".*(last error: |Failed to connect to remote host: |connect: )", "", message)


def to_cli_error(error: Exception) -> CliError | None:
    """Convert an error that users can cause or fix; None if it is a bug and needs a traceback."""
    if isinstance(error, CliError):
        return error
    # Other commands do not need these modules, which take a while to import.
    import asyncpg

    from jobs_grpc.config import ConfigError
    from jobs_grpc.db.migrate import MigrationError
    from jobs_grpc.db.owner_pool import NotTheOwner, StatementTimedOut
    from jobs_grpc.db.readiness import NotIsolated
    from jobs_grpc.dev.embedded_postgres import EmbeddedPostgresError
    from jobs_grpc.server.sockets import ListenError

    known = (MigrationError, NotIsolated, NotTheOwner, EmbeddedPostgresError, ListenError)
    if isinstance(error, known):
        return CliError(str(error))
    match error:
        case ConfigError():
            return InvalidInput(str(error))
        case asyncpg.LockNotAvailableError():
            return CliError("another session holds a required lock; retry", ExitCode.UNAVAILABLE)
        case asyncpg.ClientConfigurationError():
            return InvalidInput(f"invalid database URL: {_one_line(error)}")
        case asyncpg.PostgresError() | asyncpg.InterfaceError():
            return CliError(f"PostgreSQL: {_one_line(error)}")
        case TimeoutError() | StatementTimedOut():
            return CliError("the database did not respond in time; retry", ExitCode.UNAVAILABLE)
        case OSError() if error.errno == errno.ENOSPC:
            return CliError(f"can't write the output: {error.strerror}")
        case OSError():
            return CliError(_one_line(error), ExitCode.UNAVAILABLE)
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
