"""Every error of the service: one class for each ErrorReason, on the server and in its clients.

The class JobNotFound has the reason JOB_NOT_FOUND, which error_reason.proto describes. The class
declares the status code, the SQLSTATE with which SQL functions raise the error, and the seconds
after which a retry can succeed; its constructor has the message and the metadata.
`make errors-reference` writes what follows from both: docs/reference/errors.md, raise_error.sql and
the examples of the OpenAPI document.

`rpc/error_status.py` sends the errors as gRPC statuses. `db/sqlstates.py` creates them from errors
of SQL functions, and `client/errors.py` from statuses.

A message is for the caller, names the object and one cause, and contains no internals. Five
messages do not name the object, because clients of the platform's routes compare them: "Job not
found", "Device not found", "Group has no members", "No devices in tenant" and "Cannot cancel job in
status …".
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil
from typing import Any, ClassVar

from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution
from grpc import StatusCode

from jobs_grpc.rollout_time import describe_stage_times, format_seconds

FINISHED_STATUSES = ("COMPLETED", "CANCELED")
"""The statuses of jobs that are not active."""

# How many ids an error names, and their bytes. It names one id in any case, of up to 1,024 bytes.
_MAX_IDS = 20
_MAX_IDS_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Violation:
    """An invalid field: its path in the request, and the rule that it violates."""

    field: str
    description: str


BY_REASON: dict[str, "type[JobsError]"] = {}
"""The class of each ErrorReason, by its name in the contract."""

BY_SQLSTATE: dict[str, "type[JobsError]"] = {}
"""The class of each error that SQL functions raise; `db/sqlstates.py` has some of the classes."""


class JobsError(Exception):
    """A call failed, or one report of a stream.

    An error of the service has the subclass of its reason. A client raises this class itself for an
    error with a reason that its version does not know, and for an error of gRPC or a proxy.
    """

    code: StatusCode = StatusCode.UNKNOWN
    """The status code."""
    reason: str = ""
    """The name of the ErrorReason; empty if the error does not come from the service."""
    retry_after: float | None = None
    """Seconds after which the same call can succeed. None: the server names no delay."""
    field_violations: Sequence[Violation] = ()
    """The invalid fields, with InvalidField."""
    current_execution: DeviceExecution | None = None
    """The execution as it is now, with ExecutionChanged."""
    request_id: str = ""
    """The id of the call in the server's log; empty if unknown."""

    def __init_subclass__(
        cls, *, code: StatusCode | None = None, sqlstate: str = "", retry_after: int | None = None
    ) -> None:
        """Declare a reason; without `code`, one cause of the reason of the parent class."""
        if code is not None:
            cls.code, cls.retry_after = code, retry_after
            cls.reason = cls.upper_name()
            BY_REASON[cls.reason] = cls
        if sqlstate:
            BY_SQLSTATE[sqlstate] = cls

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        """What happened, for people."""
        self.metadata: Mapping[str, str] = metadata
        """The metadata of the reason, such as `jobId`; error_reason.proto has examples."""

    def add_hint(self, hint: str) -> None:
        """Say what may be misspelled, in the message and as the metadata `hint`."""
        self.message = f"{self.message} ({hint})"
        self.args = (self.message,)
        self.metadata = {**self.metadata, "hint": hint}

    @property
    def violations(self) -> dict[str, str]:
        """The rule that each invalid field violates, by its path in the request."""
        return {v.field: v.description for v in self.field_violations}

    @classmethod
    def upper_name(cls) -> str:
        """Return the name of the class as reasons and SQL functions spell it: JOB_NOT_FOUND."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the attributes, without the cause.

        The default calls the constructor, whose parameters differ from `args`.
        """
        return _new, (type(self), *self.args), {**vars(self)}


def _new(error_type: type[JobsError], *args: object) -> JobsError:
    """Create an error without its constructor."""
    return error_type.__new__(error_type, *args)


