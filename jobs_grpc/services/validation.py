"""What a request must be, field by field. Pure functions that find violations."""

import re
import unicodedata
from collections.abc import Sequence, Set
from datetime import UTC

from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.device_jobs_pb2 import UpdateExecutionRequest
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.errors import InvalidRequest, Violation

_JOB_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

MAX_ID = 256

# What a device may say; the other states are the service's to decide.
REPORTED = (
    pb.JobExecution.IN_PROGRESS,
    pb.JobExecution.SUCCEEDED,
    pb.JobExecution.FAILED,
    pb.JobExecution.REJECTED,
)
# What can be tried again; a success is one, and the others are not over.
RETRIED = (pb.JobExecution.FAILED, pb.JobExecution.TIMED_OUT, pb.JobExecution.REJECTED)
MAX_DOCUMENT_TYPE = 100
MAX_REASON = 1000
MAX_REPORT_ID = 128
MAX_TIMEOUT_MINUTES = 7 * 24 * 60


def require(violations: list[Violation]) -> None:
    """Raise InvalidRequest if there are any."""
    if violations:
        raise InvalidRequest(violations)


def check_job_id(job_id: str) -> list[Violation]:
    """A job_id that must be there."""
    if not job_id:
        return [Violation("job_id", "job_id is required")]
    if not _JOB_ID.fullmatch(job_id):
        return [Violation("job_id", "job_id must be 1–128 characters of A-Z a-z 0-9 . _ : -")]
    return []


def check_text(field: str, text: str, longest: int) -> list[Violation]:
    """A name of 1 to `longest` characters without control characters."""
    if not 1 <= len(text) <= longest or any(unicodedata.category(c) == "Cc" for c in text):
        problem = f"{field} must be 1–{longest} characters without control characters"
        return [Violation(field, problem)]
    return []


def check_range(field: str, number: int, low: int, high: int) -> list[Violation]:
    """A number from `low` to `high`, both included."""
    if not low <= number <= high:
        return [Violation(field, f"{field} must be from {low} to {high}")]
    return []


def check_offset(offset: int) -> list[Violation]:
    """How many to skip; protobuf's int32 has the upper bound."""
    return [] if offset >= 0 else [Violation("offset", "offset must be 0 or more")]


def check_statuses(
    statuses: Set[int], enum: type[pb.Job.Status] | type[pb.JobExecution.Status]
) -> list[Violation]:
    """Statuses to look for, possibly none; 0, unspecified, is not one."""
    if unknown := statuses - {*enum.values()[1:]}:
        known = ", ".join(enum.keys()[1:])
        problem = f"status {min(unknown)} is unknown; it must be one of {known}"
        return [Violation("status", problem)]
    return []


def check_job_filters(request: pb.ListJobsRequest) -> list[Violation]:
    """What jobs are looked for by; an empty text is no filter."""
    texts = {
        "document_type": (request.document_type, MAX_DOCUMENT_TYPE),
        "created_by": (request.created_by, MAX_ID),
        "target_device_id": (request.target_device_id, MAX_ID),
        "target_group_id": (request.target_group_id, MAX_ID),
    }
    violations = []
    for field, (text, longest) in texts.items():
        violations += check_text(field, text, longest) if text else []
    for field in ("created_from", "created_until"):
        violations += check_moment(field, getattr(request, field))
    return violations


def check_moment(field: str, moment: Timestamp) -> list[Violation]:
    """A time in the years 1 to 9999, as the type has it."""
    try:
        moment.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return [Violation(field, f"{field} must be a time in the years 1 to 9999")]
    return []


def check_executions_of(request: pb.ListJobExecutionsRequest) -> list[Violation]:
    """Of a job, of a device, or of both."""
    if not request.device_id:
        return check_job_id(request.job_id)
    return check_text("device_id", request.device_id, MAX_ID) + (
        check_job_id(request.job_id) if request.job_id else []
    )


def check_reported_status(status: int) -> list[Violation]:
    """A status that a device may report."""
    if status in REPORTED:
        return []
    known = ", ".join(pb.JobExecution.Status.Name(each) for each in REPORTED)
    return [Violation("status", f"status must be one of {known}")]


def check_report_id(report_id: str) -> list[Violation]:
    """What a client tells its reports apart by; may be empty."""
    if len(report_id) > MAX_REPORT_ID:
        problem = f"report_id must be at most {MAX_REPORT_ID} characters"
        return [Violation("report_id", problem)]
    return []


def check_retried_statuses(statuses: Sequence[int]) -> list[Violation]:
    """One or more of the statuses that can be tried again."""
    if statuses and all(status in RETRIED for status in statuses):
        return []
    known = ", ".join(pb.JobExecution.Status.Name(each) for each in RETRIED)
    return [Violation("statuses", f"statuses must be one or more of {known}")]


def check_reason(reason: str) -> list[Violation]:
    """Free text, possibly none."""
    if len(reason) > MAX_REASON or "\0" in reason:
        problem = f"reason must be at most {MAX_REASON} characters without U+0000"
        return [Violation("reason", problem)]
    return []


def check_target(request: pb.CreateJobRequest) -> list[Violation]:
    """Exactly one target; an empty id, or false, is none."""
    match request.WhichOneof("target"):
        case "target_device_id" if request.target_device_id:
            return check_text("target_device_id", request.target_device_id, MAX_ID)
        case "target_group_id" if request.target_group_id:
            return check_text("target_group_id", request.target_group_id, MAX_ID)
        case "target_all" if request.target_all:
            return []
    problem = "Exactly one of target_device_id, target_group_id, target_all must be set"
    return [Violation("target", problem)]


def check_expiry(request: pb.CreateJobRequest | pb.RetryExecutionsRequest) -> list[Violation]:
    """Hours in range, or never, but not both."""
    if not request.HasField("expires_in_hours"):
        return []
    if request.never_expires:
        problem = "expires_in_hours and never_expires must not both be set"
        return [Violation("never_expires", problem)]
    return check_range("expires_in_hours", request.expires_in_hours, 1, 720)


def check_in_progress_timeout(request: pb.CreateJobRequest) -> list[Violation]:
    """Minutes in range, or none."""
    if not request.HasField("in_progress_timeout_minutes"):
        return []
    return check_range(
        "in_progress_timeout_minutes",
        request.in_progress_timeout_minutes,
        1,
        MAX_TIMEOUT_MINUTES,
    )


def check_extension(request: UpdateExecutionRequest) -> list[Violation]:
    """Minutes in range, and only of what goes on; or none."""
    if not request.HasField("extend_timeout_minutes"):
        return []
    field = "extend_timeout_minutes"
    if request.status != pb.JobExecution.IN_PROGRESS:
        return [Violation(field, f"{field} must be set with status IN_PROGRESS only")]
    return check_range(field, request.extend_timeout_minutes, 1, MAX_TIMEOUT_MINUTES)
