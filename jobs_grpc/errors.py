"""Every error that the service returns to a caller.

    JobsError
    ├── InvalidRequest        INVALID_ARGUMENT     INVALID_FIELD
    ├── MalformedRequest      INVALID_ARGUMENT     MALFORMED_REQUEST
    ├── InvalidPageToken      INVALID_ARGUMENT     INVALID_PAGE_TOKEN
    ├── TenantRequired        UNAUTHENTICATED      TENANT_REQUIRED
    ├── DeviceRequired        UNAUTHENTICATED      DEVICE_REQUIRED
    ├── DuplicateMetadata     UNAUTHENTICATED      DUPLICATE_METADATA
    ├── InvalidMetadata       UNAUTHENTICATED      INVALID_METADATA
    ├── TokenRequired         UNAUTHENTICATED      TOKEN_REQUIRED
    ├── InvalidToken          UNAUTHENTICATED      INVALID_TOKEN
    ├── RoleRequired          PERMISSION_DENIED    ROLE_REQUIRED
    ├── MetadataMismatch      PERMISSION_DENIED    METADATA_MISMATCH
    ├── PeerNotTrusted        PERMISSION_DENIED    PEER_NOT_TRUSTED
    ├── SelfApproval          PERMISSION_DENIED    SELF_APPROVAL
    ├── SubjectRequired       PERMISSION_DENIED    SUBJECT_REQUIRED
    ├── JobNotFound           NOT_FOUND            JOB_NOT_FOUND
    ├── DeviceNotFound        NOT_FOUND            DEVICE_NOT_FOUND
    ├── ExecutionNotFound     NOT_FOUND            EXECUTION_NOT_FOUND
    ├── JobAlreadyExists      ALREADY_EXISTS       JOB_ALREADY_EXISTS
    ├── GroupEmpty            FAILED_PRECONDITION  GROUP_EMPTY
    ├── TenantEmpty           FAILED_PRECONDITION  TENANT_EMPTY
    ├── StageEmpty            FAILED_PRECONDITION  STAGE_EMPTY
    ├── ExpiryTooEarly        FAILED_PRECONDITION  EXPIRY_TOO_EARLY
    ├── JobNotCancelable      FAILED_PRECONDITION  JOB_NOT_CANCELABLE
    ├── JobNotRetryable       FAILED_PRECONDITION  JOB_NOT_RETRYABLE
    ├── JobNotDeletable       FAILED_PRECONDITION  JOB_NOT_DELETABLE
    ├── ExecutionFinished     FAILED_PRECONDITION  EXECUTION_FINISHED
    ├── ExecutionInProgress   FAILED_PRECONDITION  EXECUTION_IN_PROGRESS
    ├── JobPaused             FAILED_PRECONDITION  JOB_PAUSED
    ├── JobNotPausable        FAILED_PRECONDITION  JOB_NOT_PAUSABLE
    ├── JobNotResumable       FAILED_PRECONDITION  JOB_NOT_RESUMABLE
    ├── ExecutionHeld         FAILED_PRECONDITION  EXECUTION_HELD
    ├── JobFull               FAILED_PRECONDITION  JOB_FULL
    ├── GateNotMet            FAILED_PRECONDITION  GATE_NOT_MET
    ├── ApprovalRequired      FAILED_PRECONDITION  APPROVAL_REQUIRED
    ├── StageNotApprovable    FAILED_PRECONDITION  STAGE_NOT_APPROVABLE
    ├── JobNotAdvanceable     FAILED_PRECONDITION  JOB_NOT_ADVANCEABLE
    ├── JobNotUpdatable       FAILED_PRECONDITION  JOB_NOT_UPDATABLE
    ├── TimeGatesUnavailable  FAILED_PRECONDITION  TIME_GATES_UNAVAILABLE
    ├── ExecutionChanged      ABORTED              EXECUTION_CHANGED
    ├── JobChanged            ABORTED              JOB_CHANGED
    ├── Overloaded            RESOURCE_EXHAUSTED   OVERLOADED
    ├── LimitExceeded         RESOURCE_EXHAUSTED   LIMIT_EXCEEDED
    ├── DatabaseUnavailable   UNAVAILABLE          DATABASE_UNAVAILABLE
    │   └── LockTimeout
    ├── QueryTimeout          UNAVAILABLE          QUERY_TIMEOUT
    ├── SchemaNotCurrent      UNAVAILABLE          SCHEMA_NOT_CURRENT
    ├── ServerStopping        UNAVAILABLE          SERVER_STOPPING
    ├── KeysUnavailable       UNAVAILABLE          KEYS_UNAVAILABLE
    └── Internal              INTERNAL             INTERNAL

`rpc/error_status.py` converts them to gRPC statuses. A message is for the caller, names the object
and one cause, and contains no internals. Five messages do not name the object, because clients of
the earlier HTTP API compare them: "Job not found", "Device not found", "Group has no members",
"No devices in tenant" and "Cannot cancel job in status …". error_reason.proto defines the reasons
and their metadata.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Self

from fleet.jobs.v1 import error_reason_pb2 as reasons
from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution
from grpc import StatusCode


@dataclass(frozen=True, slots=True)
class Violation:
    """An invalid field: its path in the request, and the rule that it violates."""

    field: str
    description: str


class JobsError(Exception):
    """The base class: a status code, a reason, a message, and metadata for ErrorInfo."""

    code: ClassVar[StatusCode]
    reason: ClassVar[reasons.ErrorReason.ValueType]
    retry_after: int | None = None
    """Seconds after which the same call can succeed. None: a retry does not help."""

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata or {}

    def copy(self) -> Self:
        """Return a copy for another call, without the cause."""
        other = type(self).__new__(type(self), *self.args)
        vars(other).update(vars(self))
        return other


class InvalidRequest(JobsError):
    """Fields are missing, malformed or out of range.

    Keeps the first MAX_VIOLATIONS. The message describes the first few of them.
    """

    code = StatusCode.INVALID_ARGUMENT
    reason = reasons.INVALID_FIELD

    # The details are sent in HTTP/2 trailers. Clients accept at most 16 KiB of them.
    MAX_VIOLATIONS: ClassVar[int] = 20
    _MAX_IN_MESSAGE: ClassVar[int] = 3

    def __init__(self, violations: list[Violation]) -> None:
        self.violations = violations[: self.MAX_VIOLATIONS]
        message = "; ".join(v.description for v in violations[: self._MAX_IN_MESSAGE])
        more = len(violations) - self._MAX_IN_MESSAGE
        super().__init__(f"{message}; and {more} more" if more > 0 else message)


class MalformedRequest(JobsError):
    """The bytes are not a message of the request's type."""

    code = StatusCode.INVALID_ARGUMENT
    reason = reasons.MALFORMED_REQUEST