class InvalidField(JobsError, code=StatusCode.INVALID_ARGUMENT):
    """Fields are missing, malformed or out of range; see `violations`.

    Keeps the first MAX_VIOLATIONS. The message describes the first few of them.
    """

    # error_status.py sends fewer if they are long.
    MAX_VIOLATIONS: ClassVar[int] = 20
    _MAX_IN_MESSAGE: ClassVar[int] = 3

    def __init__(self, violations: Sequence[Violation]) -> None:
        message = "; ".join(v.description for v in violations[: self._MAX_IN_MESSAGE])
        more = len(violations) - self._MAX_IN_MESSAGE
        super().__init__(f"{message}; and {more} more" if more > 0 else message)
        self.field_violations = violations[: self.MAX_VIOLATIONS]


class MalformedRequest(JobsError, code=StatusCode.INVALID_ARGUMENT):
    """The bytes are not a message of the request's type."""


class InvalidPageToken(JobsError, code=StatusCode.INVALID_ARGUMENT):
    """The page token is malformed, from another request or job, or combined with an offset."""


class TenantRequired(JobsError, code=StatusCode.UNAUTHENTICATED):
    """The call names no tenant."""

    def __init__(self) -> None:
        super().__init__("The call names no tenant: send x-tenant-id")


class DeviceRequired(JobsError, code=StatusCode.UNAUTHENTICATED):
    """The call names no device."""

    def __init__(self) -> None:
        super().__init__("The call names no device: send x-device-id")


class DuplicateMetadata(JobsError, code=StatusCode.UNAUTHENTICATED):
    """Metadata that identifies the caller was sent more than once."""


class InvalidMetadata(JobsError, code=StatusCode.UNAUTHENTICATED):
    """Metadata that identifies the caller is malformed."""


class TokenRequired(JobsError, code=StatusCode.UNAUTHENTICATED):
    """The server requires a token, and the call has none."""

    def __init__(self) -> None:
        super().__init__("The call has no token; send authorization: Bearer TOKEN")


class InvalidToken(JobsError, code=StatusCode.UNAUTHENTICATED):
    """The token has expired or is not valid."""

    def __init__(self, problem: str) -> None:
        """`problem`: the predicate, such as "has expired". It must not contain the token."""
        super().__init__(f"The token {problem}")


class InvalidCertificate(JobsError, code=StatusCode.UNAUTHENTICATED):
    """The client certificate of a device has expired, or does not identify a device."""

    def __init__(self, problem: str) -> None:
        """`problem`: the predicate, such as "has expired"."""
        super().__init__(f"The client certificate {problem}")
        self.problem = problem


class RoleRequired(JobsError, code=StatusCode.PERMISSION_DENIED):
    """None of the caller's roles allows the call; `roles` do."""

    def __init__(self, roles: Sequence[str]) -> None:
        required = (
            f"one of the roles {', '.join(roles)}" if len(roles) > 1 else f"the role {roles[0]}"
        )
        super().__init__(f"This call needs {required}", roles=",".join(roles))


class MetadataMismatch(JobsError, code=StatusCode.PERMISSION_DENIED):
    """The tenant, user or device of the metadata differs from the token or the certificate."""

    def __init__(self, key: str, credential: str = "token") -> None:
        alternative = (
            ", or send a token that has the role bridge and names no device"
            if key == "x-device-id" and credential == "token"
            else ""
        )
        super().__init__(
            f"{key} differs from the {credential}; do not send it{alternative}", key=key
        )


class PeerNotTrusted(JobsError, code=StatusCode.PERMISSION_DENIED):
    """JOBS_TRUSTED_PEERS lists none of the names of the client certificate."""

    def __init__(self) -> None:
        super().__init__("The client certificate does not belong to a trusted peer")


class DeviceNotRegistered(JobsError, code=StatusCode.PERMISSION_DENIED):
    """The tenant of the client certificate has no such device."""

    def __init__(self, device_id: str) -> None:
        super().__init__(
            f"The device {device_id} of the client certificate is not registered",
            deviceId=device_id,
        )


