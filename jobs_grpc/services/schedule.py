"""Checks and converts the schedule of a job: its start time, start windows and retry policy.

The database checks start_at against its own clock. The stored forms are those of the columns of
jobs.jobs. Equal schedules have equal stored forms: fields that are unset get their defaults.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.errors import Violation
from jobs_grpc.services.time_zones import check_time_zone

# The largest policy has ten rules with ten codes of 30 characters each. Messages of this size are
# parsed, stored and sent with each change to each watch.
MAX_POLICY_BYTES = 4 * 1024

MAX_SCHEDULE_BYTES = 6 * 1024
"""The maximum size of the start time, the start windows and the retry policy of a Job."""

UTC_ZONE = "UTC"
DEVICE_ZONE = "DEVICE"
"""The window_time_zone of a job whose windows are in the time zone of each device."""

_START_TIME = re.compile("([01][0-9]|2[0-3]):([0-5][0-9])")
_EVERY_DAY = (1 << 7) - 1

_DEFAULT_INITIAL_BACKOFF = 5 * 60
_DEFAULT_MULTIPLIER = 2
_DEFAULT_MAX_BACKOFF = 24 * 3600


def check_start_windows(windows: Sequence[pb.StartWindow]) -> list[Violation]:
    """Check start windows whose fields are within their limits."""
    violations = []
    for index, window in enumerate(windows):
        path = f"start_windows[{index}]"
        if len({*window.days}) < len(window.days):
            problem = f"{path}.days must not contain a day twice"
            violations.append(Violation(f"{path}.days", problem))
        if not _START_TIME.fullmatch(window.start_time):
            problem = f"{path}.start_time must be HH:MM from 00:00 to 23:59"
            violations.append(Violation(f"{path}.start_time", problem))
        if window.duration.seconds % 60:
            problem = f"{path}.duration must be whole minutes"
            violations.append(Violation(f"{path}.duration", problem))
    return violations


def check_window_time_zone(name: str, has_windows: bool) -> list[Violation]:
    """Check the time zone of start windows. It may be empty, or DEVICE."""
    field = "window_time_zone"
    if name and not has_windows:
        return [Violation(field, f"{field} is allowed only with start_windows")]
    if name == DEVICE_ZONE or not check_time_zone(name):
        return []
    problem = 'must be UTC, DEVICE, or an IANA time zone with a "/", such as Europe/Berlin'
    return [Violation(field, f"{field} {problem}")]


def check_retry_policy(policy: pb.RetryPolicy) -> list[Violation]:
    """Check a retry policy whose fields are within their limits."""
    field = "retry_policy"
    if (size := policy.ByteSize()) > MAX_POLICY_BYTES:
        limit = f"at most {MAX_POLICY_BYTES:,} bytes, encoded as protobuf, but is {size:,}"
        return [Violation(field, f"{field} must be {limit}")]
    violations = []
    for index, rule in enumerate(policy.rules):
        path = f"{field}.rules[{index}]"
        if pb.JobExecution.REJECTED in rule.statuses and not all(rule.failure_codes or [""]):
            problem = f"{path}.failure_codes must name each code with the status REJECTED"
            violations.append(Violation(f"{path}.failure_codes", problem))
        if _initial_backoff(rule) > _max_backoff(rule):
            problem = f"{path}.max_backoff must be at least initial_backoff"
            violations.append(Violation(f"{path}.max_backoff", f"{problem} (default: 300 seconds)"))
    return violations


def start_at_json(start_at: Timestamp) -> str:
    """Convert a valid start time to ISO 8601, with microsecond precision."""
    return start_at.ToDatetime(UTC).isoformat(timespec="microseconds")


def start_windows_array(windows: Sequence[pb.StartWindow]) -> list[int]:
    """Convert valid start windows to three numbers each, as in jobs.jobs.start_windows.

    These are a bit mask of the days (Monday: 1, Sunday: 64), the minute of the day at which it
    opens, and its duration in minutes. The windows are sorted and distinct.
    """
    return [number for window in sorted({*map(_window_numbers, windows)}) for number in window]


def _window_numbers(window: pb.StartWindow) -> tuple[int, int, int]:
    hours, minutes = window.start_time.split(":")
    days = sum(1 << (day - 1) for day in window.days) or _EVERY_DAY
    return days, int(hours) * 60 + int(minutes), window.duration.seconds // 60


def retry_policy_json(policy: pb.RetryPolicy) -> list[dict[str, Any]]:
    """Convert a valid retry policy to a list of its rules."""
    return [
        {
            "statuses": _rule_statuses(rule),
            "failure_codes": sorted({*rule.failure_codes}),
            "max_attempts": rule.max_attempts,
            "initial_backoff_seconds": _initial_backoff(rule),
            "backoff_multiplier": rule.backoff_multiplier or _DEFAULT_MULTIPLIER,
            "max_backoff_seconds": _max_backoff(rule),
        }
        for rule in policy.rules
    ]


def _rule_statuses(rule: pb.RetryRule) -> list[str]:
    statuses = {*rule.statuses} or {pb.JobExecution.FAILED, pb.JobExecution.TIMED_OUT}
    if not rule.statuses and rule.failure_codes and all(rule.failure_codes):
        statuses.add(pb.JobExecution.REJECTED)
    return [pb.JobExecution.Status.Name(status) for status in sorted(statuses)]


def start_window_fields(numbers: Sequence[int]) -> list[dict[str, Any]]:
    """The fields of each StartWindow, from the numbers that start_windows_array returns."""
    return [
        {
            "days": [] if days == _EVERY_DAY else [d for d in range(1, 8) if days >> (d - 1) & 1],
            "start_time": f"{minute // 60:02}:{minute % 60:02}",
            "duration": {"seconds": minutes * 60},
        }
        for days, minute, minutes in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    ]


def retry_policy_fields(json_text: str) -> dict[str, Any] | None:
    """The fields of a RetryPolicy, from the JSON of retry_policy_json; None: no rules."""
    rules = json.loads(json_text)
    return {"rules": [_rule_fields(rule) for rule in rules]} if rules else None


def _rule_fields(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "statuses": [pb.JobExecution.Status.Value(status) for status in rule["statuses"]],
        "failure_codes": rule["failure_codes"],
        "max_attempts": rule["max_attempts"],
        "initial_backoff": {"seconds": rule["initial_backoff_seconds"]},
        "backoff_multiplier": rule["backoff_multiplier"],
        "max_backoff": {"seconds": rule["max_backoff_seconds"]},
    }


def _initial_backoff(rule: pb.RetryRule) -> int:
    if rule.HasField("initial_backoff"):
        return rule.initial_backoff.seconds
    return _DEFAULT_INITIAL_BACKOFF


def _max_backoff(rule: pb.RetryRule) -> int:
    if rule.HasField("max_backoff"):
        return rule.max_backoff.seconds
    return max(_DEFAULT_MAX_BACKOFF, _initial_backoff(rule))
