"""The times of options."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from jobs_grpc.cli.times import parse_time

NOW = datetime(2026, 11, 28, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("now", NOW),
        ("+2h", NOW + timedelta(hours=2)),
        ("+1.5d", NOW + timedelta(days=1.5)),
        ("2026-12-01T01:00:00Z", datetime(2026, 12, 1, 1, tzinfo=UTC)),
        ("2026-12-01T02:00:00+01:00", datetime(2026, 12, 1, 1, tzinfo=UTC)),
        ("2026-12-01 02:00 Europe/Berlin", datetime(2026, 12, 1, 1, tzinfo=UTC)),
        ("2026-12-01 02:00:30  Europe/Berlin", datetime(2026, 12, 1, 1, 0, 30, tzinfo=UTC)),
        ("2026-12-01 02:00 UTC", datetime(2026, 12, 1, 2, tzinfo=UTC)),
        # It is the 29th in Berlin.
        ("today 02:00 Europe/Berlin", datetime(2026, 11, 29, 1, tzinfo=UTC)),
        ("tomorrow 02:00 Europe/Berlin", datetime(2026, 11, 30, 1, tzinfo=UTC)),
        ("tomorrow 02:00 America/Denver", datetime(2026, 11, 29, 9, tzinfo=UTC)),
        # The clock shows it twice.
        ("2026-10-25 02:30 Europe/Berlin", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
    ],
)
def test_time_is_read(text: str, time: datetime) -> None:
    assert parse_time(text, NOW) == time


def test_time_without_a_zone_is_local() -> None:
    local = datetime(2026, 12, 1, 2).astimezone()

    assert parse_time("2026-12-01 02:00") == parse_time("2026-12-01T02:00:00") == local


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be a time such as"),
        ("tomorrow", "must be a time such as"),
        ("tomorrow 25:00", "must be a time such as"),
        ("2026-02-30 02:00 Europe/Berlin", "must be a time such as"),
        ("+2w", "must be a time such as"),
        ("2026-12-01 02:00 Europe/Nowhere", "Europe/Nowhere is not a time zone"),
        ("2026-12-01 02:00 ../etc/passwd", "../etc/passwd is not a time zone"),
        (
            "2026-03-29 02:30:30 Europe/Berlin",
            "2026-03-29 02:30:30 does not exist in Europe/Berlin: the clock skips it; the next"
            " valid time is 2026-03-29 03:00$",
        ),
    ],
)
def test_error_says_what_is_wrong_with_a_time(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}") as raised:
        parse_time(text, NOW)

    assert "\n" not in str(raised.value)


def test_times_around_a_clock_change_are_those_of_the_zone() -> None:
    zone = ZoneInfo("Europe/Berlin")

    for hour in (1, 3, 4):
        local = datetime(2026, 3, 29, hour, 30, tzinfo=zone)
        assert parse_time(f"2026-03-29 {hour:02}:30 Europe/Berlin") == local
