"""What a request must be, field by field. Pure functions that find violations."""

import re
import unicodedata

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.errors import InvalidRequest, Violation

_JOB_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

MAX_ID = 256
MAX_DOCUMENT_TYPE = 100
MAX_REASON = 1000


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


def check_status(
    status: int, enum: type[pb.Job.Status] | type[pb.JobExecution.Status]
) -> list[Violation]:
    """A status of the enum; 0, unspecified, is none and fits."""
    if status in enum.values():
        return []
    known = ", ".join(enum.keys()[1:])
    return [Violation("status", f"status {status} is unknown; it must be one of {known}")]


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


def check_expiry(request: pb.CreateJobRequest) -> list[Violation]:
    """Hours in range, or never, but not both."""
    if not request.HasField("expires_in_hours"):
        return []
    if request.never_expires:
        problem = "expires_in_hours and never_expires must not both be set"
        return [Violation("never_expires", problem)]
    return check_range("expires_in_hours", request.expires_in_hours, 1, 720)
