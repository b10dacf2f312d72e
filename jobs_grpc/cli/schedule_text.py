"""Formats the schedule of a job, as the options of `create` write it."""

from collections.abc import Iterator

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.formatting import format_device_count, format_moment, format_span, format_time
from jobs_grpc.cli.schedule_options import DAY_MINUTES, DAYS
from jobs_grpc.client import execution_status_name, job_priority_name

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
        yield "windows", f"{windows} {zone}{_open_now(job)}"
    for number, opening in enumerate(job.next_openings[:_SHOWN_OPENINGS]):
        yield "opens", format_time(opening) if number else format_moment(opening, utc)
    for rule in job.retry_policy.rules:
        yield "retry", format_retry_rule(rule)
    if job.is_retry_budget_exhausted:
        yield "retry budget", "exhausted: too many devices needed a retry, so failures are final"
    if job.retrying_count:
        yield "retrying", f"{format_device_count(job.retrying_count)} failed and will try again"
    if job.priority not in (pb.Job.PRIORITY_UNSPECIFIED, pb.Job.NORMAL):
        yield "priority", job_priority_name(job.priority)


def _open_now(job: pb.Job) -> str:
    if not job.HasField("is_window_open"):
        return ""
    return " (open now)" if job.is_window_open else " (closed now)"


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
    """Format a retry rule.

    Such as "NETWORK (FAILED): 5 attempts, backoff up to 5m, then ×2 up to 24h".
    """
    statuses = "/".join(map(execution_status_name, rule.statuses))
    codes = ", ".join(code or "no code" for code in rule.failure_codes) or "any failure"
    initial, longest = map(format_span, (rule.initial_backoff.seconds, rule.max_backoff.seconds))
    return (
        f"{codes} ({statuses}): {rule.max_attempts} attempts,"
        f" backoff up to {initial}, then ×{rule.backoff_multiplier} up to {longest}"
    )
