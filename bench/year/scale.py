"""The size of a run, and the times at which it stops the clock."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.model.windows import START

YEAR = START.year
STEP_HOURS = 3
STEPS_PER_DAY = 24 // STEP_HOURS

# A step is never at the moment at which a window opens or closes.
_MINUTE = 7


@dataclass(frozen=True)
class Scale:
    """How many tenants and devices there are, and which days pass."""

    tenants: int
    devices: int
    """Devices per tenant."""
    cohorts: int = 100
    """Number of cohorts into which the devices are divided. A daily job is for one of them."""
    months: tuple[int, ...] = tuple(range(1, 13))
    """Months that pass. The time jumps over the others."""
    last_day: int = 31
    """The last day of a month that passes."""

    @property
    def tenant_ids(self) -> list[str]:
        """The IDs of the tenants."""
        return [f"t{number:02}" for number in range(self.tenants)]

    def steps(self) -> Iterator["Step"]:
        """Yield the steps, in order."""
        at = datetime(YEAR, 1, 1, 0, _MINUTE, tzinfo=UTC)
        while at.year == YEAR:
            if at.month in self.months and at.day <= self.last_day:
                yield Step(at)
            at += timedelta(hours=STEP_HOURS)


FULL = Scale(tenants=50, devices=4000)
QUICK = Scale(tenants=2, devices=240, cohorts=10, months=(3,), last_day=8)


@dataclass(frozen=True)
class Step:
    """A moment at which operators and devices act."""

    at: datetime

    @property
    def number(self) -> int:
        """The number of the step in its day, from 0."""
        return self.at.hour // STEP_HOURS

    @property
    def day(self) -> int:
        """The number of the day in the year, from 0."""
        return self.at.timetuple().tm_yday - 1
