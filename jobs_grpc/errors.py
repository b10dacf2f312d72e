"""What can go wrong, in the service's own terms.

    JobsError
    ├── InvalidRequest        INVALID_ARGUMENT    INVALID_FIELD
    ├── MalformedRequest      INVALID_ARGUMENT    MALFORMED_REQUEST
    ├── InvalidPageToken      INVALID_ARGUMENT    INVALID_PAGE_TOKEN
    ├── TenantRequired        UNAUTHENTICATED     TENANT_REQUIRED
    ├── DuplicateMetadata       UNAUTHENTICATED     DUPLICATE_METADATA
    ├── InvalidMetadata         UNAUTHENTICATED     INVALID_METADATA
    ├── JobNotFound           NOT_FOUND           JOB_NOT_FOUND
    ├── DeviceNotFound        NOT_FOUND           DEVICE_NOT_FOUND
    ├── GroupEmpty            FAILED_PRECONDITION GROUP_EMPTY
    ├── TenantEmpty           FAILED_PRECONDITION TENANT_EMPTY
    ├── JobNotCancelable      FAILED_PRECONDITION JOB_NOT_CANCELABLE
    ├── JobNotRetryable       FAILED_PRECONDITION JOB_NOT_RETRYABLE
    ├── JobNotDeletable       FAILED_PRECONDITION JOB_NOT_DELETABLE
    ├── JobAlreadyExists            ALREADY_EXISTS      JOB_ALREADY_EXISTS
    ├── DeviceRequired        UNAUTHENTICATED     DEVICE_REQUIRED
    ├── ExecutionNotFound     NOT_FOUND           EXECUTION_NOT_FOUND
    ├── ExecutionFinished         FAILED_PRECONDITION EXECUTION_FINISHED
    ├── ExecutionInProgress      FAILED_PRECONDITION EXECUTION_IN_PROGRESS
    ├── ExecutionChanged      ABORTED             EXECUTION_CHANGED
    ├── Overloaded            RESOURCE_EXHAUSTED  OVERLOADED
    ├── LimitExceeded         RESOURCE_EXHAUSTED  LIMIT_EXCEEDED
    ├── DatabaseUnavailable   UNAVAILABLE         DATABASE_UNAVAILABLE
    ├── ServerStopping        UNAVAILABLE         SERVER_STOPPING
    ├── TokenRequired         UNAUTHENTICATED     TOKEN_REQUIRED
    ├── InvalidToken          UNAUTHENTICATED     INVALID_TOKEN
    ├── MetadataMismatch        PERMISSION_DENIED   METADATA_MISMATCH
    ├── PeerNotTrusted        PERMISSION_DENIED   PEER_NOT_TRUSTED
    ├── KeysUnavailable       UNAVAILABLE         KEYS_UNAVAILABLE
    ├── RoleRequired          PERMISSION_DENIED   ROLE_REQUIRED
    └── Internal              INTERNAL            INTERNAL

Each is raised where it is found and becomes a status in one place, the interceptor
`interceptors/errors.py`. A message is for the caller: it never holds internals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fleet.jobs.v1 import error_reason_pb2 as reasons
from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution
from grpc import StatusCode


@dataclass(frozen=True, slots=True)
class Violation:
    """One field at fault: its path in the request, and what it must be."""

    field: str
    description: str


class JobsError(Exception):
    """The base: a status code, a machine-readable reason and a message for the caller."""

    code: ClassVar[StatusCode]
    reason: ClassVar[reasons.ErrorReason.ValueType]

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class InvalidRequest(JobsError):
    """Fields that are missing, malformed or out of range."""

    code = StatusCode.INVALID_ARGUMENT
    reason = reasons.INVALID_FIELD

    # Details travel in HTTP/2 trailers, of which clients take 16 KiB at most.
    MAX_VIOLATIONS: ClassVar[int] = 20
    _IN_MESSAGE: ClassVar[int] = 3

    def __init__(self, violations: list[Violation]) -> None:
        self.violations = violations[: self.MAX_VIOLATIONS]
        shown = "; ".join(v.description for v in violations[: self._IN_MESSAGE])
        hidden = len(violations) - self._IN_MESSAGE
        super().__init__(f"{shown}; and {hidden} more" if hidden > 0 else shown)


class MalformedRequest(JobsError):
    """The bytes are no message of the request's type."""

    code = StatusCode.INVALID_ARGUMENT
    reason = reasons.MALFORMED_REQUEST


