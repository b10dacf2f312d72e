"""Reads and decodes requests, within limits of size and time."""

import asyncio
from typing import Any, Self

from google.protobuf.message import DecodeError, Message
from grpc.aio import EOF

from jobs_grpc.contract.document_depth import MAX_DOCUMENT_LEVELS
from jobs_grpc.contract.methods import METHODS
from jobs_grpc.errors import Limit, LimitExceeded, MalformedRequest
from jobs_grpc.limits.fair_slots import FairSlots
from jobs_grpc.limits.memory_limit import Reservation, decoded_bytes, receive_bytes
from jobs_grpc.rpc.read_timeouts import ReadTimeouts, TooManyReads
from jobs_grpc.rpc.response_sizes import SINGLE_ITEM_BYTES

# When a client cancels a call, gRPC reports the end of its requests and then, within this time,
# cancels the handler.
_CANCEL_GRACE_SECONDS = 0.1

# Calls of public methods that can wait for their request at the same time. Few limits apply to
# them, so clients that never send their request must not use up memory. A client that sends its
# request at once is not affected.
_MAX_PUBLIC_READS = 16

# Ids, filters and page tokens of the longest permitted length fit.
_MAX_BYTES = 16 * 1024

# Requests of more bytes are decoded in turn. To decode and check 200 KB of empty lists takes 6 ms,
# and all calls of a tenant could do so in one iteration of the event loop.
_LARGE_BYTES = 16 * 1024

# The name of a service, or a reflection query.
_MAX_PUBLIC_BYTES = 4096


def fixed_max_request_bytes(method: str) -> int | None:
    """The maximum size of the requests of a method; None if JOBS_MAX_REQUEST_BYTES limits it."""
    if method not in METHODS:
        return _MAX_PUBLIC_BYTES
    return None if METHODS[method].large_request else _MAX_BYTES


class RequestReader:
    """Reads and decodes requests, including those of streams.

    Rejects requests that are larger than `max_bytes`, that do not arrive within `timeout_seconds`
    (except in streams), or that are malformed. For malformed ones, gRPC itself would fail with
    UNKNOWN.
    """

    def __init__(self, max_bytes: int, timeout_seconds: float) -> None:
        self._max_bytes = max_bytes
        self._receive_bytes = receive_bytes(max_bytes)
        self._timeout_seconds = timeout_seconds
        self._timeouts = ReadTimeouts(timeout_seconds)
        self._public_timeouts = ReadTimeouts(timeout_seconds, _MAX_PUBLIC_READS)
        self._decoding_slots = FairSlots(1)

    async def read(
        self,
        context: Any,
        handler: Any,
        reservation: Reservation,
        fixed_max_bytes: int | None,
        *,
        public: bool,
    ) -> Message:
        """Read the request of a call, of at most `fixed_max_bytes` if that is not None.

        Unless the method is public, reserves the bytes of the request, and of a response that is
        not a page. Raises MalformedRequest and LimitExceeded.
        """
        if not public:
            await reservation.resize(self._receive_bytes)
        timeouts = self._public_timeouts if public else self._timeouts
        try:
            raw_request = await timeouts.wait(context.read())
        except TooManyReads:
            raise MalformedRequest(
                "Too many health calls wait for their request; send the request at once"
            ) from None
        except TimeoutError:
            raise MalformedRequest(
                f"The request did not arrive within {self._timeout_seconds:g} s"
                " (JOBS_REQUEST_READ_TIMEOUT)"
            ) from None
        if raw_request is EOF:
            # A canceled call is logged as such, not as malformed.
            await asyncio.sleep(_CANCEL_GRACE_SECONDS)
            raise MalformedRequest("The call has no request; send one message")
        self.check_size(raw_request, fixed_max_bytes)
        if not public:
            response_size = 0 if handler.response_streaming else SINGLE_ITEM_BYTES
            await reservation.resize(decoded_bytes(len(raw_request)) + response_size)
        return await self.decode(handler, raw_request)

    async def decode(self, handler: Any, raw_request: bytes) -> Message:
        """Decode a request; a large one in its tenant's turn. Raises MalformedRequest."""
        if len(raw_request) > _LARGE_BYTES:
            await self._decoding_slots.yield_for_caller()
        try:
            message: Message = handler.request_deserializer(raw_request)
        except DecodeError:
            raise MalformedRequest(
                "The request is not a valid protobuf message, or a document in it is nested deeper"
                f" than {MAX_DOCUMENT_LEVELS} levels"
            ) from None
        return message

    def check_size(self, raw_request: bytes, fixed_max_bytes: int | None) -> None:
        """Raise MalformedRequest or LimitExceeded if a request is too large."""
        if fixed_max_bytes is not None and len(raw_request) > fixed_max_bytes:
            raise MalformedRequest(
                f"The request has {len(raw_request)} bytes; requests of this method have at most"
                f" {fixed_max_bytes}"
            )
        if len(raw_request) > self._max_bytes:
            raise LimitExceeded(Limit.REQUEST_SIZE, self._max_bytes, size=len(raw_request))


class StreamRequests:
    """The requests of a stream; each is reserved until the next one is asked for.

    Holds neither a request nor its raw bytes between two reads. To iterate raises MalformedRequest
    and LimitExceeded.
    """

    def __init__(
        self,
        reader: RequestReader,
        context: Any,
        handler: Any,
        reservation: Reservation,
        fixed_max_bytes: int | None,
        *,
        public: bool,
    ) -> None:
        self._reader = reader
        self._context = context
        self._handler = handler
        self._reservation = reservation
        self._fixed_max_bytes = fixed_max_bytes
        self._public = public

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        self._reservation.release()
        raw_request = await self._context.read()
        if raw_request is EOF:
            raise StopAsyncIteration
        self._reader.check_size(raw_request, self._fixed_max_bytes)
        if not self._public:
            await self._reservation.add(decoded_bytes(len(raw_request)), None)
        return await self._reader.decode(self._handler, raw_request)
