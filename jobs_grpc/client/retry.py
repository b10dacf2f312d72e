"""Which failed calls are tried again, and when."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from jobs_grpc.client.errors import JobsError

MAX_ATTEMPTS = 5
"""The default of RetryPolicy, and the limit of gRPC for retries that it makes itself."""

BACKOFF_FACTOR = 2
"""By how much the delay grows with each retry."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when a failed call is tried again. All tries share the deadline of the call."""

    max_attempts: int = MAX_ATTEMPTS
    """Tries of a unary call, including the first. Streams reconnect without a limit."""
    first_delay: float = 0.2
    """Seconds before the first retry. The delay doubles up to `max_delay`."""
    max_delay: float = 5.0
    reconnect_within: float = 5.0
    """A stream that breaks reconnects after a random time of at most this many seconds, so that
    the clients of a server that restarts do not all return at once."""
    on_retry: Callable[[JobsError], None] | None = None
    """Called with each error after which a call is tried again or a stream reconnects."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")


def is_transient(error: JobsError) -> bool:
    """Return whether the same call can succeed later."""
    return error.retry_after is not None or error.code is grpc.StatusCode.UNAVAILABLE


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
        delay, self._delay = self._delay, min(self._delay * BACKOFF_FACTOR, self._policy.max_delay)
        if error.retry_after is not None:
            # Spread out, because all refused callers get the same delay.
            return error.retry_after + random.uniform(0, delay)  # noqa: S311 - not for security
        return delay * random.uniform(0.5, 1)  # noqa: S311 - not for security

    def before_reconnect(self, error: JobsError) -> float:
        """Return the delay after `error` has interrupted a stream that worked."""
        spread = random.uniform(0, self._policy.reconnect_within)  # noqa: S311 - not for security
        return (error.retry_after or 0) + spread
