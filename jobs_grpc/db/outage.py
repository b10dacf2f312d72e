"""Outages of the database, as this process sees them."""

import contextvars
import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
"""Returns seconds, like time.monotonic."""

# An outage ends when the database responds and no statement has failed for this long. The health
# check runs once a second.
_QUIET_SECONDS = 0.9


class Outage:
    """Whether the database is unavailable. Logs one line when that begins and one when it ends.

    Statements that fail and the health check report what they find.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._last_failure = 0.0
        self._failures = 0
        self._server: str | None = None
        self._new_server_listeners: list[Callable[[], None]] = []
        self.count = 0
        """How many outages have begun since the start of the process."""

    @property
    def active(self) -> bool:
        """Whether there is an outage now."""
        return self._began is not None

    def note_failure(self, cause: BaseException | str) -> None:
        """Note that the database did not respond, or lost a connection."""
        self._last_failure = self._clock()
        self._failures += 1
        if self._began is None:
            self._begin(cause)

    def note_response(self, asked_at: float) -> None:
        """Note that the database has responded to a check that began at `asked_at`.

        A check that began before the last failure, or right after it, ends no outage.
        """
        if self._began is not None and asked_at >= self._last_failure + _QUIET_SECONDS:
            self._end(self._began)

    def on_new_server(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the database is on another server, or was restarted."""
        self._new_server_listeners.append(listener)

    def note_server(self, server: str) -> None:
        """Note which server a new connection of the health check leads to."""
        previous, self._server = self._server, server
        if previous not in (None, server):
            for listener in self._new_server_listeners:
                listener()

    def _begin(self, cause: BaseException | str) -> None:
        self._began = self._last_failure
        self.count += 1
        text = cause if isinstance(cause, str) else describe(cause)
        _log(
            logging.WARNING,
            "the database is unavailable; calls fail with UNAVAILABLE until it responds: %s",
            text,
        )

    def _end(self, began: float) -> None:
        self._began = None
        seconds = self._clock() - began
        _log(
            logging.INFO,
            "the database responds again after %.1f s; failed statements and checks: %d",
            seconds,
            self._failures,
        )
        self._failures = 0


def describe(error: BaseException) -> str:
    """The type and the message of an error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _log(level: int, message: str, *args: object) -> None:
    # In an empty context: an outage does not belong to the call that notices it.
    contextvars.Context().run(logger.log, level, message, *args)