class InvalidPageToken(JobsError):
    """The page token is malformed, from another request or job, or combined with an offset."""

    code = StatusCode.INVALID_ARGUMENT
    reason = reasons.INVALID_PAGE_TOKEN


class TenantRequired(JobsError):
    """The call names no tenant."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.TENANT_REQUIRED


class DeviceRequired(JobsError):
    """The call names no device."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.DEVICE_REQUIRED


class DuplicateMetadata(JobsError):
    """Metadata that identifies the caller was sent more than once."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.DUPLICATE_METADATA


class InvalidMetadata(JobsError):
    """Metadata that identifies the caller is malformed."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.INVALID_METADATA


class TokenRequired(JobsError):
    """The call has no token."""

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.TOKEN_REQUIRED

    def __init__(self) -> None:
        super().__init__("The call has no token; send authorization: Bearer TOKEN")


class InvalidToken(JobsError):
    """The token is not valid. `problem` is the predicate of the message: "has expired".

    It must not contain any part of the token.
    """

    code = StatusCode.UNAUTHENTICATED
    reason = reasons.INVALID_TOKEN

    def __init__(self, problem: str) -> None:
        super().__init__(f"The token {problem}")


class RoleRequired(JobsError):
    """None of the caller's roles allows the call; `roles` do."""

    code = StatusCode.PERMISSION_DENIED
    reason = reasons.ROLE_REQUIRED

    def __init__(self, roles: Sequence[str]) -> None:
        required = (
            f"one of the roles {', '.join(roles)}" if len(roles) > 1 else f"the role {roles[0]}"
        )
        super().__init__(f"This call needs {required}", {"roles": ",".join(roles)})


