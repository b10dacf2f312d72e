"""Exceptions become statuses here, and only here; no exception's text reaches a client."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
from fleet.jobs.v1 import error_reason_pb2 as reasons
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from jobs_grpc.errors import (
    DatabaseUnavailable,
    ExecutionChanged,
    Internal,
    InvalidRequest,
    JobsError,
    LimitExceeded,
    Overloaded,
    ServerStopping,
)
from jobs_grpc.rpc.interceptor import (
    Context,
    Handler,
    Interceptor,
    behaviour_of,
    like,
    remake,
)

logger = logging.getLogger(__name__)

DOMAIN = "jobs-grpc"


class ErrorStatus(Interceptor):
    """Answers a JobsError as it says, and everything else with a fixed INTERNAL.

    `stopping` is set when the server begins to stop.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Let no exception out but what gRPC itself raises."""
        behaviour = behaviour_of(handler)

        async def answer(request: Any, context: Context) -> Any:
            try:
                return await behaviour(request, context)
            except (Exception, asyncio.CancelledError) as e:
                await self._tell(method, context, e)
                raise

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response
            except (Exception, asyncio.CancelledError) as e:
                await self._tell(method, context, e)
                raise

        return remake(handler, like(behaviour, answer, stream), handler.request_deserializer)

    async def _tell(self, method: str, context: Context, raised: BaseException) -> None:
        """Abort with what the client is told; return if that is nothing of ours."""
        error = self._told(method, context, raised)
        if error is not None:
            await _abort(context, error)

    def _told(self, method: str, context: Context, raised: BaseException) -> JobsError | None:
        match raised:
            case JobsError():
                if isinstance(raised, DatabaseUnavailable):
                    logger.warning("database unavailable: %r", raised.__cause__)
                return raised
            case ExceptionGroup():
                # Of tasks that end together, the first failure ended the others.
                errors, others = raised.split(JobsError)
                if errors is not None and others is None:
                    return _first(errors)
            case grpc.aio.AbortError():
                return None
            case asyncio.CancelledError():
                # Unless the server stops, it is the client that has gone; nobody would read it.
                if not self._stopping.is_set() or context.cancelled() or context.done():
                    return None
                # The server is stopping. Left alone, the client would wait for its deadline.
                logger.warning("%s was cut off", method)
                return ServerStopping()
        logger.error("%s failed", method, exc_info=raised)
        return Internal()


def _first(group: ExceptionGroup[JobsError]) -> JobsError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


async def _abort(context: Context, error: JobsError) -> NoReturn:
    details = [
        ErrorInfo(
            reason=reasons.ErrorReason.Name(error.reason), domain=DOMAIN, metadata=error.metadata
        ),
        *_details(error),
    ]
    status = Status(code=error.code.value[0], message=error.message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    rich = rpc_status.to_status(status)
    # What is given here replaces what was set before: the request id is carried along.
    await context.abort(
        rich.code, rich.details, (*context.trailing_metadata(), *rich.trailing_metadata)
    )


def _details(error: JobsError) -> list[Message]:
    match error:
        case InvalidRequest():
            violations = [
                BadRequest.FieldViolation(field=v.field, description=v.description)
                for v in error.violations
            ]
            return [BadRequest(field_violations=violations)]
        case ExecutionChanged():
            return [error.current_execution]
        case Overloaded(retry_after=int(seconds)) | LimitExceeded(retry_after=int(seconds)):
            return [RetryInfo(retry_delay=Duration(seconds=seconds))]
    return []
