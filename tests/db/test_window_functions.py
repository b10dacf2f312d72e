"""The SQL functions of start windows, compared with an evaluation by zoneinfo in all time zones."""

import asyncio
import random
import zoneinfo
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.model.windows import Window, Zone
from tests.support.database import Database
from tests.support.scale import SCALE

# UTC times without a zone, as in the model.
_FIRST = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
_LAST = _FIRST + timedelta(days=366 * min(SCALE, 12))
_MARGIN = timedelta(days=5)
_CASES = 10_000 if SCALE == 1 else 1_000_000
_MICROSECOND = timedelta(microseconds=1)

_SQL = """
    SELECT jobs.is_window_open(c.windows::integer[], c.zone, c.at),
           CASE WHEN c.n % 10 = 0
                THEN jobs.next_openings(c.windows::integer[], c.zone, c.at, 3) END,
           jobs.is_window_open(c.windows::integer[], c.zone, c.at, c.n % 60),
           jobs.is_window_open(
               c.windows::integer[], c.zone, c.at - make_interval(secs => c.n % 60)
           )
    FROM unnest($1::text[], $2::text[], $3::timestamptz[]) WITH ORDINALITY
        AS c (windows, zone, at, n)
    ORDER BY c.n
"""


class Case(NamedTuple):
    zone: str
    windows: list[Window]
    at: datetime

    @property
    def numbers(self) -> str:
        """The windows as an array of PostgreSQL."""
        return "{" + ",".join(f"{w.days},{w.minute},{w.minutes}" for w in self.windows) + "}"


@pytest.fixture
async def zones(database: Database) -> AsyncIterator[dict[str, Zone]]:
    """All zones with a slash, in the time zone database of PostgreSQL."""
    folder = await database.owner.fetchval(
        "SELECT setting || '/timezone' FROM pg_config WHERE name = 'SHAREDIR'"
    )
    known = {
        row["name"]
        for row in await database.owner.fetch(
            "SELECT name FROM pg_timezone_names WHERE name LIKE '%/%'"
        )
    }
    names = sorted(known & zoneinfo.available_timezones())
    # A PostgreSQL without files of its own uses those of the system.
    if await asyncio.to_thread(Path(folder).is_dir):
        zoneinfo.reset_tzpath([folder])
        zoneinfo.ZoneInfo.clear_cache()
    try:
        yield {
            name: Zone(zoneinfo.ZoneInfo(name), _FIRST - _MARGIN, _LAST + _MARGIN) for name in names
        }
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()


def _random_window(choose: random.Random) -> Window:
    return Window(
        days=choose.choice([127, choose.randint(1, 127)]),
        # Clocks change in the first hours of the day.
        minute=choose.choice([choose.randrange(1440), choose.randrange(0, 240, 15)]),
        minutes=choose.choice([15, 60, 240, 1440, choose.randint(15, 1440)]),
    )


def _random_windows(choose: random.Random) -> list[Window]:
    return [_random_window(choose) for _ in range(choose.choice([1, 1, 2, 3]))]


def _random_case(choose: random.Random, zones: dict[str, Zone]) -> Case:
    name = choose.choice([*zones])
    at = _FIRST + (_LAST - _FIRST) * choose.random()
    return Case(name, _random_windows(choose), at)


def _random_case_near_change(choose: random.Random, changing: dict[str, Zone]) -> Case:
    name = choose.choice([*changing])
    zone = changing[name]
    windows = _random_windows(choose)
    change = choose.choice(zone.changes[1:])
    at = change + timedelta(seconds=choose.uniform(-1, 1) * choose.choice([2, 50]) * 3600)
    if choose.random() < 0.5:
        # The first and the last moments of a window.
        window = choose.choice(windows)
        day = zone.local(at).replace(hour=0, minute=0, second=0, microsecond=0)
        at = zone.opening(day + timedelta(minutes=window.minute)) + choose.choice(
            [timedelta(0), -_MICROSECOND, window.duration, window.duration - _MICROSECOND]
        )
    return Case(name, windows, at)


def _batches(choose: random.Random, zones: dict[str, Zone]) -> Iterator[list[Case]]:
    """Yield _CASES cases, half of them near a change of the clock."""
    changing = {name: zone for name, zone in zones.items() if len(zone.changes) > 1}
    for _ in range(0, _CASES, 10_000):
        yield [
            case
            for _ in range(5_000)
            for case in (_random_case(choose, zones), _random_case_near_change(choose, changing))
        ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_windows_are_open_when_zoneinfo_says_so(
    database: Database, zones: dict[str, Zone]
) -> None:
    assert len(zones) > 400
    compared = 0
    choose = random.Random(random.randrange(2**32))  # noqa: S311 - repeatable on purpose
    for cases in _batches(choose, zones):
        rows = await database.owner.fetch(
            _SQL,
            [case.numbers for case in cases],
            [case.zone for case in cases],
            [case.at.replace(tzinfo=UTC) for case in cases],
        )
        for case, row in zip(cases, rows, strict=True):
            is_open, openings, is_open_with_delay, was_open = row
            zone = zones[case.zone]
            assert is_open == zone.is_open(case.windows, case.at), case
            assert is_open_with_delay == (is_open and was_open), case
            if openings is not None:
                expected = zone.next_openings(case.windows, case.at, 3)
                assert [o.replace(tzinfo=None) for o in openings] == expected, case
        compared += len(cases)
    assert compared == _CASES


async def test_unknown_zone_counts_as_utc(database: Database) -> None:
    row = await database.owner.fetchrow(
        "SELECT jobs.is_window_open('{127,600,60}', z, '2027-03-01 10:30Z'),"
        " jobs.is_window_open('{127,600,60}', z, '2027-03-01 11:00Z'),"
        " jobs.next_openings('{127,600,60}', z, '2027-03-01 10:30Z', 1)"
        " FROM (VALUES ('Europe/Atlantis')) AS v (z)"
    )

    assert row is not None
    assert tuple(row) == (True, False, [datetime(2027, 3, 2, 10, tzinfo=UTC)])


async def test_delays_of_devices_are_spread_over_a_minute(database: Database) -> None:
    rows = await database.owner.fetch(
        "SELECT width_bucket(jobs.opening_delay('device-' || n), 0, 60, 6), count(*)"
        " FROM generate_series(1, 6000) AS n GROUP BY 1 ORDER BY 1"
    )

    assert [bucket for bucket, _ in rows] == [1, 2, 3, 4, 5, 6]
    assert all(800 < count < 1200 for _, count in rows)