class MetadataMismatch(JobsError):
    """The metadata `key` differs from the token."""

    code = StatusCode.PERMISSION_DENIED
    reason = reasons.METADATA_MISMATCH

    def __init__(self, key: str) -> None:
        alternative = (
            ", or send a token that has the role bridge and names no device"
            if key == "x-device-id"
            else ""
        )
        message = f"{key} differs from the token; do not send it{alternative}"
        super().__init__(message, {"key": key})


class PeerNotTrusted(JobsError):
    """JOBS_TRUSTED_PEERS lists none of the names of the client certificate."""

    code = StatusCode.PERMISSION_DENIED
    reason = reasons.PEER_NOT_TRUSTED

    def __init__(self) -> None:
        super().__init__("The client certificate does not belong to a trusted peer")


class SelfApproval(JobsError):
    """The user who created the job must not approve its stages."""

    code = StatusCode.PERMISSION_DENIED
    reason = reasons.SELF_APPROVAL

    def __init__(self, job_id: str, stage: str) -> None:
        super().__init__(
            f"The creator of job {job_id} must not approve its stage {stage}; ask another user",
            {"jobId": job_id, "stage": stage},
        )


class SubjectRequired(JobsError):
    """Approvals need a known user."""

    code = StatusCode.PERMISSION_DENIED
    reason = reasons.SUBJECT_REQUIRED

    def __init__(self) -> None:
        super().__init__("Approvals need a known user; send x-user-id, or a token with a subject")


class JobNotFound(JobsError):
    """The tenant has no such job."""

    code = StatusCode.NOT_FOUND
    reason = reasons.JOB_NOT_FOUND

    def __init__(self, job_id: str) -> None:
        super().__init__("Job not found", {"jobId": job_id})


class DeviceNotFound(JobsError):
    """The tenant has no such device."""

    code = StatusCode.NOT_FOUND
    reason = reasons.DEVICE_NOT_FOUND

    def __init__(self, device_id: str) -> None:
        super().__init__("Device not found", {"deviceId": device_id})


class ExecutionNotFound(JobsError):
    """The device has no execution of this job."""

    code = StatusCode.NOT_FOUND
    reason = reasons.EXECUTION_NOT_FOUND

    def __init__(self, job_id: str, device_id: str) -> None:
        super().__init__(
            f"Device {device_id} has no execution of job {job_id}",
            {"jobId": job_id, "deviceId": device_id},
        )


class JobAlreadyExists(JobsError):
    """The job_id belongs to a job of a different request, or to a deleted job."""

    code = StatusCode.ALREADY_EXISTS
    reason = reasons.JOB_ALREADY_EXISTS

    def __init__(self, job_id: str, *, deleted: bool) -> None:
        problem = (
            "was deleted and is not purged yet" if deleted else "was created by another request"
        )
        super().__init__(f"Job {job_id} {problem}; choose another job_id", {"jobId": job_id})


class GroupEmpty(JobsError):
    """The group has no members, or does not exist."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.GROUP_EMPTY

    def __init__(self, group_id: str) -> None:
        super().__init__("Group has no members", {"groupId": group_id})


class TenantEmpty(JobsError):
    """The tenant has no devices."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.TENANT_EMPTY

    def __init__(self, tenant_id: str) -> None:
        super().__init__("No devices in tenant", {"tenantId": tenant_id})


