"""Field checks. Each function returns the violations it finds; none means the field is valid."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC

from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.device_jobs_pb2 import UpdateExecutionRequest
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.errors import InvalidField, Violation

_JOB_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_FAILURE_CODE = re.compile(r"[A-Za-z0-9._:-]{0,64}")

# All characters of the Unicode category Cc.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# Maximum lengths in characters.
MAX_ID_LENGTH = 256
MAX_DOCUMENT_TYPE_LENGTH = 100
MAX_REASON_LENGTH = 1000
MAX_COMMENT_LENGTH = 200
MAX_REPORT_ID_LENGTH = 128
MAX_ETAG_LENGTH = 64

# Elements of a repeated status. Each status once is enough; a request may repeat some.
MAX_STATUSES = 16

# Elements of the filters of RetryExecutions and GetFailureSummary.
MAX_FAILURE_CODES = 100
MAX_DEVICE_IDS = 1000

MAX_EXPIRES_IN_HOURS = 30 * 24
MAX_TIMEOUT_MINUTES = 7 * 24 * 60

# The statuses that a device may report. Only the service sets the others.
REPORTABLE_STATUSES = (
    pb.JobExecution.IN_PROGRESS,
    pb.JobExecution.SUCCEEDED,
    pb.JobExecution.FAILED,
    pb.JobExecution.REJECTED,
)

# The terminal statuses that an operator may retry.
RETRYABLE_STATUSES = (
    pb.JobExecution.FAILED,
    pb.JobExecution.TIMED_OUT,
    pb.JobExecution.REJECTED,
)


def raise_for_violations(violations: list[Violation]) -> None:
    """Raise InvalidField if `violations` is not empty."""
    if violations:
        raise InvalidField(violations)


def check_job_id(job_id: str) -> list[Violation]:
    """Check a required job_id."""
    if not job_id:
        return [Violation("job_id", "job_id is required")]
    if not _JOB_ID.fullmatch(job_id):
        return [Violation("job_id", "job_id must be 1–128 characters of A-Z a-z 0-9 . _ : -")]
    return []


def check_text(field: str, text: str, max_length: int) -> list[Violation]:
    """Check for 1 to `max_length` characters without control characters."""
    if not 1 <= len(text) <= max_length or _CONTROL_CHARACTER.search(text):
        problem = f"{field} must be 1–{max_length} characters without control characters"
        return [Violation(field, problem)]
    return []


def check_range(field: str, number: int, low: int, high: int) -> list[Violation]:
    """Check that low <= number <= high."""
    if not low <= number <= high:
        return [Violation(field, f"{field} must be from {low} to {high}")]
    return []


def check_offset(offset: int) -> list[Violation]:
    """Check that the offset is not negative."""
    return [] if offset >= 0 else [Violation("offset", "offset must be 0 or more")]


def check_status_count(statuses: Sequence[int]) -> list[Violation]:
    """Check the length of a repeated status, before its elements are converted."""
    if len(statuses) > MAX_STATUSES:
        return [Violation("statuses", f"statuses must have at most {MAX_STATUSES} elements")]
    return []


def check_statuses(
    field: str,
    statuses: Iterable[int],
    enum: type[pb.Job.Status] | type[pb.JobExecution.Status],
) -> list[Violation]:
    """Check the statuses of a filter: known values other than STATUS_UNSPECIFIED. May be empty."""
    if unknown := {*statuses} - {*enum.values()[1:]}:
        allowed = ", ".join(enum.keys()[1:])
        problem = f"status {min(unknown)} is unknown; it must be one of {allowed}"
        return [Violation(field, problem)]
    return []


def check_job_filters(request: pb.ListJobsRequest) -> list[Violation]:
    """Check the filters of ListJobs except the statuses. An empty text means no filter."""
    texts = {
        "document_type": (request.document_type, MAX_DOCUMENT_TYPE_LENGTH),
        "created_by": (request.created_by, MAX_ID_LENGTH),
        "target_device_id": (request.target_device_id, MAX_ID_LENGTH),
        "target_group_id": (request.target_group_id, MAX_ID_LENGTH),
    }
    violations = []
    for field, (text, max_length) in texts.items():
        violations += check_text(field, text, max_length) if text else []
    for field in ("created_from", "created_until"):
        violations += check_timestamp(field, getattr(request, field))
    return violations


def check_timestamp(field: str, timestamp: Timestamp) -> list[Violation]:
    """Check for the range of google.protobuf.Timestamp: the years 1 to 9999."""
    try:
        timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return [Violation(field, f"{field} must be a time in the years 1 to 9999")]
    return []


def check_execution_filters(request: pb.ListJobExecutionsRequest) -> list[Violation]:
    """Check job_id and device_id; one of them is required."""
    if not request.device_id:
        return check_job_id(request.job_id)
    return check_text("device_id", request.device_id, MAX_ID_LENGTH) + (
        check_job_id(request.job_id) if request.job_id else []
    )


def check_reported_status(status: int) -> list[Violation]:
    """Check a status that a device reports."""
    if status in REPORTABLE_STATUSES:
        return []
    return [Violation("status", f"status must be one of {_names(REPORTABLE_STATUSES)}")]


def check_report_id(report_id: str) -> list[Violation]:
    """Check a report_id, which may be empty."""
    if len(report_id) > MAX_REPORT_ID_LENGTH:
        problem = f"report_id must be at most {MAX_REPORT_ID_LENGTH} characters"
        return [Violation("report_id", problem)]
    return []


def check_reported_failure_code(request: UpdateExecutionRequest) -> list[Violation]:
    """Check the failure_code of a report, which only FAILED and REJECTED may have."""
    if not request.failure_code:
        return []
    if request.status not in (pb.JobExecution.FAILED, pb.JobExecution.REJECTED):
        problem = "failure_code is allowed only with status FAILED or REJECTED"
        return [Violation("failure_code", problem)]
    return check_failure_code("failure_code", request.failure_code)


def check_failure_code(field: str, failure_code: str) -> list[Violation]:
    """Check a failure_code, which may be empty."""
    if _FAILURE_CODE.fullmatch(failure_code):
        return []
    return [Violation(field, f"{field} must be at most 64 characters of A-Z a-z 0-9 . _ : -")]


def check_failure_codes(failure_codes: Sequence[str]) -> list[Violation]:
    """Check the failure codes of a filter."""
    if len(failure_codes) > MAX_FAILURE_CODES:
        problem = f"failure_codes must have at most {MAX_FAILURE_CODES} elements"
        return [Violation("failure_codes", problem)]
    violations = []
    for index, failure_code in enumerate(failure_codes):
        violations += check_failure_code(f"failure_codes[{index}]", failure_code)
    return violations


def check_device_ids(device_ids: Sequence[str]) -> list[Violation]:
    """Check the device ids of a filter."""
    if len(device_ids) > MAX_DEVICE_IDS:
        problem = f"device_ids must have at most {MAX_DEVICE_IDS} elements"
        return [Violation("device_ids", problem)]
    violations = []
    for index, device_id in enumerate(device_ids):
        violations += check_text(f"device_ids[{index}]", device_id, MAX_ID_LENGTH)
    return violations


def check_failure_statuses(statuses: Sequence[int]) -> list[Violation]:
    """Check the statuses of GetFailureSummary, which may be empty."""
    return check_retry_statuses(statuses) if statuses else []


def check_etag(etag: str) -> list[Violation]:
    """Check an etag, which may be empty."""
    if len(etag) > MAX_ETAG_LENGTH or "\0" in etag:
        return [Violation("etag", "etag must be empty or the etag of a job")]
    return []


def check_retry_statuses(statuses: Sequence[int]) -> list[Violation]:
    """Check for at least one status, and only statuses that can be retried."""
    if violations := check_status_count(statuses):
        return violations
    if statuses and all(status in RETRYABLE_STATUSES for status in statuses):
        return []
    problem = f"statuses must be one or more of {_names(RETRYABLE_STATUSES)}"
    return [Violation("statuses", problem)]


def check_reason(reason: str) -> list[Violation]:
    """Check the reason of a cancel or a pause, which may be empty."""
    return _check_optional_text("reason", reason, MAX_REASON_LENGTH)


def check_comment(comment: str) -> list[Violation]:
    """Check the comment of an approval, which may be empty."""
    return _check_optional_text("comment", comment, MAX_COMMENT_LENGTH)


def _check_optional_text(field: str, text: str, max_length: int) -> list[Violation]:
    if len(text) > max_length or "\0" in text:
        problem = f"{field} must be at most {max_length} characters without U+0000"
        return [Violation(field, problem)]
    return []


def check_target(request: pb.CreateJobRequest) -> list[Violation]:
    """Check for exactly one target. An empty id and target_all=false count as no target."""
    match request.WhichOneof("target"):
        case "target_device_id" if request.target_device_id:
            return check_text("target_device_id", request.target_device_id, MAX_ID_LENGTH)
        case "target_group_id" if request.target_group_id:
            return check_text("target_group_id", request.target_group_id, MAX_ID_LENGTH)
        case "target_all" if request.target_all:
            return []
    problem = "Exactly one of target_device_id, target_group_id, target_all must be set"
    return [Violation("target", problem)]


def check_expiry(request: pb.CreateJobRequest | pb.RetryExecutionsRequest) -> list[Violation]:
    """Check expires_in_hours and never_expires; both are optional and exclude each other."""
    if not request.HasField("expires_in_hours"):
        return []
    if request.never_expires:
        problem = "expires_in_hours and never_expires must not both be set"
        return [Violation("never_expires", problem)]
    return check_range("expires_in_hours", request.expires_in_hours, 1, MAX_EXPIRES_IN_HOURS)


def check_in_progress_timeout(
    request: pb.CreateJobRequest | pb.UpdateJobRequest,
) -> list[Violation]:
    """Check the optional timeout of a job's executions."""
    if not request.HasField("in_progress_timeout_minutes"):
        return []
    return check_range(
        "in_progress_timeout_minutes",
        request.in_progress_timeout_minutes,
        1,
        MAX_TIMEOUT_MINUTES,
    )


def check_timeout_extension(request: UpdateExecutionRequest) -> list[Violation]:
    """Check the optional extend_timeout_minutes, which only an IN_PROGRESS report may have."""
    if not request.HasField("extend_timeout_minutes"):
        return []
    field = "extend_timeout_minutes"
    if request.status != pb.JobExecution.IN_PROGRESS:
        return [Violation(field, f"{field} is allowed only with status IN_PROGRESS")]
    return check_range(field, request.extend_timeout_minutes, 1, MAX_TIMEOUT_MINUTES)


def _names(statuses: Sequence[pb.JobExecution.Status.ValueType]) -> str:
    return ", ".join(map(pb.JobExecution.Status.Name, statuses))
