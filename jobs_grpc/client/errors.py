"""The exceptions of the client: one class for each ErrorReason, and a base class for the rest."""

import re
from collections.abc import Mapping
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1.error_reason_pb2 import ErrorReason
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

CALL_RESET = "the call was reset; the server may be stopping"
"""The message of an error with the code UNAVAILABLE that gRPC reports as CANCELLED or INTERNAL."""

# The details that grpc.aio gives a stream whose call has ended before its first message was sent.
_NOT_STARTED = "Internal error from Core"

_DOMAIN = "jobs-grpc"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class JobsError(Exception):
    """A call failed, or one report of a stream.

    An error of the service has the subclass of its reason. An error with a reason that this
    version does not know, and an error of gRPC or a proxy, have this class itself.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Mapping[str, str] | None = None,
        current_execution: device_pb.DeviceExecution | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code = code
        """The status code."""
        self.message = message
        """What happened, for people."""
        self.reason = reason
        """The name of the ErrorReason; empty if the error does not come from the service."""
        self.metadata = dict(metadata or {})
        """The metadata of the reason, such as `jobId`; error_reason.proto has examples."""
        self.retry_after = retry_after
        """Seconds after which the same call can succeed; None: the server names no delay."""
        self.violations = dict(violations or {})
        """The rule that each invalid field violates, by its path in the request."""
        self.current_execution = current_execution
        """The execution as it is now, with ExecutionChanged."""
        self.request_id = request_id
        """The id of the call in the server's log; empty if unknown."""


class InvalidField(JobsError):
    """Fields are missing, malformed or out of range; see `violations`."""


class MalformedRequest(JobsError):
    """The bytes are not a message of the request's type."""


class InvalidPageToken(JobsError):
    """The page token belongs to another request or an earlier job, or is not one."""


class TenantRequired(JobsError):
    """The call names no tenant."""


class DeviceRequired(JobsError):
    """The call names no device."""


class DuplicateMetadata(JobsError):
    """Metadata that identifies the caller was sent more than once."""


class InvalidMetadata(JobsError):
    """Metadata that identifies the caller is malformed."""


class TokenRequired(JobsError):
    """The server requires a token."""


class InvalidToken(JobsError):
    """The token has expired or is not valid."""


class RoleRequired(JobsError):
    """None of the caller's roles allows the call."""


class MetadataMismatch(JobsError):
    """The tenant, user or device differs from the token."""


class PeerNotTrusted(JobsError):
    """The server does not trust the client certificate."""


class SelfApproval(JobsError):
    """The creator of the job must not approve its stages."""


class SubjectRequired(JobsError):
    """Approvals need a known user."""


class JobNotFound(JobsError):
    """The tenant has no such job."""


class DeviceNotFound(JobsError):
    """The tenant has no such device."""


class ExecutionNotFound(JobsError):
    """The device has no execution of this job."""


class JobAlreadyExists(JobsError):
    """The job_id belongs to a job of a different request, or to a deleted job."""


class GroupEmpty(JobsError):
    """The group has no members."""


class TenantEmpty(JobsError):
    """The tenant has no devices."""


class StageEmpty(JobsError):
    """A stage with a group_id has no devices, and no allow_empty."""


class ExpiryTooEarly(JobsError):
    """The job expires before its rollout can end."""


class JobNotCancelable(JobsError):
    """The job is finished."""


class JobNotRetryable(JobsError):
    """The job is CANCELED, or has expired and gets no new expiry."""


class JobNotDeletable(JobsError):
    """The job is not finished, or one of its executions is IN_PROGRESS."""


class ExecutionFinished(JobsError):
    """The execution is in a terminal status."""


class ExecutionInProgress(JobsError):
    """The execution is IN_PROGRESS, and the cancel is not forced."""


class JobPaused(JobsError):
    """The job is PAUSED, so the device can't start its execution."""


class JobNotPausable(JobsError):
    """The job is finished."""


class JobNotResumable(JobsError):
    """The job is finished."""


