"""Times for people."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli.formatting import format_age, format_duration, format_moment


def _in(delta: timedelta) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(datetime.now(UTC) + delta)
    return time


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        (timedelta(), "now"),
        (timedelta(seconds=-90), "90s ago"),
        (timedelta(minutes=-3), "3m ago"),
        (timedelta(hours=24), "in 24h"),
        (timedelta(days=-3), "3d ago"),
        (timedelta(days=-1200), "1,200d ago"),
    ],
    ids=str,
)
def test_age_has_one_unit(delta: timedelta, text: str) -> None:
    assert format_age(_in(delta)) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(seconds=90.9), "0:01:30"),
        (timedelta(days=2) - timedelta(seconds=10), "1d 23:59:50"),
        (timedelta(days=30), "30d 0:00:00"),
    ],
    ids=str,
)
def test_duration_shows_days_with_their_unit(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


def test_moment_is_absolute_and_relative_unless_in_utc() -> None:
    time = Timestamp(seconds=1_900_000_000)

    assert format_moment(time, utc=True) == "2030-03-17 17:46:40Z"
    assert format_moment(time).startswith("2030-03-17 17:46:40Z (in ")
