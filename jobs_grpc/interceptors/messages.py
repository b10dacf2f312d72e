"""What comes in is decoded here, within its size."""

import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc.aio import ServerInterceptor

from jobs_grpc.errors import LimitExceeded, MalformedRequest
from jobs_grpc.interceptors.around import (
    Context,
    Continuation,
    Handler,
    MaybeHandler,
    behaviour_of,
    remake,
)

_request: ContextVar[Message] = ContextVar("request")


def find_request() -> Message | None:
    """The request, or a stream's latest, that is being served; None if none was decoded."""
    return _request.get(None)


class Messages(ServerInterceptor):
    """Decodes requests, also those of streams, and refuses what is too large or no message.

    Without this, gRPC itself decodes, and fails with UNKNOWN on malformed bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Make a handler that takes bytes."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        behaviour = behaviour_of(handler)
        taken = self._each if handler.request_streaming else self._one

        async def answer(raw: Any, context: Context) -> Any:
            return await behaviour(taken(handler, raw), context)

        async def stream(raw: Any, context: Context) -> AsyncIterator[Any]:
            async with aclosing(behaviour(taken(handler, raw), context)) as responses:
                async for response in responses:
                    yield response

        return remake(handler, stream if inspect.isasyncgenfunction(behaviour) else answer, None)

    def _one(self, handler: Handler, raw: bytes) -> Message:
        if len(raw) > self._max_bytes:
            raise LimitExceeded(
                f"The request has {len(raw)} bytes", "JOBS_MAX_REQUEST_BYTES", self._max_bytes
            )
        deserialize: Any = handler.request_deserializer
        try:
            message: Message = deserialize(raw)
        except DecodeError:
            raise MalformedRequest("The request is not a valid protobuf message") from None
        _request.set(message)
        return message

    async def _each(self, handler: Handler, raws: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for raw in raws:
            yield self._one(handler, raw)
