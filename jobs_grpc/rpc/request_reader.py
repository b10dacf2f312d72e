"""Reads and decodes requests, within limits of size and time."""

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
    behavior_of,
    replace_behavior,
)

# When a client cancels a call, gRPC reports the end of its requests and then, within this time,
# cancels the handler.
_CANCEL_GRACE_SECONDS = 0.1

# Calls of public methods that can wait for their request at the same time.
_MAX_PUBLIC_READS = 16

_request: ContextVar[Message] = ContextVar("request")


def find_request() -> Message | None:
    """The decoded request of the current call, of a stream the latest; None before decoding."""
    return _request.get(None)


class BoundedReads:
    """Timeouts for at most `max_reads` concurrent reads; one more ends the oldest read.

    No limit counts the calls of public methods, so clients that never send their request must
    not use up memory. A client that sends its request at once is not affected by them.
    """

    def __init__(self, max_reads: int) -> None:
        self._max_reads = max_reads
        # Oldest first.
        self._reads: dict[asyncio.Timeout, None] = {}

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Raise TimeoutError after `seconds`, or when the block is the oldest of too many."""
        if len(self._reads) == self._max_reads:
            oldest = next(iter(self._reads))
            del self._reads[oldest]
            if not oldest.expired():
                oldest.reschedule(asyncio.get_running_loop().time())
        async with asyncio.timeout(seconds) as read:
            self._reads[read] = None
            try:
                yield
            finally:
                self._reads.pop(read, None)


class RequestReader(Interceptor):
    """Reads and decodes requests, including those of streams.

    Rejects requests that are larger than `max_bytes`, that do not arrive within `timeout_seconds`
    (except in streams), or that are malformed. gRPC itself would fail with UNKNOWN for those.
    """

    def __init__(self, max_bytes: int, timeout_seconds: float) -> None:
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._public_reads = BoundedReads(_MAX_PUBLIC_READS)

    def wrap_handler(self, method: str, handler: Handler) -> Handler:
        """Make a handler that receives bytes and passes messages on."""
        behavior = behavior_of(handler)
        timeout = self._public_reads.timeout if policy.is_public(method) else asyncio.timeout

        async def read(raw_requests: Any, context: Context) -> Any:
            """The argument for `behavior`: a message, or an iterator of messages."""
            if handler.request_streaming:
                return self._decode_each(handler, raw_requests)
            try:
                async with timeout(self._timeout_seconds):
                    raw_request = await context.read()
                    if raw_request is EOF:
                        # A canceled call is logged as such, not as malformed.
                        await asyncio.sleep(_CANCEL_GRACE_SECONDS)
                        raise MalformedRequest("The call has no request; send one message")
                    return self._decode(handler, raw_request)
            except TimeoutError:
                raise MalformedRequest(
                    f"The request did not arrive within {self._timeout_seconds:g} s"
                    " (JOBS_REQUEST_READ_TIMEOUT)"
                ) from None

        async def respond(raw_requests: Any, context: Context) -> Any:
            return await behavior(await read(raw_requests, context), context)

        async def stream(raw_requests: Any, context: Context) -> AsyncIterator[Any]:
            request = await read(raw_requests, context)
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    yield response

        return replace_behavior(handler, respond, stream, raw_requests=True)

    async def _decode_each(
        self, handler: Handler, raw_requests: AsyncIterator[bytes]
    ) -> AsyncIterator[Message]:
        async for raw_request in raw_requests:
            yield self._decode(handler, raw_request)

    def _decode(self, handler: Handler, raw_request: bytes) -> Message:
        if len(raw_request) > self._max_bytes:
            raise LimitExceeded(
                f"The request has {len(raw_request)} bytes",
                "JOBS_MAX_REQUEST_BYTES",
                self._max_bytes,
            )
        deserialize: Any = handler.request_deserializer
        try:
            message: Message = deserialize(raw_request)
        except DecodeError:
            raise MalformedRequest("The request is not a valid protobuf message") from None
        _request.set(message)
        return message
