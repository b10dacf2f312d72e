"""What can go wrong, in the service's own terms.

    JobsError
    ├── InvalidRequest        INVALID_ARGUMENT    INVALID_FIELD
    ├── MalformedRequest      INVALID_ARGUMENT    MALFORMED_REQUEST
    ├── InvalidPageToken      INVALID_ARGUMENT    INVALID_PAGE_TOKEN
    ├── TenantRequired        UNAUTHENTICATED     TENANT_REQUIRED
    ├── CallerAmbiguous       UNAUTHENTICATED     CALLER_AMBIGUOUS
    ├── CallerInvalid         UNAUTHENTICATED     CALLER_INVALID
    ├── JobNotFound           NOT_FOUND           JOB_NOT_FOUND
    ├── DeviceNotFound        NOT_FOUND           DEVICE_NOT_FOUND
    ├── GroupEmpty            FAILED_PRECONDITION GROUP_EMPTY
    ├── TenantEmpty           FAILED_PRECONDITION TENANT_EMPTY
    ├── JobNotCancelable      FAILED_PRECONDITION JOB_NOT_CANCELABLE
    ├── JobIdTaken            ALREADY_EXISTS      JOB_ID_TAKEN
    ├── Overloaded            RESOURCE_EXHAUSTED  OVERLOADED
    ├── DatabaseUnavailable   UNAVAILABLE         DATABASE_UNAVAILABLE
    └── Internal              INTERNAL            INTERNAL

Each is raised where it is found and becomes a status in one place, the interceptor
`interceptors/errors.py`. A message is for the caller: it never holds internals.
"""

from dataclasses import dataclass
from typing import ClassVar

from fleet.jobs.v1 import error_reason_pb2 as reasons
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


class CallerAmbiguous(JobsError):
    """The caller names two tenants or two users."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.CALLER_AMBIGUOUS


class CallerInvalid(JobsError):
    """The caller's tenant or user is not an identifier."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.CALLER_INVALID


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


class JobIdTaken(JobsError):
    """The job_id belongs to a job that another request created."""

    code = StatusCode.ALREADY_EXISTS
    reason = reasons.JOB_ID_TAKEN

    def __init__(self, job_id: str) -> None:
        super().__init__("Another request has created a job with this job_id", job_id=job_id)


class Overloaded(JobsError):
    """More work than can be taken in time; retry after `retry_after` seconds."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = reasons.OVERLOADED
    retry_after: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__("The server is overloaded; retry later")


class DatabaseUnavailable(JobsError):
    """The database is away or too slow; the cause is chained."""

    code = StatusCode.UNAVAILABLE
    reason = reasons.DATABASE_UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("The database is unavailable; retry later")


class Internal(JobsError):
    """A defect of the service."""

    code = StatusCode.INTERNAL
    reason = reasons.INTERNAL

    def __init__(self) -> None:
        super().__init__("Internal error")
