"""A histogram that costs little to observe."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts values by bucket. Only one thread may use it.

    `bounds` are the upper bounds of the buckets, in ascending order; a bucket includes its bound,
    and one more bucket has the values above all of them.
    """

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """The sum of all values."""

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[float, int]]:
        """For each bound, the number of values up to it; the last bound is infinite."""
        count = 0
        buckets = []
        for bound, values in zip((*self._bounds, float("inf")), self._counts, strict=True):
            count += values
            buckets.append((bound, count))
        return buckets
