"""Checks of requests. The limits of single fields are options of the contract."""

from collections import Counter
from collections.abc import Iterable, Sequence

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.message import Message

from jobs_grpc.contract.field_rules import check
from jobs_grpc.errors import InvalidField, Violation, name_ids


def require_valid(request: Message, others: Sequence[Violation] = ()) -> None:
    """Raise InvalidField if there are `others`, or if a field violates its limits."""
    violations = check(request)
    if violations or others:
        raise InvalidField([*others, *violations])


def raise_for_violations(violations: list[Violation]) -> None:
    """Raise InvalidField if `violations` is not empty."""
    if violations:
        raise InvalidField(violations)


def check_unique(device_ids: Iterable[str], field: str = "devices") -> list[Violation]:
    """Check that a field of a request has each device once."""
    repeated = [device_id for device_id, count in Counter(device_ids).items() if count > 1]
    if not repeated:
        return []
    problem = f"must contain each device once, but repeats {name_ids(repeated, len(repeated))}"
    return [Violation(field, f"{field} {problem}")]


def check_job_or_device(request: pb.ListJobExecutionsRequest) -> list[Violation]:
    """Check for a job_id or a device_id, and for filters that need a list of devices."""
    if not request.device_id:
        return [] if request.job_id else [Violation("job_id", "job_id is required")]
    given = (request.HasField("stage"), bool(request.device_id_prefix))
    return [
        Violation(field, f"{field} and device_id must not both be set")
        for field, is_set in zip(("stage", "device_id_prefix"), given, strict=True)
        if is_set
    ]


def check_expiry(request: pb.CreateJobRequest | pb.RetryExecutionsRequest) -> list[Violation]:
    """Check that expires_in_hours and never_expires are not both set."""
    if not (request.never_expires and request.HasField("expires_in_hours")):
        return []
    problem = "expires_in_hours and never_expires must not both be set"
    return [Violation("never_expires", problem)]
