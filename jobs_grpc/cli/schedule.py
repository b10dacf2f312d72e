"""The schedule of `create` and `update`: its options, and how `get` shows it."""

import argparse
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.cli import arguments
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.formatting import format_device_count, format_moment, format_span, format_time
from jobs_grpc.client import execution_status_name, job_priority_name
from jobs_grpc.config.parsers import Parser

# The short names of the days, Monday first.
DAYS = [name[:3].title() for name in pb.StartWindow.Day.keys()[1:]]
DAY_MINUTES = 24 * 60

_WINDOW = re.compile(r"(?:([A-Za-z,-]+) )?(\d{2}):(\d{2})-(\d{2}):(\d{2})", re.ASCII)
_RETRY = re.compile(r"([^:]+):(\d{1,9})(?::(\w+)(?:-(\w+))?)?", re.ASCII)


def parse_window(text: str) -> pb.StartWindow:
    """Read a start window such as "Mon-Fri 22:00-04:00"; without days, it opens every day."""
    match = _WINDOW.fullmatch(" ".join(text.split()))
    if match is None:
        raise ValueError
    days, *numbers = match.groups()
    hour, minute, end_hour, end_minute = map(int, numbers)
    if minute > 59 or end_minute > 59 or end_hour * 60 + end_minute > DAY_MINUTES:
        raise ValueError
    minutes = (end_hour * 60 + end_minute - hour * 60 - minute) % DAY_MINUTES or DAY_MINUTES
    return pb.StartWindow(
        days=_parse_days(days) if days else (),
        start_time=f"{hour:02}:{minute:02}",
        duration=Duration(seconds=minutes * 60),
    )


def _parse_days(text: str) -> list[Any]:
    """Read days such as "Mon-Fri,Sun". A range may go past Sunday."""
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        day, last_day = _day(first), _day(last if dash else first)
        days.add(day)
        while day != last_day:
            day = day % 7 + 1
            days.add(day)
    return sorted(days)


def _day(text: str) -> int:
    return DAYS.index(text.title()) + 1


def parse_retry(text: str) -> pb.RetryRule:
    """Read a retry rule: NAME,…:ATTEMPTS, optionally with :INITIAL or :INITIAL-MAX backoff.

    A name is a failure code, FAILED, TIMED_OUT or REJECTED. "any" is FAILED and TIMED_OUT, and
    stands alone.
    """
    match = _RETRY.fullmatch(text)
    if match is None:
        raise ValueError
    names = [] if match[1] == "any" else match[1].split(",")
    statuses = [name for name in names if name in arguments.failure_statuses]
    codes = [name for name in names if name not in statuses]
    # A code that looks like a status is rather a mistaken status.
    if {"ANY", *pb.JobExecution.Status.keys()}.intersection(map(str.upper, codes)):
        raise ValueError
    rule = pb.RetryRule(
        statuses=map(pb.JobExecution.Status.Value, statuses),
        failure_codes=codes,
        max_attempts=int(match[2]),
    )
    for field, span in ((rule.initial_backoff, match[3]), (rule.max_backoff, match[4])):
        if span:
            field.FromSeconds(arguments.parse_duration(span))
    return rule


window_argument = arguments.argument(
    Parser("a window such as 'Mon-Fri 22:00-04:00' or '02:00-05:00'", parse_window)
)
retry_argument = arguments.argument(
    Parser("a rule such as NETWORK:5, FAILED,TIMED_OUT:3 or any:3:5m-24h", parse_retry)
)


