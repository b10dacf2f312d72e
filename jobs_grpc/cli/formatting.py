"""Formats jobs, times and counts as text."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.client import end_cause_name, execution_status_name, job_status_name

CANCEL_CAUSES = ("JOB_CANCELED", "EXECUTION_CANCELED")
"""The end causes of executions that the CLI calls CANCELED. In the contract, they are REJECTED."""


def format_status(execution: pb.JobExecution) -> str:
    """Return the status of an execution, such as "QUEUED", or CANCELED."""
    if end_cause_name(execution.end_cause) in CANCEL_CAUSES:
        return "CANCELED"
    return execution_status_name(execution.status)


def format_time(time: Timestamp) -> str:
    """Format a time in UTC, to the second."""
    return datetime.fromtimestamp(time.seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def format_age(time: Timestamp) -> str:
    """Format a time relative to now, such as "3m ago" or "in 24h"."""
    seconds = datetime.now(UTC).timestamp() - time.ToNanoseconds() / 1e9
    number, unit = _rounded(abs(seconds))
    if not number:
        return "now"
    return f"{number:,}{unit} ago" if seconds > 0 else f"in {number:,}{unit}"


def _rounded(seconds: float) -> tuple[int, str]:
    for size, unit, largest in ((1, "s", 100), (60, "m", 100), (3600, "h", 48)):
        if (number := round(seconds / size)) < largest:
            return number, unit
    return round(seconds / 86_400), "d"


def format_moment(time: Timestamp, utc: bool = False) -> str:
    """Format a time in UTC, and relative to now unless `utc`."""
    return format_time(time) if utc else f"{format_time(time)} ({format_age(time)})"


def format_field(message: Message, field: str, utc: bool, unset: str = "-") -> str:
    """Format the time in a field, as format_moment does."""
    return format_moment(getattr(message, field), utc) if message.HasField(field) else unset


def utc_now(timespec: str = "seconds") -> str:
    """Return the current time in ISO 8601, such as 2030-01-31T12:00:00Z."""
    return datetime.now(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def format_duration(duration: timedelta) -> str:
    """Format a duration in whole seconds, such as 0:01:30 or 2d 0:01:30."""
    days = f"{duration.days:,}d " if duration.days else ""
    return f"{days}{timedelta(seconds=duration.seconds)}"


def format_remaining_time(remaining: int, per_second: float) -> str:
    """Format the estimated time until the remaining devices finish; "" if it is unknown."""
    seconds = remaining / per_second if per_second else 0
    # Less than a second is no estimate: the last devices are slow, or stall.
    return format_duration(timedelta(seconds=seconds)) if seconds >= 1 else ""


def format_time_left(time: Timestamp) -> str:
    """Format how long it takes until `time`, such as 0:01:30."""
    return format_duration(max(time.ToDatetime(UTC) - datetime.now(UTC), timedelta()))


def format_span(seconds: int) -> str:
    """Format a number of seconds as options take it, such as "90s", "10m", "24h" or "7d"."""
    for unit, size, smallest in (("d", 86_400, 2), ("h", 3600, 1), ("m", 60, 1)):
        if not seconds % size and seconds >= smallest * size:
            return f"{seconds // size:,}{unit}"
    return f"{seconds:,}s"


def format_expiry(message: Message, utc: bool = False) -> str:
    """Format the `expires_at` of a job or of a response about one."""
    return format_field(message, "expires_at", utc, "never")


def format_number(count: int, noun: str) -> str:
    """Format a number of things, such as "1 device" or "2,000 devices"."""
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


format_device_count = partial(format_number, noun="device")


def format_replaced_devices(preview: pb.TargetPreview) -> str:
    """Say where the devices of a replaced job are, to follow its ID."""
    if not preview.HasField("replaced_devices"):
        return ", which is finished"
    devices = preview.replaced_devices
    parts = [f"{count:,} in stage {n}" for n, count in enumerate(devices.stage_counts) if count]
    if devices.untargeted_count:
        parts.append(f"{devices.untargeted_count:,} not targeted")
    of_them = f": {', '.join(parts)}" if parts else ""
    have = "has" if devices.device_count == 1 else "have"
    return f", which {format_device_count(devices.device_count)} {have} not started{of_them}"


def format_labels(labels: Mapping[str, str]) -> str:
    """Format labels, such as "team=pumps wave=2"."""
    return " ".join(f"{key}={labels[key]}" for key in sorted(labels))


def format_target(job: pb.Job) -> str:
    """Format the target of a job, such as "group north"."""
    match cast("str | None", job.WhichOneof("target")):
        case "target_device_id":
            return f"device {job.target_device_id}"
        case "target_group_id":
            return f"group {job.target_group_id}"
        case "target_selector":
            return f"where {job.target_selector}"
        case "target_device_count":
            return f"list of {format_device_count(job.target_device_count)}"
        case "target_failed_in":
            failed_in = job.target_failed_in
            filters = [execution_status_name(status) for status in failed_in.statuses]
            filters += [code or "no code" for code in failed_in.failure_codes]
            where = f" where {failed_in.selector}" if failed_in.selector else ""
            return f"failed in {failed_in.job_id} ({', '.join(filters)}){where}"
        case "target_all":
            return "all"
        case None:  # A newer server has other targets.
            return "unknown"
        case name:
            return f"{name.removeprefix('target_').replace('_', ' ')} {getattr(job, name)}"


def format_creation(job: pb.Job, utc: bool = False) -> str:
    creator = f" by {job.created_by}" if job.created_by else ""
    return f"{format_moment(job.created_at, utc)}{creator}"


def format_pause(job: pb.Job, utc: bool = False) -> str:
    """Format the pause of a job: since when, by whom and why."""
    user = f" by {job.pause.paused_by}" if job.pause.HasField("paused_by") else ""
    reason = f": {job.pause.reason}" if job.pause.reason else ""
    return f"since {format_moment(job.pause.paused_at, utc)}{user}{reason}"


def format_approval(approval: pb.StageApproval | pb.StartApproval, utc: bool) -> str:
    """Format an approval: when, by whom and why."""
    comment = f": {approval.comment}" if approval.comment else ""
    return (
        f"approved at {format_moment(approval.approved_at, utc)} by {approval.approved_by}{comment}"
    )


def is_active(job: pb.Job) -> bool:
    """Return whether the job is not finished."""
    return job.status not in (pb.Job.COMPLETED, pb.Job.CANCELED)


def counts_by_status(counts: pb.ExecutionCounts) -> dict[str, int]:
    """Return the number of executions by status, in the order of the contract."""
    return {field.name: getattr(counts, field.name) for field in counts.DESCRIPTOR.fields}


def count_label(status: str, job_status: pb.Job.Status.ValueType) -> str:
    """Return what a count is called."""
    # An execution alone is rarely canceled.
    is_mixed = status == "rejected" and job_status == pb.Job.CANCELED
    return "REJECTED or CANCELED" if is_mixed else status.upper()


def format_counts(
    counts: pb.ExecutionCounts, job_status: pb.Job.Status.ValueType = pb.Job.STATUS_UNSPECIFIED
) -> str:
    """Format the counts that are not zero, such as "1 QUEUED, 2 SUCCEEDED"."""
    by_status = counts_by_status(counts).items()
    return ", ".join(f"{n:,} {count_label(status, job_status)}" for status, n in by_status if n)


def job_duration(job: pb.Job) -> timedelta:
    """Return the time from the creation of a job until it finished, or until now."""
    finished_at = job.completed_at if job.HasField("completed_at") else job.updated_at
    end = datetime.now(UTC) if is_active(job) else finished_at.ToDatetime(UTC)
    return max(end - job.created_at.ToDatetime(UTC), timedelta())


def format_summary(job: pb.Job) -> str:
    """Format status, duration and counts of a job in one line."""
    status = job_status_name(job.status)
    since = f"after {format_duration(job_duration(job))}"
    if job.status == pb.Job.SCHEDULED:
        since = f"until {format_time(job.start_at)}"
    return f"{job.job_id} is {status} {since}: {format_counts(job.execution_counts, job.status)}"
