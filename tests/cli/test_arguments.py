"""Invalid arguments: usage errors of the argument parser."""

import argparse

import pytest

from jobs_grpc.cli import arguments
from tests.support.cli import Shell

CREATE = ("create", "--type", "x", "--all")
RETRY = ("retry", "j", "--status")


@pytest.mark.parametrize(
    "argv",
    [
        ["create", "--type", "x"],
        ["create", "--type", "x", "--all", "--group", "g"],
        ["list", "--limit", "0"],
        ["list", "--status", "DONE"],
        ["retry", "j"],
        [*RETRY, "SUCCEEDED"],
        [*RETRY, "FAILED", "--expires-in-hours", "1", "--never-expires"],
        ["cancel"],
        ["delete"],
        ["nonsense"],
    ],
)
async def test_command_prints_usage_when_arguments_are_invalid(
    shell: Shell, argv: list[str]
) -> None:
    result = await shell(*argv)

    assert result.code == 2
    assert result.err.startswith("usage: jobs-grpc")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["list", "--limit", "abc"], "--limit: must be a whole number from 1 to"),
        (["list", "--timeout", "nan"], "--timeout: must be a number of seconds from 0.001 to"),
        (["list", "--timeout", "-1"], "--timeout: must be a number of seconds"),
        (["list", "--timeout", "inf"], "--timeout: must be a number of seconds"),
        (["list", "--timeout", "1e30"], "--timeout: must be a number of seconds"),
        (["list", "--server", ""], "--server: must be HOST:PORT, [IPV6]:PORT or unix:PATH"),
        (["list", "--server", "localhost"], "--server: must be HOST:PORT"),
        (["list", "--server", "\udcff:1"], "--server: must be UTF-8"),
        (["create", "--type", "\udcff", "--all"], "--type: must be UTF-8"),
        (["create", "--type", "x", "--device", "\udcff"], "--device: must be UTF-8"),
        (["create", "--type", "x", "--group", "\udcff"], "--group: must be UTF-8"),
        ([*CREATE, "--job-id", "\udcff"], "--job-id: must be UTF-8"),
        (["get", "\udcff"], "JOB: must be UTF-8"),
        (["watch", "\udcff"], "JOB: must be UTF-8"),
        (["cancel", "j", "--reason", "\udcff"], "--reason: must be UTF-8"),
        (
            [*CREATE, "--expires-in-hours", "99999999999"],
            "--expires-in-hours: must be a whole number from 1 to 720",
        ),
    ],
)
async def test_argument_error_names_valid_values(
    shell: Shell, argv: list[str], message: str
) -> None:
    result = await shell(*argv)

    assert result.code == 2
    assert f"error: argument {message}" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("24h", 86_400), ("1.5h", 5400), ("30d", 2_592_000)],
)
def test_duration_has_a_unit(text: str, seconds: int) -> None:
    assert arguments.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "31d", "-1s", "nan"])
def test_duration_rejects_other_texts(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 90s"):
        arguments.duration(text)