def add_schedule_options(parser: argparse.ArgumentParser, *, updates: bool = False) -> None:
    """Add the options; if it `updates` a job, also those that remove windows and retries."""
    group = parser.add_argument_group("schedule")
    start_help = (
        "start at this time, such as 'tomorrow 02:00 Europe/Berlin', '2030-01-31 02:00' (local "
        "time), 2030-01-31T01:00:00Z or +2h"
    )
    if updates:
        start_help += ", or now; only until the job has started"
    arguments.add_options(group, {"--start-at TIME": start_help}, TIME=arguments.time)
    windows = group.add_mutually_exclusive_group()
    window_help = (
        "let devices start only in this start window, such as 'Mon-Fri 22:00-04:00', or "
        "'02:00-05:00' for every day; can be repeated"
    )
    if updates:
        window_help += "; replaces all windows"
    arguments.add_repeated(windows, "--window WINDOW", window_help, window_argument, "windows")
    zone_help = (
        "time zone of the windows, such as Europe/Berlin, or `device` for that of each device "
        f"(default: {'the zone of the job' if updates else 'UTC'})"
    )
    arguments.add_options(
        group,
        {"--zone ZONE": zone_help},
        ZONE=lambda text: "DEVICE" if text.lower() == "device" else arguments.text(text),
    )
    retries = group.add_mutually_exclusive_group()
    retry_help = (
        "retry failures: NETWORK:5 allows up to 5 attempts after the failure code NETWORK, "
        "any:3:10m-24h up to 3 after FAILED or TIMED_OUT, with a random backoff of up to 10m "
        "before the second attempt and up to 24h before later ones; can be repeated, and the first "
        "rule that matches decides"
    )
    if updates:
        retry_help += "; replaces all rules"
    arguments.add_repeated(retries, "--retry RULE", retry_help, retry_argument, "retry_rules")
    parser.set_defaults(windows=None, retry_rules=None)
    if updates:
        help_text = "let devices start at any time"
        arguments.add_constant(windows, "--no-windows", "windows", [], help_text)
        help_text = "do not retry failures"
        arguments.add_constant(retries, "--no-retries", "retry_rules", [], help_text)
    else:
        group.add_argument(
            "--priority",
            choices=[name.lower() for name in pb.Job.Priority.keys()[1:]],
            default="normal",
            help="place of the job in the queues of its devices (default: normal)",
        )


def add_schedule(planned: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return what --rollout describes with what the options set, except the priority.

    They are parameters of a client. Raises CliError if both set one.
    """
    rules = args.retry_rules
    options = {
        "start_at": args.start_at,
        "start_windows": args.windows,
        "window_time_zone": args.zone,
        "retry_policy": None if rules is None else pb.RetryPolicy(rules=rules),
    }
    given = {name: value for name, value in options.items() if value is not None}
    if twice := planned.keys() & given.keys():
        raise InvalidInput(f"both --rollout and options set {', '.join(sorted(twice))}")
    return {**planned, **given}


# How many of the next openings `get` shows.
_SHOWN_OPENINGS = 3


def schedule_facts(job: pb.Job, utc: bool) -> Iterator[tuple[str, str]]:
    """Yield the names and values of the lines about the schedule and priority of a job."""
    if job.HasField("start_at"):
        yield "start", format_moment(job.start_at, utc)
    if job.start_windows:
        windows = "; ".join(map(format_window, job.start_windows))
        zone = job.window_time_zone
        if zone == "DEVICE":
            zone = "in the time zone of each device"
        is_open = " (open now)" if job.window_open else " (closed now)"
        yield "windows", f"{windows} {zone}{is_open if job.HasField('window_open') else ''}"
    for number, opening in enumerate(job.next_openings[:_SHOWN_OPENINGS]):
        yield "opens", format_time(opening) if number else format_moment(opening, utc)
    for rule in job.retry_policy.rules:
        yield "retry", format_retry_rule(rule)
    if job.retry_budget_exhausted:
        yield "retry budget", "exhausted: too many devices needed a retry, so failures are final"
    if job.retrying_count:
        yield "retrying", f"{format_device_count(job.retrying_count)} failed and will try again"
    if job.priority not in (pb.Job.PRIORITY_UNSPECIFIED, pb.Job.NORMAL):
        yield "priority", job_priority_name(job.priority)


def format_window(window: pb.StartWindow) -> str:
    """Format a start window, such as "Mon-Fri 22:00-04:00"."""
    hours, minutes = map(int, window.start_time.split(":"))
    end = (hours * 60 + minutes + window.duration.seconds // 60) % DAY_MINUTES
    days = f"{_format_days(window)} " if window.days else ""
    return f"{days}{window.start_time}-{end // 60:02}:{end % 60:02}"


def _format_days(window: pb.StartWindow) -> str:
    texts, days = [], sorted(window.days)
    while days:
        run = [day for index, day in enumerate(days) if day == days[0] + index]
        names = [DAYS[day - 1] for day in run]
        texts += names if len(run) < 3 else [f"{names[0]}-{names[-1]}"]
        days = days[len(run) :]
    return ",".join(texts)


def format_retry_rule(rule: pb.RetryRule) -> str:
    """Format a rule: "NETWORK (FAILED): 5 attempts, backoff up to 5m, then ×2 up to 24h"."""
    statuses = "/".join(map(execution_status_name, rule.statuses))
    codes = ", ".join(code or "no code" for code in rule.failure_codes) or "any failure"
    initial, longest = map(format_span, (rule.initial_backoff.seconds, rule.max_backoff.seconds))
    return (
        f"{codes} ({statuses}): {rule.max_attempts} attempts,"
        f" backoff up to {initial}, then ×{rule.backoff_multiplier} up to {longest}"
    )
