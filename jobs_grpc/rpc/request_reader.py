"""What comes in is read and decoded here, within its size and time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any

from google.protobuf.message import DecodeError, Message
from grpc.aio import EOF

from jobs_grpc.auth import policy
from jobs_grpc.errors import LimitExceeded, MalformedRequest
from jobs_grpc.rpc.interceptor import (
    Context,
    Handler,
    Interceptor,
    behaviour_of,
    like,
    remake,
)

# Seconds within which gRPC cancels a call that the client has canceled.
_MOMENT = 0.1

# Calls of anybody that keep the server waiting for their message.
_MAX_WAITS = 16

_request: ContextVar[Message] = ContextVar("request")


def find_request() -> Message | None:
    """The request, or a stream's latest, that is being served; None if none was decoded."""
    return _request.get(None)


class Waits:
    """Waits for messages: at most `size` at once, as one more ends the longest of them.

    For calls of anybody, which are not counted. Who sends a request at once waits for next
    to nothing, whoever else keeps the server waiting.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._open: dict[asyncio.Timeout, None] = {}

    @asynccontextmanager
    async def acquire(self, limit: float) -> AsyncIterator[None]:
        """TimeoutError after `limit` seconds, or when it is the longest of too many."""
        if len(self._open) == self._size:
            longest = next(iter(self._open))
            del self._open[longest]
            if not longest.expired():
                longest.reschedule(asyncio.get_running_loop().time())
        async with asyncio.timeout(limit) as wait:
            self._open[wait] = None
            try:
                yield
            finally:
                self._open.pop(wait, None)


class RequestReader(Interceptor):
    """Reads and decodes requests, also those of streams; refuses what is too large or no message.

    Without this, gRPC itself decodes, and fails with UNKNOWN on malformed bytes.
    """

    def __init__(self, max_bytes: int, timeout: float) -> None:
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._waits = Waits(_MAX_WAITS)

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Make a handler that takes bytes."""
        behaviour = behaviour_of(handler)
        anybody = policy.is_public(method)
        within = self._waits.acquire if anybody else asyncio.timeout

        async def request(raws: Any, context: Context) -> Any:
            if handler.request_streaming:
                return self._each(handler, raws)
            try:
                async with within(self._timeout):
                    raw = await context.read()
                    if raw is EOF:
                        # That is also how a call ends that is canceled, as gRPC then says.
                        await asyncio.sleep(_MOMENT)
                        raise MalformedRequest("The call has no request")
                    return self._decoded(handler, raw)
            except TimeoutError:
                raise MalformedRequest(
                    f"The request has not come within {self._timeout:g} s"
                    " (JOBS_REQUEST_READ_TIMEOUT)"
                ) from None

        async def answer(raws: Any, context: Context) -> Any:
            return await behaviour(await request(raws, context), context)

        async def stream(raws: Any, context: Context) -> AsyncIterator[Any]:
            async with aclosing(behaviour(await request(raws, context), context)) as responses:
                async for response in responses:
                    yield response

        return remake(handler, like(behaviour, answer, stream), None)

    async def _each(self, handler: Handler, raws: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for raw in raws:
            yield self._decoded(handler, raw)

    def _decoded(self, handler: Handler, raw: bytes) -> Message:
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
