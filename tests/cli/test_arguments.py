"""Durations in arguments. transcripts/arguments.txt has errors."""

import argparse

import pytest

from jobs_grpc.cli import arguments


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("24h", 86_400), ("1.5h", 5400), ("30d", 2_592_000)],
)
def test_duration_has_a_unit(text: str, seconds: int) -> None:
    assert arguments.duration(text).seconds == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "31d", "-1s", "nan"])
def test_duration_rejects_other_texts(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 90s"):
        arguments.duration(text)