class StageEmpty(JobsError):
    """A stage with a group_id has no devices, and no allow_empty."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.STAGE_EMPTY

    def __init__(self, stage: str, group_id: str) -> None:
        super().__init__(
            f"Stage {stage} has no devices: the job targets no device of group {group_id}, or"
            " earlier stages have them all; correct group_id or set allow_empty",
            {"stage": stage, "groupId": group_id},
        )


class ExpiryTooEarly(JobsError):
    """The job expires before its rollout, which takes at least `seconds`, can end."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.EXPIRY_TOO_EARLY

    def __init__(self, job_id: str, message: str, seconds: float) -> None:
        super().__init__(message, {"jobId": job_id, "minSeconds": str(ceil(seconds))})


class JobNotCancelable(JobsError):
    """The job is finished."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_NOT_CANCELABLE

    def __init__(self, job_id: str, status: str) -> None:
        message = f"Cannot cancel job in status {status}"
        super().__init__(message, {"jobId": job_id, "status": status})


class JobNotRetryable(JobsError):
    """The job is CANCELED, or has expired and gets no new expiry."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_NOT_RETRYABLE

    def __init__(self, job_id: str, status: str) -> None:
        message = (
            f"Cannot retry job {job_id} in status CANCELED"
            if status == "CANCELED"
            else f"Job {job_id} has expired; retry it with expires_in_hours or never_expires"
        )
        super().__init__(message, {"jobId": job_id, "status": status})


class JobNotDeletable(JobsError):
    """The job is IN_PROGRESS or PAUSED, or one of its executions is IN_PROGRESS."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_NOT_DELETABLE

    def __init__(self, job_id: str, status: str) -> None:
        message = (
            f"Cannot delete job {job_id} in status {status}; cancel it first"
            if status in ("IN_PROGRESS", "PAUSED")
            else f"Cannot delete job {job_id} in status {status} while executions are IN_PROGRESS"
        )
        super().__init__(message, {"jobId": job_id, "status": status})


class ExecutionFinished(JobsError):
    """The execution is in the terminal status `status`."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.EXECUTION_FINISHED

    def __init__(self, job_id: str, device_id: str, status: str) -> None:
        super().__init__(
            f"The execution of job {job_id} on device {device_id} is finished in status {status}",
            {"jobId": job_id, "deviceId": device_id, "status": status},
        )


class ExecutionInProgress(JobsError):
    """The execution is IN_PROGRESS, and the cancel is not forced."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.EXECUTION_IN_PROGRESS

    def __init__(self, job_id: str, device_id: str) -> None:
        super().__init__(
            f"Cannot cancel the execution of job {job_id} on device {device_id} in status"
            " IN_PROGRESS without force",
            {"jobId": job_id, "deviceId": device_id},
        )


class JobPaused(JobsError):
    """The job is PAUSED, so the device can't start its execution."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_PAUSED

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} is paused; start it after it is resumed", {"jobId": job_id})


class JobNotPausable(JobsError):
    """The job is finished."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_NOT_PAUSABLE

    def __init__(self, job_id: str, status: str) -> None:
        message = f"Cannot pause job {job_id} in status {status}"
        super().__init__(message, {"jobId": job_id, "status": status})


class JobNotResumable(JobsError):
    """The job is finished."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_NOT_RESUMABLE

    def __init__(self, job_id: str, status: str) -> None:
        message = f"Cannot resume job {job_id} in status {status}"
        super().__init__(message, {"jobId": job_id, "status": status})


class ExecutionHeld(JobsError):
    """The rollout of the job has not released the execution yet."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.EXECUTION_HELD

    def __init__(self, job_id: str, device_id: str) -> None:
        super().__init__(
            f"The execution of job {job_id} on device {device_id} is not released yet; wait until"
            " it is pending",
            {"jobId": job_id, "deviceId": device_id},
        )


class JobFull(JobsError):
    """The job has max_in_progress executions IN_PROGRESS."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_FULL

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"Job {job_id} has max_in_progress executions that are IN_PROGRESS; try again later",
            {"jobId": job_id},
        )