class SelfApproval(JobsError, code=StatusCode.PERMISSION_DENIED, sqlstate="JB021"):
    """The user who created the job must not approve its start or its stages."""

    def __init__(self, job_id: str, stage: str = "") -> None:
        """`stage`: empty for the start."""
        part = f"stage {stage}" if stage else "start"
        problem = f"The creator of job {job_id} must not approve its {part}"
        metadata = {"stage": stage} if stage else {}
        super().__init__(f"{problem}; ask another user", jobId=job_id, **metadata)


class SubjectRequired(JobsError, code=StatusCode.PERMISSION_DENIED, sqlstate="JB029"):
    """Approvals need a known user."""

    def __init__(self) -> None:
        super().__init__("Approvals need a known user; send x-user-id, or a token with a subject")


class JobNotFound(JobsError, code=StatusCode.NOT_FOUND, sqlstate="JB005"):
    """The tenant has no such job."""

    def __init__(self, job_id: str) -> None:
        super().__init__("Job not found", jobId=job_id)


class DeviceNotFound(JobsError, code=StatusCode.NOT_FOUND, sqlstate="JB001"):
    """The tenant has no such device."""

    def __init__(self, device_id: str) -> None:
        super().__init__("Device not found", deviceId=device_id)


class DevicesNotFound(DeviceNotFound, sqlstate="JB031"):
    """The tenant lacks `count` devices of the request; `device_ids` are the first of them."""

    def __init__(self, device_ids: Sequence[str], count: int) -> None:
        device_ids = _first_ids(device_ids)
        super().__init__(device_ids[0])
        self.message = f"Devices not found: {name_ids(device_ids, count)}"
        self.args = (self.message,)
        self.metadata = {"deviceIds": json.dumps(device_ids, ensure_ascii=False)}


class ExecutionNotFound(JobsError, code=StatusCode.NOT_FOUND, sqlstate="JB007"):
    """The device has no execution of this job."""

    def __init__(self, job_id: str, device_id: str) -> None:
        message = f"Device {device_id} has no execution of job {job_id}"
        super().__init__(message, jobId=job_id, deviceId=device_id)


class WebhookNotFound(JobsError, code=StatusCode.NOT_FOUND, sqlstate="JB041"):
    """The tenant has no such webhook."""

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"Webhook {webhook_id} not found", webhookId=webhook_id)


class JobAlreadyExists(JobsError, code=StatusCode.ALREADY_EXISTS, sqlstate="JB004"):
    """The job_id belongs to a job of a different request, or to a deleted job."""

    def __init__(self, job_id: str, *, deleted: bool) -> None:
        problem = (
            "was deleted and is not purged yet" if deleted else "was created by another request"
        )
        super().__init__(f"Job {job_id} {problem}; choose another job_id", jobId=job_id)


