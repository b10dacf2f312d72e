"""Limits how often a repeated log line is written."""

import asyncio
import contextvars
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SECONDS = 1.0

# Maximum number of kinds that are counted. Further kinds are not throttled.
_MAX_KINDS = 1000


class LogThrottle(Generic[K]):
    """Limits the log to the first line of a kind, and then one line per second with a count.

    `log_others(kind, others)` logs that line: `others` is the number of occurrences since the
    previous line, at least 1. It is called in an empty context, because the line belongs to no
    request.
    """

    def __init__(self, log_others: Callable[[K, int], None]) -> None:
        self._log_others = log_others
        # For each kind, the number of occurrences that are not logged yet. A kind without further
        # ones is dropped after one second.
        self._others: dict[K, int] = {}

    def __len__(self) -> int:
        """Return the number of kinds that are counted now."""
        return len(self._others)

    def should_log(self, kind: K) -> bool:
        """Return whether to log an occurrence now; if not, count it."""
        others = self._others.get(kind)
        if others is not None:
            self._others[kind] = others + 1
            return False
        if len(self._others) < _MAX_KINDS:
            self._start_second(kind)
        return True

    def flush(self) -> None:
        """Log the numbers of occurrences that are counted and not logged yet."""
        counted = {kind: others for kind, others in self._others.items() if others}
        self._others.clear()
        for kind, others in counted.items():
            self._log_others(kind, others)

    def _start_second(self, kind: K) -> None:
        self._others[kind] = 0
        asyncio.get_running_loop().call_later(
            _SECONDS, self._end_second, kind, context=contextvars.Context()
        )

    def _end_second(self, kind: K) -> None:
        others = self._others.pop(kind, 0)
        if others:
            self._log_others(kind, others)
            self._start_second(kind)
