"""When devices start and try again: create, update, get and list."""

from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.cli.formatting import format_summary
from jobs_grpc.cli.schedule_options import parse_retry, parse_window, window_argument
from jobs_grpc.cli.schedule_text import format_window, schedule_facts
from tests.support.callers import Operator
from tests.support.cli import Shell
from tests.support.database import Database

CREATE = ("create", "--type", "x", "--all", "--job-id", "j")
# Jobs start at most 90 days ahead.
START = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(days=30)
FAILED, TIMED_OUT = pb.JobExecution.FAILED, pb.JobExecution.TIMED_OUT


@pytest.fixture
async def fleet(database: Database, operator: Operator) -> None:
    """Ten devices."""
    await database.add_devices(operator.tenant, 10)


def _window(days: list[Any], start_time: str, hours: float) -> pb.StartWindow:
    duration = Duration(seconds=int(hours * 3600))
    return pb.StartWindow(days=days, start_time=start_time, duration=duration)


@pytest.mark.parametrize(
    ("text", "window", "formatted"),
    [
        ("Mon-Fri 22:00-04:00", _window([1, 2, 3, 4, 5], "22:00", 6), ""),
        ("02:00-05:30", _window([], "02:00", 3.5), ""),
        ("Sat,Sun 10:00-10:15", _window([6, 7], "10:00", 0.25), ""),
        ("mon,WED-fri,Sun  00:00-23:59", _window([1, 3, 4, 5, 7], "00:00", 23 + 59 / 60), "-"),
        ("Fri-Mon 20:00-24:00", _window([1, 5, 6, 7], "20:00", 4), "Mon,Fri-Sun 20:00-00:00"),
        ("00:00-24:00", _window([], "00:00", 24), "00:00-00:00"),
    ],
)
def test_window_is_read_and_formatted(text: str, window: pb.StartWindow, formatted: str) -> None:
    assert parse_window(text) == window
    if formatted != "-":
        assert format_window(window) == formatted or text
        assert parse_window(format_window(window)) == window


@pytest.mark.parametrize(
    "text",
    ["", "Mon-Fri", "22:00", "Mo 22:00-04:00", "Mon- 22:00-04:00", "22:00-24:01", "7:00-8:00"],
)
def test_window_is_rejected_when_it_is_malformed(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="must be a window such as"):
        window_argument(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("NETWORK:5", pb.RetryRule(failure_codes=["NETWORK"], max_attempts=5)),
        ("any:3", pb.RetryRule(max_attempts=3)),
        ("FAILED,TIMED_OUT:3", pb.RetryRule(statuses=[FAILED, TIMED_OUT], max_attempts=3)),
        (
            "FAILED,NETWORK,DNS:4:10m-2h",
            pb.RetryRule(
                statuses=[FAILED],
                failure_codes=["NETWORK", "DNS"],
                max_attempts=4,
                initial_backoff=Duration(seconds=600),
                max_backoff=Duration(seconds=7200),
            ),
        ),
    ],
)
def test_retry_rule_is_read(text: str, rule: pb.RetryRule) -> None:
    assert parse_retry(text) == rule


@pytest.mark.usefixtures("fleet")
async def test_create_sets_the_schedule_of_the_options(shell: Shell, operator: Operator) -> None:
    local = START.astimezone(ZoneInfo("Europe/Berlin"))

    created = await shell(
        *CREATE,
        *("--start-at", f"{local:%Y-%m-%d %H:%M} Europe/Berlin", "--never-expires"),
        *("--window", "Mon-Fri 22:00-04:00", "--window", "10:00-12:00", "--zone", "device"),
        *("--retry", "NETWORK:5", "--retry", "any:2:1m", "--priority", "high"),
    )

    assert created.code == 0, created.err
    job = await operator.get("j")
    assert job.start_at.ToDatetime(UTC) == START
    assert job.window_time_zone == "DEVICE"
    assert [format_window(window) for window in job.start_windows] == [
        "Mon-Fri 22:00-04:00",
        "10:00-12:00",
    ]
    assert [rule.max_attempts for rule in job.retry_policy.rules] == [5, 2]
    assert job.priority == pb.Job.HIGH


def test_facts_include_openings_and_retries() -> None:
    job = pb.Job(
        start_windows=[_window([], "02:00", 1)],
        window_time_zone="Europe/Berlin",
        is_window_open=False,
        retrying_count=1,
        is_retry_budget_exhausted=True,
        priority=pb.Job.NORMAL,
    )
    for day in range(4):
        job.next_openings.add(seconds=1_800_000_000 + day * 86_400)

    assert list(schedule_facts(job, utc=True)) == [
        ("windows", "02:00-03:00 Europe/Berlin (closed now)"),
        ("opens", "2027-01-15 08:00:00Z"),
        ("opens", "2027-01-16 08:00:00Z"),
        ("opens", "2027-01-17 08:00:00Z"),
        ("retry budget", "exhausted: too many devices needed a retry, so failures are final"),
        ("retrying", "1 device failed and will try again"),
    ]


@pytest.mark.usefixtures("fleet")
async def test_create_reads_the_schedule_from_the_file(
    shell: Shell, operator: Operator, tmp_path: Path
) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text(
        "start_windows:\n"
        '  - {days: [SATURDAY], start_time: "02:00", duration: 14400s}\n'
        "window_time_zone: DEVICE\n"
        "retry_policy: {rules: [{failure_codes: [NETWORK], max_attempts: 5}]}\n"
    )

    options = ("--rollout", str(file), "--zone", "device")
    results = [await shell(*command, *options) for command in (CREATE, ("update", "j"))]
    created = await shell(*CREATE, "--rollout", str(file), "--priority", "low")

    for result in results:
        assert (result.code, result.err) == (
            2,
            "jobs-grpc: both --rollout and options set window_time_zone\n",
        )
    assert created.code == 0, created.err
    job = await operator.get("j")
    assert job.window_time_zone == "DEVICE"
    assert job.start_windows[0].days == [6]
    assert job.retry_policy.rules[0].max_attempts == 5


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--start-at", "soon"], "--start-at: must be a time such as"),
        (["--window", "22-04"], "--window: must be a window such as 'Mon-Fri 22:00-04:00'"),
        (["--retry", "NETWORK"], "--retry: must be a rule such as NETWORK:5"),
        (["--retry", "any:3:5"], "--retry: must be a rule such as NETWORK:5"),
        (["--retry", "any,NETWORK:3"], "--retry: must be a rule such as NETWORK:5"),
        (["--retry", "failed:3"], "--retry: must be a rule such as NETWORK:5"),
        (["--retry", "SUCCEEDED:3"], "--retry: must be a rule such as NETWORK:5"),
        (["--priority", "urgent"], "--priority: invalid choice"),
    ],
)
async def test_create_names_valid_values_when_an_option_is_malformed(
    shell: Shell, options: list[str], problem: str
) -> None:
    result = await shell(*CREATE, *options)

    assert result.code == 2
    assert f"error: argument {problem}" in result.err.splitlines()[-1]


def test_summary_of_a_scheduled_job_has_its_start() -> None:
    job = pb.Job(job_id="j", status=pb.Job.SCHEDULED)
    job.start_at.FromSeconds(1_800_000_000)
    job.execution_counts.held = 3

    assert format_summary(job) == "j is SCHEDULED until 2027-01-15 08:00:00Z: 3 HELD"
