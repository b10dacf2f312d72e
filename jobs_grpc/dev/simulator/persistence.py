"""Repeats the calls of simulated devices, which never give up, except after permanent errors."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from jobs_grpc.client import JobsError
from jobs_grpc.client.retry import Delays, RetryPolicy

T = TypeVar("T")

# The server is unreachable or too slow.
UNAVAILABLE_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

# A retry of the same call would fail again.
PERMANENT_CODES = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


def is_permanent(error: JobsError) -> bool:
    """Return whether the same call would fail again."""
    return error.code in PERMANENT_CODES


async def call_with_retries(
    send: Callable[[], Awaitable[T]],
    on_error: Callable[[JobsError], None],
    permanent: frozenset[grpc.StatusCode] = PERMANENT_CODES,
) -> T:
    """Call `send` until it succeeds, and return its result.

    Calls `on_error` with each error that is retried. Raises JobsError if the code is in
    `permanent`.
    """
    delays = Delays(RetryPolicy())
    while True:
        try:
            return await send()
        except JobsError as e:
            if e.code in permanent:
                raise
            on_error(e)
            delay = delays.after(e)
        await asyncio.sleep(delay)