class GroupEmpty(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB002"):
    """The group has no members, or does not exist."""

    def __init__(self, group_id: str) -> None:
        super().__init__("Group has no members", groupId=group_id)

    def add_hint(self, hint: str) -> None:
        """Add the metadata and, for REST, a violation, but keep the message: see the module."""
        self.metadata = {**self.metadata, "hint": hint}
        self.field_violations = [Violation("target_group_id", hint)]


class TenantEmpty(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB003"):
    """The tenant has no devices."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__("No devices in tenant", tenantId=tenant_id)


class TargetEmpty(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB034"):
    """No device matches the target."""

    def __init__(self, job_id: str, failed_in: str | None, selector: str | None) -> None:
        """`failed_in`: the job of target_failed_in; None: the target is `selector`.

        `selector` can be cut to its first 200 characters.
        """
        super().__init__(
            f"No device matches {selector}"
            if failed_in is None
            else f"No device matches target_failed_in: job {failed_in} has no such failed"
            " executions on existing devices",
            jobId=job_id,
        )


class StageEmpty(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB026"):
    """A stage with a group_id or a selector has no devices, and no allow_empty."""

    def __init__(self, stage: str, group_id: str | None, selector: str | None) -> None:
        """One of `group_id` and `selector` is set."""
        devices, field = (
            (f"matches {selector}", "selector")
            if group_id is None
            else (f"is in group {group_id}", "group_id")
        )
        super().__init__(
            f"Stage {stage} has no devices: no device of the job {devices}, or earlier stages"
            f" claim them all; correct {field} or set allow_empty",
            stage=stage,
            **({} if group_id is None else {"groupId": group_id}),
        )


class ExpiryTooEarly(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB027"):
    """The job expires before it starts, or before its last device can start."""

    def __init__(
        self,
        job_id: str,
        seconds: float,
        seconds_left: float,
        stages: Sequence[Mapping[str, Any]],
        stage_count: int,
        is_scheduled: bool,
    ) -> None:
        """The times are those of check_time_for_rollout.sql.

        `seconds_left` counts from the start of the job if it `is_scheduled`.
        """
        subject, change = "The rollout takes", "shorten the stages"
        if not all("stage" in stage for stage in stages):  # There is no rollout.
            subject, change = "Starting all devices takes", "change the start windows"
        elif any("window_seconds" in stage for stage in stages):
            change += " or change the start windows"
        time_left = format_seconds(seconds_left)
        if seconds_left <= 0:
            message = "The job expires before it starts. Let it expire later or never"
        else:
            message = (
                f"{subject} at least {format_seconds(seconds)}, but the job expires"
                + (f" {time_left} after its start: " if is_scheduled else f" in {time_left}: ")
                + describe_stage_times(stages, stage_count)
                + f". Let it expire later or never, or {change}"
            )
        super().__init__(message, jobId=job_id, minSeconds=str(ceil(seconds)))


class JobNotCancelable(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB006"):
    """The job is finished."""

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(f"Cannot cancel job in status {status}", jobId=job_id, status=status)


class JobNotRetryable(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB010"):
    """The job is CANCELED, or has expired and gets no new expiry."""

    def __init__(self, job_id: str, status: str) -> None:
        message = (
            f"Cannot retry job {job_id} in status CANCELED"
            if status == "CANCELED"
            else f"Job {job_id} has expired; retry it with expires_in_hours or never_expires"
        )
        super().__init__(message, jobId=job_id, status=status)


class JobNotDeletable(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB011"):
    """The job is active, or one of its executions is IN_PROGRESS."""

    def __init__(self, job_id: str, status: str) -> None:
        problem = (
            "; cancel it first"
            if status not in FINISHED_STATUSES
            else " while executions are IN_PROGRESS"
        )
        message = f"Cannot delete job {job_id} in status {status}{problem}"
        super().__init__(message, jobId=job_id, status=status)


class ExecutionFinished(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB008"):
    """The execution is in the terminal status `status`."""

    def __init__(self, job_id: str, device_id: str, status: str) -> None:
        execution = f"The execution of job {job_id} on device {device_id}"
        message = f"{execution} is finished in status {status}"
        super().__init__(message, jobId=job_id, deviceId=device_id, status=status)


class ExecutionInProgress(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB009"):
    """The execution is IN_PROGRESS, and the cancel is not forced."""

    def __init__(self, job_id: str, device_id: str) -> None:
        super().__init__(
            f"Cannot cancel the execution of job {job_id} on device {device_id} in status"
            " IN_PROGRESS without force",
            jobId=job_id,
            deviceId=device_id,
        )


class JobPaused(JobsError, code=StatusCode.FAILED_PRECONDITION):
    """The job is PAUSED, so the device can't start its execution."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} is paused; start it after it is resumed", jobId=job_id)


class JobNotPausable(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB014"):
    """The job is finished."""

    def __init__(self, job_id: str, status: str) -> None:
        message = f"Cannot pause job {job_id} in status {status}"
        super().__init__(message, jobId=job_id, status=status)


class JobNotResumable(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB015"):
    """The job is finished."""

    def __init__(self, job_id: str, status: str) -> None:
        message = f"Cannot resume job {job_id} in status {status}"
        super().__init__(message, jobId=job_id, status=status)


class ExecutionHeld(JobsError, code=StatusCode.FAILED_PRECONDITION):
    """The job has not started, or its rollout has not released the execution yet."""

    def __init__(self, job_id: str, device_id: str) -> None:
        super().__init__(
            f"The execution of job {job_id} on device {device_id} is not released yet; wait until"
            " it is pending",
            jobId=job_id,
            deviceId=device_id,
        )


class ExecutionNotDue(JobsError, code=StatusCode.FAILED_PRECONDITION):
    """No start window of the job is open, or the backoff of the retry policy has not ended."""

    def __init__(self, job_id: str, device_id: str, *, earliest_start_at: str) -> None:
        super().__init__(
            f"The execution of job {job_id} on device {device_id} can't start before"
            f" {earliest_start_at}; start it then or later",
            jobId=job_id,
            deviceId=device_id,
            earliestStartAt=earliest_start_at,
        )


class CancelNotRequested(JobsError, code=StatusCode.FAILED_PRECONDITION):
    """A device accepts the cancel of a job that is not canceled."""

    def __init__(self, job_id: str, device_id: str) -> None:
        super().__init__(
            f"Job {job_id} is not canceled, so device {device_id} can't accept its cancel; report"
            " REJECTED without cancel_accepted",
            jobId=job_id,
            deviceId=device_id,
        )


class JobFull(JobsError, code=StatusCode.FAILED_PRECONDITION):
    """The job has max_in_progress executions IN_PROGRESS."""

    def __init__(self, job_id: str) -> None:
        problem = f"Job {job_id} has max_in_progress executions that are IN_PROGRESS"
        super().__init__(f"{problem}; try again later", jobId=job_id)


class GateNotMet(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB018"):
    """The open stage is finished and its gate is not met, so the job could not continue."""

    def __init__(self, job_id: str, stage: str) -> None:
        super().__init__(
            f"All executions of stage {stage} of job {job_id} are finished and its gate is not met;"
            " retry executions, change the gate, or advance the job",
            jobId=job_id,
            stage=stage,
        )


class ApprovalRequired(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB019"):
    """The gate of the open stage requires an approval."""

    def __init__(self, job_id: str, stage: str) -> None:
        message = f"Stage {stage} of job {job_id} requires an approval; approve it first"
        super().__init__(message, jobId=job_id, stage=stage)


class StageNotApprovable(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB020"):
    """The stage is not open, requires no approval or has it, or the job is finished."""

    def __init__(
        self, job_id: str, stage: str, *, cause: str, status: str, open_stage: int | None
    ) -> None:
        """`cause`: NO_STAGE, NO_APPROVAL, APPROVED, FINISHED or NOT_OPEN."""
        match cause:
            case "NO_STAGE":
                message = f"Job {job_id} has no stage {stage}"
            case "NO_APPROVAL":
                message = f"Stage {stage} of job {job_id} requires no approval"
            case "APPROVED":
                message = (
                    f"Stage {stage} of job {job_id} is approved already; pause the job instead"
                )
            case "FINISHED":
                message = (
                    f"Stage {stage} of job {job_id} can be neither approved nor rejected in status"
                    f" {status}"
                )
            case _:
                message = f"Stage {stage} of job {job_id} is not open; stage {open_stage} is"
        super().__init__(message, jobId=job_id, stage=stage)


class StartNotApproved(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB047"):
    """The start of the job needs an approval, and has none."""

    def __init__(self, job_id: str) -> None:
        message = f"The start of job {job_id} is not approved; call ApproveStart first"
        super().__init__(message, jobId=job_id)


class StartNotApprovable(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB048"):
    """The start needs no approval or has it, or the job is finished."""

    def __init__(self, job_id: str, status: str, *, cause: str) -> None:
        """`cause`: NO_APPROVAL, APPROVED or FINISHED."""
        match cause:
            case "NO_APPROVAL":
                message = f"The start of job {job_id} needs no approval"
            case "APPROVED":
                message = f"The start of job {job_id} is approved already; pause or cancel the job"
            case _:
                message = (
                    f"The start of job {job_id} can be neither approved nor rejected in status"
                    f" {status}"
                )
        super().__init__(message, jobId=job_id, status=status)


class JobNotAdvanceable(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB022"):
    """The job is finished, or the stage is not the one after the open stage."""

    def __init__(
        self,
        job_id: str,
        status: str,
        *,
        stage: int | None,
        open_stage: int | None,
        last_stage: int | None,
        is_started: bool,
    ) -> None:
        """`stage`: as in the request. `open_stage` and `last_stage`: None without a rollout."""
        if open_stage is None or last_stage is None:
            message = f"Job {job_id} has no rollout, so no stage can open"
        elif status in FINISHED_STATUSES:
            message = f"Cannot open a stage of job {job_id} in status {status}"
        elif not is_started:
            message = f"Job {job_id} has not started, so no stage can open; UpdateJob can start it"
        elif stage is not None and stage > last_stage:
            message = f"Job {job_id} has no stage {stage}; its last stage is {last_stage}"
        elif stage is not None:
            message = (
                f"Stage {stage} of job {job_id} can't open yet: stage {open_stage} is open;"
                f" open stage {open_stage + 1} first"
            )
        else:
            message = f"Stage {open_stage} of job {job_id} is open, and it is the last one"
        super().__init__(message, jobId=job_id, status=status)


class JobNotUpdatable(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB023"):
    """The job is finished, its start has passed, or it has expired, so it can't change."""

    def __init__(self, job_id: str, status: str, changes_start: bool) -> None:
        if status in FINISHED_STATUSES:
            message = f"Cannot update job {job_id} in status {status}"
        elif changes_start:
            message = (
                f"Job {job_id} has started, so its start_at can't change; PauseJob can stop it"
            )
        else:
            message = f"Job {job_id} has expired; RetryExecutions can set a new expiry"
        super().__init__(message, jobId=job_id, status=status)


class TimeGatesUnavailable(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB030"):
    """The server runs no maintenance, so bake_time and advance_after would never take effect."""

    def __init__(self) -> None:
        super().__init__(
            "This server runs no maintenance, so bake_time and advance_after would never take"
            " effect; set JOBS_OWNER_DATABASE_URL"
        )


class DevicesReadOnly(JobsError, code=StatusCode.FAILED_PRECONDITION, sqlstate="JB032"):
    """The platform manages the device tables, so calls can't register, delete or group devices."""

    def __init__(self) -> None:
        super().__init__(
            "The platform manages the device tables: register, delete and group devices there."
            " Labels and time zones can be changed here"
        )


class WebhooksUnavailable(JobsError, code=StatusCode.FAILED_PRECONDITION):
    """The server has no key for the secret of the webhook."""

    def __init__(self) -> None:
        super().__init__(
            "This server has no key for the secret of the webhook; an administrator must set"
            " JOBS_WEBHOOK_KEYS_FILE, or add the key to that file. To try webhooks, run"
            " `jobs-grpc dev` with the extra `webhooks` installed; it creates a master key"
        )


class ExecutionChanged(JobsError, code=StatusCode.ABORTED):
    """The execution does not have the expected version or attempt; see `current_execution`."""

    def __init__(self, current_execution: DeviceExecution) -> None:
        super().__init__(
            f"The execution of job {current_execution.job_id} on device"
            f" {current_execution.device_id} is now at attempt"
            f" {current_execution.execution_number}, version {current_execution.version}; read it,"
            " then report again if the report still applies",
            jobId=current_execution.job_id,
            deviceId=current_execution.device_id,
        )
        self.current_execution = current_execution


class JobChanged(JobsError, code=StatusCode.ABORTED, sqlstate="JB016"):
    """The job does not have the etag of the request."""

    def __init__(self, job_id: str, *, etag: str, status: str, open_stage: int | None) -> None:
        """`etag`, `status` and `open_stage` (None: no rollout) are the current ones."""
        stage = "" if open_stage is None else f", and stage {open_stage} is open"
        super().__init__(
            f"Job {job_id} has changed: its etag is {etag}, its status is {status}{stage}; read it,"
            " then call with its etag",
            jobId=job_id,
            etag=etag,
            status=status,
            **({} if open_stage is None else {"openStage": str(open_stage)}),
        )


class TargetChanged(JobsError, code=StatusCode.ABORTED, sqlstate="JB035"):
    """The target does not have the expected_target_digest."""

    def __init__(self, job_id: str, device_count: str, expected_count: str) -> None:
        now = f"{int(device_count):,} devices now"
        super().__init__(
            f"The target has changed: it has {now}, and {int(expected_count):,} were expected;"
            " preview it again"
            if device_count != expected_count
            else f"The target has changed: it has {now}, but not the expected ones, or not in the"
            " same stages; preview it again",
            jobId=job_id,
            deviceCount=device_count,
            expectedCount=expected_count,
        )


class EventsPurged(JobsError, code=StatusCode.OUT_OF_RANGE, sqlstate="JB039"):
    """Events after the position have been purged."""

    def __init__(self, position: int, purged_position: int) -> None:
        super().__init__(
            f"Events after position {position} have been purged; read the jobs again, then continue"
            f" after position {purged_position}",
            position=str(position),
            purgedPosition=str(purged_position),
        )


class PositionUnknown(JobsError, code=StatusCode.OUT_OF_RANGE, sqlstate="JB040"):
    """The position is larger than that of the last event."""

    def __init__(self, position: int, last_position: int) -> None:
        super().__init__(
            f"Position {position} is unknown: the last event has position {last_position}; read the"
            " jobs again, then continue after that position",
            position=str(position),
            lastPosition=str(last_position),
        )


class Overloaded(JobsError, code=StatusCode.RESOURCE_EXHAUSTED, retry_after=1):
    """The server has more calls than it can serve in time; see `retry_after`."""

    def __init__(self) -> None:
        super().__init__(
            "The server is overloaded: no database connection became free within JOBS_POOL_TIMEOUT;"
            " retry later"
        )


class Limit(Enum):
    """A limit of calls: what its error says, and the setting that the error names."""

    CALLS = "The server has too many calls in flight", "JOBS_MAX_CALLS"
    TENANT_CALLS = "The tenant has too many calls in flight", "JOBS_MAX_TENANT_CALLS"
    TENANT_RATE = "The tenant makes too many calls per second", "JOBS_MAX_TENANT_RATE"
    HEALTH_CHECKS = "The server has too many health checks in flight", "JOBS_MAX_CALLS"
    STREAMS = "The server has too many open streams", "JOBS_MAX_STREAMS"
    TENANT_STREAMS = "The tenant has too many open streams", "JOBS_MAX_TENANT_STREAMS"
    DEVICE_STREAMS = "The device has too many open streams", "JOBS_MAX_DEVICE_STREAMS"
    PUBLIC_STREAMS = "The server has too many open health and reflection streams", "JOBS_MAX_CALLS"
    REFLECTION_STREAMS = (
        "The server has too many open reflection streams",
        "JOBS_MAX_BUFFERED_BYTES",
    )
    REPORT_STREAMS = "The server has too many open report streams", "JOBS_MAX_REPORT_STREAMS"
    TENANT_REPORT_STREAMS = (
        "The tenant has too many open report streams",
        "JOBS_MAX_TENANT_REPORT_STREAMS",
    )
    MEMORY = (
        "The requests and unread responses of all callers take too much memory",
        "JOBS_MAX_BUFFERED_BYTES",
    )
    TENANT_MEMORY = (
        "The requests and unread responses of the tenant take too much memory",
        "JOBS_MAX_TENANT_BUFFERED_BYTES",
    )
    REQUEST_SIZE = "The request has {size} bytes", "JOBS_MAX_REQUEST_BYTES"
    TARGETS = "The job has too many devices", "JOBS_MAX_TARGETS"
    ACTIVE_JOBS = "The tenant has too many active jobs", "JOBS_MAX_ACTIVE_JOBS"
    TENANT_DEVICES = (
        "The tenant would have too many devices; delete some",
        "JOBS_MAX_TENANT_DEVICES",
    )


class LimitExceeded(JobsError, code=StatusCode.RESOURCE_EXHAUSTED):
    """The call exceeds the limit of a setting. If `retry_after` is None, it fails again."""

    def __init__(
        self, limit: Limit, value: int, retry_after: int | None = None, **facts: int
    ) -> None:
        """`value`: the setting's; `facts`: those in the text of the limit."""
        text, setting = limit.value
        hint = "; retry later" if retry_after is not None else ""
        message = f"{text.format(**facts)} ({setting} is {value}){hint}"
        super().__init__(message, setting=setting, value=str(value))
        self.retry_after = retry_after


class AlreadyRunning(LimitExceeded):
    """Another call of the tenant has the only slot for such work in this server process."""

    work: ClassVar[str]

    def __init__(self) -> None:
        JobsError.__init__(
            self, f"This server process is already {self.work} of the tenant; retry later"
        )
        self.retry_after = 1


class EvaluationRunning(AlreadyRunning, sqlstate="JB037"):
    """Another call of the tenant is evaluating a target in this server process."""

    work = "evaluating a target"


class TimelineRunning(AlreadyRunning):
    """The timeline of another job of the tenant is being computed in this server process."""

    work = "computing the timeline of another job"


class DatabaseUnavailable(JobsError, code=StatusCode.UNAVAILABLE, retry_after=1):
    """The database is unreachable or does not respond. The call may have taken effect.

    On the server, `__cause__` has the original error.
    """

    def __init__(self, message: str = "The database is unavailable; retry later") -> None:
        super().__init__(message)


class LockTimeout(DatabaseUnavailable):
    """Another transaction held a lock for too long. A client gets DatabaseUnavailable."""

    def __init__(self) -> None:
        super().__init__("Another transaction holds a lock that the call needs; retry later")


class QueryTimeout(JobsError, code=StatusCode.UNAVAILABLE, retry_after=5):
    """The call took longer than JOBS_QUERY_TIMEOUT in the database. It may have taken effect."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The call needs more time in the database than JOBS_QUERY_TIMEOUT ({seconds:g} s)"
            " allows; if it fails again, raise the setting or make a smaller request",
            setting="JOBS_QUERY_TIMEOUT",
            value=f"{seconds:g}",
        )


class SchemaNotCurrent(JobsError, code=StatusCode.UNAVAILABLE, retry_after=10):
    """The schema of the database is not the one of the server."""

    def __init__(self) -> None:
        super().__init__(
            "The database schema is not current; an administrator must run `jobs-grpc migrate`"
        )


class ServerStopping(JobsError, code=StatusCode.UNAVAILABLE, retry_after=1):
    """The server ended the stream or the call because it stops. It may have taken effect."""

    def __init__(self) -> None:
        super().__init__("The server is stopping; call again")


class KeysUnavailable(JobsError, code=StatusCode.UNAVAILABLE, retry_after=5):
    """The server has no key that verifies tokens: it has read none, or all are revoked."""

    def __init__(self) -> None:
        super().__init__("The server has no keys to verify tokens with; retry later")


class Internal(JobsError, code=StatusCode.INTERNAL):
    """A bug in the service; its log has the cause under `request_id`."""

    def __init__(self) -> None:
        super().__init__("Internal error")


def name_ids(ids: Sequence[str], count: int) -> str:
    """Name the first of `count` ids for a message: "a, b, and 3 more"."""
    ids = _first_ids(ids)
    more = f", and {count - len(ids)} more" if count > len(ids) else ""
    return f"{', '.join(ids)}{more}"


def _first_ids(ids: Sequence[str]) -> Sequence[str]:
    """Return the first ids for which an error has room: at least one."""
    count = size = 0
    for id_ in ids[:_MAX_IDS]:
        size += len(id_.encode())
        if count and size > _MAX_IDS_BYTES:
            break
        count += 1
    return ids[:count]
