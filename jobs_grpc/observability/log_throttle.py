"""Limits how often a repeated log line is written."""

import asyncio
import contextvars
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SECONDS = 1.0

# Maximum number of kinds that are counted. Further kinds are counted as coarser ones, of which
# there may be as many again, and so on.
_MAX_KINDS = 1000


class LogThrottle(Generic[K]):
    """Limits the log to some lines of a kind per second. Further occurrences are counted.

    `log_others(kind, others)` logs a line with their number, at least 1, when the second ends. That
    line is one of the `lines_per_second` of the next second; so with 1, which is the default, a
    flood has its first line, and then one line per second with a count. It is called in an empty
    context, because it belongs to no request.

    If too many kinds are counted, a new one is counted as `coarser(kind)`. The coarsest kinds,
    which are those that `coarser` returns unchanged, are always counted: there must be few.
    """

    def __init__(
        self,
        log_others: Callable[[K, int], None],
        coarser: Callable[[K], K] = lambda kind: kind,
        *,
        lines_per_second: int = 1,
    ) -> None:
        self._log_others = log_others
        self._coarser = coarser
        self._lines = lines_per_second
        # The number of occurrences of each kind in its current second. A kind without an occurrence
        # that is only counted is dropped after one second.
        self._counts: dict[K, int] = {}

    def __len__(self) -> int:
        """Return the number of kinds that are counted now."""
        return len(self._counts)

    def is_full(self, kind: K) -> bool:
        """Return whether an occurrence would only be counted now."""
        return self._counts.get(self._counted_as(kind), 0) >= self._lines

    def should_log(self, kind: K) -> bool:
        """Return whether to log an occurrence now; if not, count it."""
        kind = self._counted_as(kind)
        count = self._counts.get(kind, 0)
        if not count:
            self._start_second(kind)
        self._counts[kind] = count + 1
        return count < self._lines

    def flush(self) -> None:
        """Log the numbers of occurrences that are counted and not logged yet."""
        counts = self._counts.copy()
        self._counts.clear()
        for kind, count in counts.items():
            if count > self._lines:
                self._log_others(kind, count - self._lines)

    def _counted_as(self, kind: K) -> K:
        room = _MAX_KINDS
        while kind not in self._counts and len(self._counts) >= room:
            coarser = self._coarser(kind)
            if coarser == kind:
                break
            kind = coarser
            room += _MAX_KINDS
        return kind

    def _start_second(self, kind: K) -> None:
        asyncio.get_running_loop().call_later(
            _SECONDS, self._end_second, kind, context=contextvars.Context()
        )

    def _end_second(self, kind: K) -> None:
        others = self._counts.pop(kind, 0) - self._lines
        if others > 0:
            self._counts[kind] = 1
            self._start_second(kind)
            self._log_others(kind, others)
