"""How a simulated fleet takes failures: what is tried again, what is not, and the tally."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from jobs_grpc.client.status_text import call_text

T = TypeVar("T")

# Seconds between attempts; spread, so that a fleet does not come back all at once.
_FIRST_DELAY = 0.2
_MAX_DELAY = 5.0

_AWAY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)
_GONE = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
    }
)
_FATAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


@dataclass(slots=True)
class Totals:
    """What a fleet has done so far."""

    started: int = 0
    succeeded: int = 0
    failed: int = 0
    rejected: int = 0
    silent: int = 0
    gone: int = 0
    """Ended by others while the device was at work: canceled, timed out, deleted."""
    errors: int = 0
    """Calls that failed otherwise than by the server being away."""

    at_work: int = 0
    asked: bool = False
    """Whether the server was called."""
    answered: bool = False
    """Whether it has ever answered."""
    away: str = ""
    """Why the server can't be reached at the moment."""
    last_error: str = ""


class CallFailed(Exception):
    """A call, or one report of a stream, has failed."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(call_text(code, message))
        self.code = code


class Gone(Exception):
    """The execution is no longer the device's to carry out."""


class Backoff:
    """The wait before the next attempt: longer each time, until one succeeds."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """An attempt has succeeded."""
        self._delay = _FIRST_DELAY

    async def wait(self) -> None:
        """Before the next attempt."""
        delay, self._delay = self._delay, min(self._delay * 2, _MAX_DELAY)
        await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - only spreads


class Persistence:
    """Tries calls until they succeed, and keeps the tally of what failed."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    async def call(self, attempt: Callable[[], Awaitable[T]], *, or_gone: bool = False) -> T:
        """The result of the first attempt that succeeds.

        Raises CallFailed when no later attempt would fare better; Gone, if `or_gone`, when
        the execution is not the device's.
        """
        backoff = Backoff()
        self.asks()
        while True:
            try:
                result = await attempt()
            except (grpc.aio.AioRpcError, CallFailed) as e:
                code = e.code() if isinstance(e, grpc.aio.AioRpcError) else e.code
                if or_gone and code in _GONE:
                    raise Gone from e
                self.failed(e)
                await backoff.wait()
            else:
                self.succeeded()
                return result

    def asks(self) -> None:
        """The server is called."""
        self._totals.asked = True

    def succeeded(self) -> None:
        """The server has answered."""
        self._totals.answered = True
        self._totals.away = ""

    def failed(self, error: grpc.aio.AioRpcError | CallFailed) -> None:
        """Take note of a failure; raises CallFailed if no later call would fare better."""
        if isinstance(error, grpc.aio.AioRpcError):
            error = CallFailed(error.code(), error.details() or "")
        if error.code in _FATAL:
            raise error
        if error.code in _AWAY:
            self._totals.away = str(error)
        else:
            self._totals.answered = True
            self._totals.errors += 1
            self._totals.last_error = str(error)
