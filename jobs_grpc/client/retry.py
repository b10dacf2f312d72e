"""Retries failed calls with backoff, except after permanent errors."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from jobs_grpc.client.errors import JobsError
from jobs_grpc.client.status_text import status_text

T = TypeVar("T")

# Seconds before the first retry, and the limit that the delay doubles up to.
_FIRST_DELAY = 0.2
_MAX_DELAY = 5.0

# The same call can succeed later. A server or proxy that resets the stream of a call ends it with
# CANCELLED.
_TRANSIENT_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})

# Methods that the contract calls safe to repeat, whatever their request.
REPEATABLE_METHODS = {
    "fleet.jobs.v1.JobService": (
        "GetJob",
        "ListJobs",
        "ListJobExecutions",
        "ListExecutionAttempts",
        "GetFailureSummary",
        "ApproveStage",
    ),
    "fleet.jobs.v1.DeviceJobService": (
        "ListPendingExecutions",
        "StartNextExecution",
        "StartExecution",
        "GetExecution",
    ),
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when a failed call is tried again. All tries share the deadline of the call."""

    max_attempts: int = 5
    """Tries of a unary call, including the first. Streams reconnect without a limit."""
    first_delay: float = 0.2
    """Seconds before the first retry. The delay doubles up to `max_delay`."""
    max_delay: float = 5.0
    reconnect_within: float = 5.0
    """A stream that breaks reconnects after a random time of at most this many seconds, so that
    the clients of a server that restarts do not all return at once."""


def is_transient(error: JobsError) -> bool:
    """Return whether the same call can succeed later."""
    return error.retry_after is not None or error.code in _TRANSIENT_CODES


def was_refused(error: JobsError) -> bool:
    """Return whether the server refused the call before it did anything, and names a delay."""
    return error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after is not None


class Delays:
    """The delays between the tries of one call, in seconds."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.reset()

    def reset(self) -> None:
        """Start again with the first delay, after a success."""
        self._delay = self._policy.first_delay

    def after(self, error: JobsError) -> float:
        """Return the delay after a failed try. It is at least what the server asks for."""
        delay, self._delay = self._delay, min(self._delay * 2, self._policy.max_delay)
        if error.retry_after is not None:
            # Spread out, because all refused callers get the same delay.
            return error.retry_after + random.uniform(0, delay)  # noqa: S311 - not for security
        return delay * random.uniform(0.5, 1)  # noqa: S311 - not for security

    def before_reconnect(self) -> float:
        """Return the delay after a stream that has worked was interrupted."""
        return random.uniform(0, self._policy.reconnect_within)  # noqa: S311 - not for security


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