class GateNotMet(JobsError):
    """The open stage is finished and its gate is not met, so the job could not continue."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.GATE_NOT_MET

    def __init__(self, job_id: str, stage: str) -> None:
        super().__init__(
            f"All executions of stage {stage} of job {job_id} are finished and its gate is not met;"
            " retry executions, change the gate, or advance the job",
            {"jobId": job_id, "stage": stage},
        )


class ApprovalRequired(JobsError):
    """The gate of the open stage requires an approval."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.APPROVAL_REQUIRED

    def __init__(self, job_id: str, stage: str) -> None:
        super().__init__(
            f"Stage {stage} of job {job_id} requires an approval; approve it first",
            {"jobId": job_id, "stage": stage},
        )


class StageNotApprovable(JobsError):
    """The stage is not open or requires no approval, or the job is finished."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.STAGE_NOT_APPROVABLE

    def __init__(
        self, job_id: str, stage: str, *, cause: str, status: str, open_stage: int | None
    ) -> None:
        """`cause`: NO_STAGE, NO_APPROVAL, FINISHED or NOT_OPEN."""
        match cause:
            case "NO_STAGE":
                message = f"Job {job_id} has no stage {stage}"
            case "NO_APPROVAL":
                message = f"Stage {stage} of job {job_id} requires no approval"
            case "FINISHED":
                message = f"Cannot approve stage {stage} of job {job_id} in status {status}"
            case _:
                message = f"Stage {stage} of job {job_id} is not open; stage {open_stage} is"
        super().__init__(message, {"jobId": job_id, "stage": stage})


class JobNotAdvanceable(JobsError):
    """The job is finished, or the stage is not the one after the open stage."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_NOT_ADVANCEABLE

    def __init__(
        self,
        job_id: str,
        status: str,
        *,
        stage: int | None,
        open_stage: int | None,
        last_stage: int | None,
    ) -> None:
        """`stage`: as in the request. `open_stage` and `last_stage`: None without a rollout."""
        if open_stage is None or last_stage is None:
            message = f"Job {job_id} has no rollout, so no stage can open"
        elif status in ("COMPLETED", "CANCELED"):
            message = f"Cannot open a stage of job {job_id} in status {status}"
        elif stage is not None and stage > last_stage:
            message = f"Job {job_id} has no stage {stage}; its last stage is {last_stage}"
        elif stage is not None:
            message = (
                f"Stage {stage} of job {job_id} can't open yet: stage {open_stage} is open;"
                f" open stage {open_stage + 1} first"
            )
        else:
            message = f"Stage {open_stage} of job {job_id} is open, and it is the last one"
        super().__init__(message, {"jobId": job_id, "status": status})


