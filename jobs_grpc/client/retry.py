"""Retries failed calls with backoff, except after permanent errors."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from jobs_grpc.client.status_text import status_text

T = TypeVar("T")

# Seconds before the first retry, and the limit that the delay doubles up to.
_FIRST_DELAY = 0.2
_MAX_DELAY = 5.0

# The server is unreachable, overloaded or too slow. A server or proxy that resets
# the stream of a call ends it with CANCELLED. RESOURCE_EXHAUSTED is also the code of any limit.
UNAVAILABLE_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)

# A retry of the same call would fail again.
PERMANENT_CODES = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class CallError(Exception):
    """A call, or one report of a stream, failed with a status."""

    def __init__(self, code: grpc.StatusCode, details: str | None) -> None:
        super().__init__(status_text(code, details))
        self.code = code


class Backoff:
    """The delay before the next try. It doubles after each one, up to 5 s."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again with the first delay."""
        self._delay = _FIRST_DELAY

    async def wait(self) -> None:
        """Sleep for the delay, shortened at random so that clients do not retry in step."""
        delay, self._delay = self._delay, min(self._delay * 2, _MAX_DELAY)
        await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - not for security


def require_retryable(
    error: grpc.aio.AioRpcError | CallError,
    permanent: frozenset[grpc.StatusCode] = PERMANENT_CODES,
) -> CallError:
    """Return the error as a CallError; raises it instead if its code is in `permanent`."""
    if isinstance(error, grpc.aio.AioRpcError):
        error = CallError(error.code(), error.details())
    if error.code in permanent:
        raise error
    return error


async def call_with_retries(
    send: Callable[[], Awaitable[T]],
    on_error: Callable[[CallError], None],
    permanent: frozenset[grpc.StatusCode] = PERMANENT_CODES,
) -> T:
    """Call `send` until it succeeds, and return its result.

    Calls `on_error` with each error that is retried. Raises CallError if the code is in
    `permanent`.
    """
    backoff = Backoff()
    while True:
        try:
            return await send()
        except (grpc.aio.AioRpcError, CallError) as e:
            on_error(require_retryable(e, permanent))
        await backoff.wait()