class ExecutionHeld(JobsError):
    """The rollout of the job has not released the execution yet."""


class JobFull(JobsError):
    """The job has max_in_progress executions IN_PROGRESS."""


class GateNotMet(JobsError):
    """The open stage is finished and its gate is not met."""


class ApprovalRequired(JobsError):
    """The gate of the open stage requires an approval."""


class StageNotApprovable(JobsError):
    """The stage is not open or requires no approval, or the job is finished."""


class JobNotAdvanceable(JobsError):
    """The job has no such next stage, or is finished."""


class JobNotUpdatable(JobsError):
    """The job is finished."""


class TimeGatesUnavailable(JobsError):
    """The server does no background work, so times of gates would never take effect."""


class ExecutionChanged(JobsError):
    """The execution does not have the expected version or attempt; see `current_execution`."""


class JobChanged(JobsError):
    """The job does not have the etag of the request."""


class Overloaded(JobsError):
    """The server has more calls than it can serve in time; see `retry_after`."""


class LimitExceeded(JobsError):
    """The call exceeds a limit. If `retry_after` is None, the same call fails again."""


class DatabaseUnavailable(JobsError):
    """The database of the server is unreachable. The call may have taken effect."""


class QueryTimeout(JobsError):
    """The call took too long in the database. It may have taken effect."""


class SchemaNotCurrent(JobsError):
    """The schema of the database is not the one of the server."""


class ServerStopping(JobsError):
    """The server is stopping. The call may have taken effect."""


class KeysUnavailable(JobsError):
    """The server has not yet read the keys that verify tokens."""


class Internal(JobsError):
    """A bug in the service; its log has the cause under `request_id`."""


def _reason(name: str) -> str:
    """Return the reason of a class: JobNotFound is JOB_NOT_FOUND."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


BY_REASON: Mapping[str, type[JobsError]] = {
    _reason(error.__name__): error for error in JobsError.__subclasses__()
}
"""The class of each ErrorReason, by its name in the contract."""


def from_rpc_error(error: grpc.aio.AioRpcError) -> JobsError:
    """Convert the error of a call."""
    fields: dict[str, Any] = {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            fields |= _read_details(value)
        elif key == "x-request-id":
            fields["request_id"] = value
    code, message = error.code(), error.details() or ""
    not_started = code is grpc.StatusCode.INTERNAL and message == _NOT_STARTED
    if (code is grpc.StatusCode.CANCELLED or not_started) and "reason" not in fields:
        # A server that stops, or a proxy, reset the call. A caller who cancels a call gets
        # asyncio.CancelledError instead.
        code, message = grpc.StatusCode.UNAVAILABLE, CALL_RESET
    return _create(code, message, fields)


def from_report_error(error: device_pb.ReportError) -> JobsError:
    """Convert the error of one report of a stream."""
    fields: dict[str, Any] = {}
    if error.reason in ErrorReason.values():
        fields["reason"] = ErrorReason.Name(error.reason)
    if error.HasField("current_execution"):
        fields["current_execution"] = error.current_execution
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    return _create(code, error.message, fields)


def _create(code: grpc.StatusCode, message: str, fields: Mapping[str, Any]) -> JobsError:
    error_type = BY_REASON.get(fields.get("reason", ""), JobsError)
    return error_type(code, message, **fields)


def _read_details(serialized: bytes) -> dict[str, Any]:
    """Return the details of a status as arguments of JobsError; malformed ones are left out."""
    fields: dict[str, Any] = {}
    try:
        for packed in Status.FromString(serialized).details:
            info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
            execution = device_pb.DeviceExecution()
            if packed.Unpack(info):
                if info.domain == _DOMAIN:
                    fields |= {"reason": info.reason, "metadata": info.metadata}
            elif packed.Unpack(bad_request):
                fields["violations"] = {
                    v.field: v.description for v in bad_request.field_violations
                }
            elif packed.Unpack(retry):
                fields["retry_after"] = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            elif packed.Unpack(execution):
                fields["current_execution"] = execution
    except DecodeError:
        pass
    return fields
