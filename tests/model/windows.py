"""Evaluates start windows with zoneinfo, independently of the SQL.

Between two clock changes of a zone, local time is elapsed time. So a window opens in the first of
these spans in which the clock shows its start time or a later one.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

from tests.model.execution import Seconds

START = datetime(2030, 1, 1)  # noqa: DTZ001 - UTC, as everywhere here
"""The time 0 of the model."""

_STEP = timedelta(days=1)


@dataclass(frozen=True)
class Window:
    """A window as in jobs.jobs.start_windows."""

    days: int
    """The sum of 1 for Monday, 2 for Tuesday … 64 for Sunday."""
    minute: int
    minutes: int

    @property
    def duration(self) -> timedelta:
        return timedelta(minutes=self.minutes)

    def starts(self, first: datetime, last: datetime) -> Iterator[datetime]:
        """Yield the local start times of the days from `first` to `last`."""
        day = first.replace(hour=0, minute=0, second=0, microsecond=0)
        while day <= last:
            if self.days >> day.weekday() & 1:
                yield day + timedelta(minutes=self.minute)
            day += timedelta(days=1)


class Zone:
    """A time zone in a range of UTC times, which are naive datetimes here."""

    def __init__(self, zone: ZoneInfo, first: datetime, last: datetime) -> None:
        self._zone = zone
        self.changes = [first]
        """The start of the range, and the times at which the clock was changed after it."""
        self._offsets = [self._offset(first)]
        at = first
        while at < last:
            offset = self._offset(at + _STEP)
            if offset != self._offsets[-1]:
                self._add_change(at)
            at += _STEP

    def local(self, at: datetime) -> datetime:
        return at + self._offsets[bisect_right(self.changes, at) - 1]

    def opening(self, start: datetime) -> datetime:
        """Return when the clock first shows the local time `start` or a later one."""
        # The clock is at most 26 hours before or after UTC, also while it changes.
        span = max(bisect_right(self.changes, start - timedelta(hours=50)) - 1, 0)
        while True:
            opening = max(start - self._offsets[span], self.changes[span])
            if span + 1 == len(self.changes) or opening < self.changes[span + 1]:
                return opening
            span += 1

    def is_open(self, windows: Sequence[Window], at: datetime) -> bool:
        local = self.local(at)
        return any(
            self.opening(start) <= at < self.opening(start) + window.duration
            for window in windows
            for start in window.starts(local - timedelta(days=3), local + timedelta(days=2))
        )

    def next_openings(
        self, windows: Sequence[Window], after: datetime, count: int
    ) -> list[datetime]:
        """Return the next openings, the earliest first."""
        local = self.local(after)
        days = timedelta(days=7 * count + 3)
        openings = {
            self.opening(start)
            for window in windows
            for start in window.starts(local - timedelta(days=3), local + days)
        }
        return sorted(opening for opening in openings if opening > after)[:count]

    def _offset(self, at: datetime) -> timedelta:
        offset = at.replace(tzinfo=UTC).astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset

    def _add_change(self, before: datetime) -> None:
        """Find the clock change within _STEP after `before`."""
        after = before + _STEP
        offset = self._offset(after)
        while after - before > timedelta(seconds=1):
            middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
            if self._offset(middle) == offset:
                after = middle
            else:
                before = middle
        self.changes.append(after)
        self._offsets.append(offset)


@lru_cache(maxsize=10_000)
def next_due(windows: tuple[Window, ...], zone_name: str, at: Seconds) -> Seconds:
    """Return the first time from `at` on at which one of the windows is open; none: always."""
    time = START + timedelta(microseconds=int(at * 10**6))
    if not windows or zone(zone_name).is_open(windows, time):
        return at
    opening = zone(zone_name).next_openings(windows, time, 1)[0]
    return Fraction((opening - START) // timedelta(microseconds=1), 10**6)


@cache
def zone(name: str) -> Zone:
    """Return a time zone in the times of the model."""
    return Zone(ZoneInfo(name), START - timedelta(days=5), START + timedelta(days=400))