class JobNotUpdatable(JobsError):
    """The job is finished; or the call changes its expiry, and it has expired."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.JOB_NOT_UPDATABLE

    def __init__(self, job_id: str, status: str) -> None:
        message = (
            f"Job {job_id} has expired; RetryExecutions can set a new expiry"
            if status in ("IN_PROGRESS", "PAUSED")
            else f"Cannot update job {job_id} in status {status}"
        )
        super().__init__(message, {"jobId": job_id, "status": status})


class TimeGatesUnavailable(JobsError):
    """The server runs no maintenance, so bake_time and advance_after would never take effect."""

    code = StatusCode.FAILED_PRECONDITION
    reason = reasons.TIME_GATES_UNAVAILABLE

    def __init__(self) -> None:
        super().__init__(
            "This server runs no maintenance, so bake_time and advance_after would never take"
            " effect; set JOBS_OWNER_DATABASE_URL"
        )


class ExecutionChanged(JobsError):
    """The execution does not have the expected version or execution_number."""

    code = StatusCode.ABORTED
    reason = reasons.EXECUTION_CHANGED

    def __init__(self, current_execution: DeviceExecution) -> None:
        super().__init__(
            f"The execution of job {current_execution.job_id} on device"
            f" {current_execution.device_id} is now at attempt"
            f" {current_execution.execution_number}, version {current_execution.version}; read it,"
            " then report again if the report still applies",
            {"jobId": current_execution.job_id, "deviceId": current_execution.device_id},
        )
        self.current_execution = current_execution


class JobChanged(JobsError):
    """The job does not have the etag of the request."""

    code = StatusCode.ABORTED
    reason = reasons.JOB_CHANGED

    def __init__(self, job_id: str, *, etag: str, status: str, open_stage: int | None) -> None:
        """`etag`, `status` and `open_stage` (None: no rollout) are the current ones."""
        stage = "" if open_stage is None else f", and stage {open_stage} is open"
        super().__init__(
            f"Job {job_id} has changed: its etag is {etag}, its status is {status}{stage}; read it,"
            " then call with its etag",
            {"jobId": job_id, "etag": etag, "status": status}
            | ({} if open_stage is None else {"openStage": str(open_stage)}),
        )


class Overloaded(JobsError):
    """The server has more calls than it can serve in time."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = reasons.OVERLOADED
    retry_after = 1

    def __init__(self) -> None:
        super().__init__(
            "The server is overloaded: no database connection became free within JOBS_POOL_TIMEOUT;"
            " retry later"
        )


class LimitExceeded(JobsError):
    """The call exceeds the limit of a setting, such as JOBS_MAX_TARGETS."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = reasons.LIMIT_EXCEEDED

    def __init__(
        self, message: str, setting: str, value: int, retry_after: int | None = None
    ) -> None:
        hint = "; retry later" if retry_after is not None else ""
        super().__init__(
            f"{message} ({setting} is {value}){hint}", {"setting": setting, "value": str(value)}
        )
        self.retry_after = retry_after


class DatabaseUnavailable(JobsError):
    """The database is unreachable or does not respond. `__cause__` has the original error."""

    code = StatusCode.UNAVAILABLE
    reason = reasons.DATABASE_UNAVAILABLE
    retry_after = 1

    def __init__(self, message: str = "The database is unavailable; retry later") -> None:
        super().__init__(message)


class LockTimeout(DatabaseUnavailable):
    """Another transaction held a lock for longer than the call waits for it."""

    def __init__(self) -> None:
        super().__init__("Another transaction holds a lock that the call needs; retry later")


class QueryTimeout(JobsError):
    """The statement took longer than JOBS_QUERY_TIMEOUT, although the database responds."""

    code = StatusCode.UNAVAILABLE
    reason = reasons.QUERY_TIMEOUT
    retry_after = 5

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The call needs more time in the database than JOBS_QUERY_TIMEOUT ({seconds:g} s)"
            " allows; if it fails again, raise the setting or make a smaller request",
            {"setting": "JOBS_QUERY_TIMEOUT", "value": f"{seconds:g}"},
        )


class SchemaNotCurrent(JobsError):
    """The schema of the database is not the one of this server."""

    code = StatusCode.UNAVAILABLE
    reason = reasons.SCHEMA_NOT_CURRENT
    retry_after = 10

    def __init__(self) -> None:
        super().__init__(
            "The database schema is not current; an administrator must run `jobs-grpc migrate`"
        )


class ServerStopping(JobsError):
    """The server stops: it ended the stream, or a call that exceeded JOBS_SHUTDOWN_GRACE."""

    code = StatusCode.UNAVAILABLE
    reason = reasons.SERVER_STOPPING
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("The server is stopping; call again")


class KeysUnavailable(JobsError):
    """The server has no key that verifies tokens: it has read none, or all are revoked."""

    code = StatusCode.UNAVAILABLE
    reason = reasons.KEYS_UNAVAILABLE
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("The server has no keys to verify tokens with; retry later")


class Internal(JobsError):
    """A bug in the service. The cause is in the log only."""

    code = StatusCode.INTERNAL
    reason = reasons.INTERNAL

    def __init__(self) -> None:
        super().__init__("Internal error")
