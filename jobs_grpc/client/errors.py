"""The exceptions of the client, and how it creates them from what a server sends."""

from collections.abc import Mapping
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1.error_reason_pb2 import ErrorReason
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from jobs_grpc.errors import *  # noqa: F403 - one class for each ErrorReason
from jobs_grpc.errors import BY_REASON, JobsError, Violation

CALL_RESET = "the call was reset; the server may be stopping"
"""The message of an error with the code UNAVAILABLE that gRPC reports as CANCELLED or INTERNAL."""

# The details that grpc.aio gives a stream whose call has ended before its first message was sent.
_NOT_STARTED = "Internal error from Core"

_DOMAIN = "jobs-grpc"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def create_error(
    code: grpc.StatusCode,
    message: str,
    *,
    reason: str = "",
    metadata: Mapping[str, str] | None = None,
    retry_after: float | None = None,
    **details: Any,
) -> JobsError:
    """Return the error of a call, of the class of its reason. `details`: other attributes."""
    error_type = BY_REASON.get(reason, JobsError)
    error = error_type.__new__(error_type)
    # Not the constructor of the class: a server of another version can send another message.
    JobsError.__init__(error, message)
    error.args = (f"{reason or code.name}: {message}",)  # What str() shows.
    fields = {"code": code, "reason": reason, "retry_after": retry_after}
    vars(error).update(details, **fields, metadata=dict(metadata or {}))
    return error


def from_rpc_error(error: grpc.aio.AioRpcError) -> JobsError:
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
    return create_error(code, message, **fields)


def from_item_error(error: device_pb.ItemError) -> JobsError:
    fields: dict[str, Any] = {}
    if error.reason in ErrorReason.values():
        fields["reason"] = ErrorReason.Name(error.reason)
    if error.HasField("current_execution"):
        fields["current_execution"] = error.current_execution
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    return create_error(code, error.message, **fields)


def _read_details(serialized: bytes) -> dict[str, Any]:
    """Return the details of a status for create_error; malformed ones are left out."""
    fields: dict[str, Any] = {}
    try:
        for packed in Status.FromString(serialized).details:
            info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
            execution = device_pb.DeviceExecution()
            if packed.Unpack(info):
                if info.domain == _DOMAIN:
                    fields |= {"reason": info.reason, "metadata": info.metadata}
            elif packed.Unpack(bad_request):
                fields["field_violations"] = [
                    Violation(v.field, v.description) for v in bad_request.field_violations
                ]
            elif packed.Unpack(retry):
                fields["retry_after"] = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            elif packed.Unpack(execution):
                fields["current_execution"] = execution
    except DecodeError:
        pass
    return fields