class InvalidPageToken(JobsError):
    """A page token that is not ours, or not for this request."""

    code = StatusCode.INVALID_ARGUMENT
    reason = reasons.INVALID_PAGE_TOKEN


class TenantRequired(JobsError):
    """The caller names no tenant."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.TENANT_REQUIRED


class DuplicateMetadata(JobsError):
    """The caller names two tenants or two users."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.DUPLICATE_METADATA


class InvalidMetadata(JobsError):
    """The caller's tenant or user is not an identifier."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.INVALID_METADATA


class TokenRequired(JobsError):
    """The call has no token."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.TOKEN_REQUIRED

    def __init__(self) -> None:
        super().__init__("The call has no token: send authorization: Bearer TOKEN")


class InvalidToken(JobsError):
    """The token is not one that is taken; `problem` says why, without anything of it."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.INVALID_TOKEN

    def __init__(self, problem: str) -> None:
        super().__init__(f"The token {problem}")


class MetadataMismatch(JobsError):
    """Metadata says another caller than the token does."""

    code = StatusCode.PERMISSION_DENIED
    reason = reasons.METADATA_MISMATCH

    def __init__(self, key: str) -> None:
        other = (
            ", or send a token with the role bridge and no device of its own"
            if key == "x-device-id"
            else ""
        )
        super().__init__(f"{key} is not what the token says; leave it out{other}", key=key)


class PeerNotTrusted(JobsError):
    """The client's certificate is of nobody whom the server is told to trust."""

    code = StatusCode.PERMISSION_DENIED
    reason = reasons.PEER_NOT_TRUSTED

    def __init__(self) -> None:
        super().__init__("The client certificate is not of a trusted peer")


class KeysUnavailable(JobsError):
    """There are no keys yet to verify tokens with."""

    code = StatusCode.UNAVAILABLE
    reason = reasons.KEYS_UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("Tokens can't be verified yet; retry later")


class RoleRequired(JobsError):
    """None of the caller's roles may call this."""

    code = StatusCode.PERMISSION_DENIED
    reason = reasons.ROLE_REQUIRED

    def __init__(self, roles: Sequence[str]) -> None:
        needed = (
            f"one of the roles {', '.join(roles)}" if len(roles) > 1 else f"the role {roles[0]}"
        )
        super().__init__(f"This call needs {needed}", roles=",".join(roles))


class JobNotFound(JobsError):
    """No such job in this tenant."""

    code = StatusCode.NOT_FOUND
    reason = reasons.JOB_NOT_FOUND

    def __init__(self, job_id: str) -> None:
        super().__init__("Job not found", job_id=job_id)


class DeviceNotFound(JobsError):
    """No such device in this tenant."""

    code = StatusCode.NOT_FOUND
    reason = reasons.DEVICE_NOT_FOUND

    def __init__(self, device_id: str) -> None:
        super().__init__("Device not found", device_id=device_id)


class GroupEmpty(JobsError):
    """No members, or no such group."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.GROUP_EMPTY

    def __init__(self, group_id: str) -> None:
        super().__init__("Group has no members", group_id=group_id)


class TenantEmpty(JobsError):
    """The tenant has no devices."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.TENANT_EMPTY

    def __init__(self) -> None:
        super().__init__("No devices in tenant")


class JobNotCancelable(JobsError):
    """The job is over."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_NOT_CANCELABLE

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(f"Cannot cancel job in status {status}", job_id=job_id, status=status)


class JobNotRetryable(JobsError):
    """The job is canceled, or past its expiry without a new one."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_NOT_RETRYABLE

    def __init__(self, job_id: str, status: str) -> None:
        problem = (
            "Cannot retry job in status CANCELED"
            if status == "CANCELED"
            else "Cannot retry job past its expiry without expires_in_hours or never_expires"
        )
        super().__init__(problem, job_id=job_id, status=status)


