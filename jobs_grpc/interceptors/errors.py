"""Exceptions become statuses here, and only here; no exception's text reaches a client."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn

import grpc
from fleet.jobs.v1 import error_reason_pb2 as reasons
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from jobs_grpc.errors import (
    DatabaseUnavailable,
    ExecutionChanged,
    Internal,
    InvalidRequest,
    JobsError,
    MalformedRequest,
    Overloaded,
    ServerStopping,
)
from jobs_grpc.interceptors.around import (
    Around,
    Context,
    Continuation,
    Handler,
    MaybeHandler,
    remake,
)

logger = logging.getLogger(__name__)

DOMAIN = "fleet.jobs.v1"


class Errors(Around):
    """Answers a JobsError as it says, and everything else with a fixed INTERNAL.

    `stopping` is set when the server begins to stop.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Bring the decoding of requests inside, then wrap as usual."""

        async def decode_inside(details: grpc.HandlerCallDetails) -> MaybeHandler:
            handler = await continuation(details)
            if handler is None or handler.request_streaming:
                return handler
            return _decode_in_behaviour(handler)

        return await super().intercept_service(decode_inside, handler_call_details)

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        try:
            yield
        except JobsError as error:
            if isinstance(error, DatabaseUnavailable):
                logger.warning("database unavailable: %r", error.__cause__)
            await _abort(context, error)
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            # Unless the server stops, it is the client that has gone; nobody would read it.
            if not self._stopping.is_set() or context.cancelled() or context.done():
                raise
            # The server is stopping. Left alone, the client would wait for its deadline.
            logger.warning("%s was cut off", method)
            await _abort(context, ServerStopping())
        except Exception:
            logger.exception("%s failed", method)
            await _abort(context, Internal())


def _decode_in_behaviour(handler: Handler) -> Handler:
    """Without this, gRPC itself decodes, and fails with UNKNOWN on malformed bytes."""
    behaviour: Any = handler.unary_unary or handler.unary_stream
    deserialize: Any = handler.request_deserializer

    def decode(raw: bytes) -> Message:
        try:
            message: Message = deserialize(raw)
        except DecodeError:
            raise MalformedRequest("The request is not a valid protobuf message") from None
        return message

    if inspect.isasyncgenfunction(behaviour):

        async def stream(raw: bytes, context: Context) -> AsyncIterator[Any]:
            async with aclosing(behaviour(decode(raw), context)) as responses:
                async for response in responses:
                    yield response

        return remake(handler, stream, None)

    async def answer(raw: bytes, context: Context) -> Any:
        return await behaviour(decode(raw), context)

    return remake(handler, answer, None)


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
            return [error.present]
        case Overloaded():
            return [RetryInfo(retry_delay=Duration(seconds=error.retry_after))]
    return []
