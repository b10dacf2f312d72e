"""Converts exceptions to gRPC statuses. Only the text of a JobsError reaches a client."""

import asyncio
import logging
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from jobs_grpc.errors import Internal, JobsError, LockTimeout, ServerStopping, Violation

logger = logging.getLogger(__name__)

DOMAIN = "jobs-grpc"

# If the trailers exceed 8 KiB, gRPC clients fail with RESOURCE_EXHAUSTED and lose the reason of the
# error. The rest is for other trailers.
_MAX_STATUS_BYTES = 6 * 1024

# Messages are not shortened any further.
_MIN_MESSAGE_LENGTH = 40

# What gRPC sends of a message as it is; it escapes each other byte with three characters.
_UNESCAPED = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

# Metadata that identifies an object or an event of the caller's tenant.
_OBJECT_KEYS = frozenset({"jobId", "deviceId", "groupId", "webhookId", "position"})


def to_jobs_error(
    method: str, context: Any, exception: BaseException, *, stopping: bool
) -> JobsError | None:
    """Return the error to send, or None if the call is aborted, or its client has left.

    Exceptions other than JobsError are logged and become INTERNAL with a fixed message.
    `stopping`: the server is stopping, so it canceled the call.
    """
    match exception:
        case JobsError():
            # Only one of the calls that share a batch has the cause.
            if isinstance(exception, LockTimeout) and exception.__cause__:
                logger.warning("a lock was not free in time: %r", exception.__cause__)
            return exception
        case ExceptionGroup():
            # The first task that fails cancels the other tasks of its group.
            ends, others = exception.split(_is_end_of_call)
            jobs_errors, other_errors = others.split(JobsError) if others else (None, None)
            if other_errors is None:
                return None if ends or not jobs_errors else _first_error(jobs_errors)
        case _ if _is_end_of_call(exception):
            return None
        case asyncio.CancelledError():
            if not stopping or context.cancelled() or context.done():
                # The client canceled the call and receives no status.
                return None
            # Without a status, the client would wait until its deadline.
            logger.warning("%s was canceled because the server is stopping", method)
            return ServerStopping()
    logger.error("%s failed", method, exc_info=exception)
    return Internal()


def _is_end_of_call(error: BaseException) -> bool:
    """Whether gRPC has ended the call.

    It was aborted, a read or a write failed because the client has left, or gRPC has stopped.
    """
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError)


def _first_error(group: ExceptionGroup[JobsError]) -> JobsError:
    """The first error of a group, which can contain groups."""
    first = group.exceptions[0]
    return _first_error(first) if isinstance(first, ExceptionGroup) else first


def error_info(error: JobsError, tenant_id: str | None) -> ErrorInfo:
    """Return the ErrorInfo of `error`, with the caller's tenant if the metadata names an object."""
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    if tenant_id is not None and not _OBJECT_KEYS.isdisjoint(error.metadata):
        info.metadata["tenantId"] = tenant_id
    return info


async def abort(context: Any, error: JobsError, tenant_id: str | None) -> None:
    """End the call of the tenant (None: unknown) with the status and the details of `error`.

    The handler must return afterwards; then gRPC itself raises AbortError.
    """
    rich = rpc_status.to_status(_status(error, tenant_id))
    # abort replaces the trailing metadata, so pass on what is set: the request id.
    try:
        await context.abort(
            rich.code, rich.details, (*context.trailing_metadata(), *rich.trailing_metadata)
        )
    except grpc.aio.AbortError as e:
        # The context refers to the error. Through its traceback, the error would refer to the
        # context, and the call would stay in memory until a garbage collection.
        e.__traceback__ = None


def _status(error: JobsError, tenant_id: str | None) -> Status:
    """Convert an error. If it is too large, leave out violations, then shorten the message."""
    message, violations = error.message, [*error.field_violations]
    while True:
        status = Status(code=error.code.value[0], message=message)
        for detail in (error_info(error, tenant_id), *_details(error, violations)):
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        if _wire_size(status) <= _MAX_STATUS_BYTES:
            return status
        if len(violations) > 1:
            violations.pop()
        elif len(message) > _MIN_MESSAGE_LENGTH:
            message = message[: len(message) * 3 // 4].removesuffix("…") + "…"
        elif violations:
            violations.clear()
        else:
            return status


def _wire_size(status: Status) -> int:
    """The size of the trailers: the escaped message, and the status in base64."""
    details: int = status.ByteSize()
    return len(quote(status.message, safe=_UNESCAPED)) + (details + 2) // 3 * 4


def _details(error: JobsError, violations: list[Violation]) -> list[Message]:
    details: list[Message] = []
    if violations:
        fields = [
            BadRequest.FieldViolation(field=v.field, description=v.description) for v in violations
        ]
        details.append(BadRequest(field_violations=fields))
    if error.current_execution is not None:
        details.append(error.current_execution)
    if error.retry_after is not None:
        details.append(RetryInfo(retry_delay=Duration(seconds=int(error.retry_after))))
    return details