class JobNotDeletable(JobsError):
    """The job is not over, or a device of it is still at work."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_NOT_DELETABLE

    def __init__(self, job_id: str, status: str) -> None:
        problem = (
            "Cannot delete job in status IN_PROGRESS"
            if status == "IN_PROGRESS"
            else f"Cannot delete job in status {status} while devices are at work"
        )
        super().__init__(problem, job_id=job_id, status=status)


class JobAlreadyExists(JobsError):
    """The job_id belongs to a job that another request created, or to a deleted one."""

    code = StatusCode.ALREADY_EXISTS
    reason = reasons.JOB_ALREADY_EXISTS

    def __init__(self, job_id: str) -> None:
        super().__init__("The job_id is taken by another or a deleted job", job_id=job_id)


class DeviceRequired(JobsError):
    """The caller names no device."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.DEVICE_REQUIRED


class ExecutionNotFound(JobsError):
    """The device has no execution of this job."""

    code = StatusCode.NOT_FOUND
    reason = reasons.EXECUTION_NOT_FOUND

    def __init__(self, job_id: str, device_id: str) -> None:
        super().__init__("Execution not found", job_id=job_id, device_id=device_id)


class ExecutionFinished(JobsError):
    """The execution is final, or its job is dead."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.EXECUTION_FINISHED

    def __init__(self, job_id: str, device_id: str, status: str) -> None:
        super().__init__(
            f"Execution is over in status {status}",
            job_id=job_id,
            device_id=device_id,
            status=status,
        )


class ExecutionInProgress(JobsError):
    """The device is at work, and the caller did not say to end that."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.EXECUTION_IN_PROGRESS

    def __init__(self, job_id: str, device_id: str) -> None:
        super().__init__(
            "Cannot cancel an execution in status IN_PROGRESS without force",
            job_id=job_id,
            device_id=device_id,
        )


class ExecutionChanged(JobsError):
    """The execution is not as the caller expected; `present` is what it is."""

    code = StatusCode.ABORTED
    reason = reasons.EXECUTION_CHANGED

    def __init__(self, present: DeviceExecution) -> None:
        super().__init__(
            f"Execution is at attempt {present.execution_number}, version {present.version}",
            job_id=present.job_id,
            device_id=present.device_id,
        )
        self.present = present


class Overloaded(JobsError):
    """More work than can be taken in time; retry after `retry_after` seconds."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = reasons.OVERLOADED
    retry_after: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__("The server is overloaded; retry later")


class LimitExceeded(JobsError):
    """More than a setting of the server allows; `limit` is the setting's name.

    Retry after `retry_after` seconds; None: the same call will be refused again.
    """

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = reasons.LIMIT_EXCEEDED

    def __init__(
        self, message: str, limit: str, value: float, retry_after: int | None = None
    ) -> None:
        shown = f"{value:.10g}"
        super().__init__(f"{message} ({limit} is {shown})", limit=limit, value=shown)
        self.retry_after = retry_after


class DatabaseUnavailable(JobsError):
    """The database is away or too slow; the cause is chained."""

    code = StatusCode.UNAVAILABLE
    reason = reasons.DATABASE_UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("The database is unavailable; retry later")


class LockTimeout(DatabaseUnavailable):
    """Somebody else has locked what the call needs, for longer than it waits."""


class ServerStopping(JobsError):
    """A stream ends, or a call is cut off, because the server stops."""

    code = StatusCode.UNAVAILABLE
    reason = reasons.SERVER_STOPPING

    def __init__(self) -> None:
        super().__init__("The server is stopping; call again")


class Internal(JobsError):
    """A defect of the service."""

    code = StatusCode.INTERNAL
    reason = reasons.INTERNAL

    def __init__(self) -> None:
        super().__init__("Internal error")
