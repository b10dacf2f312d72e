"""Checks of a new job beyond the limits of single fields."""

from collections.abc import Callable, Iterable, Mapping

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.errors import Violation
from jobs_grpc.services.rollout_validation import check_failure_criteria, check_rollout
from jobs_grpc.services.schedule import (
    check_retry_policy,
    check_start_windows,
    check_window_time_zone,
)
from jobs_grpc.services.targets import TARGETS_WITH_SELECTOR, check_expected_digest, check_target


def _check_replacement(request: pb.CreateJobRequest) -> list[Violation]:
    field = "replaces_job_id"
    if request.replaces_job_id != request.job_id:
        return []
    return [Violation(field, f"{field} must be another job than job_id")]


def _check_start_approval(request: pb.CreateJobRequest) -> list[Violation]:
    field = "require_start_approval"
    if not request.replaces_job_id:
        return []
    problem = "must not be set with replaces_job_id, which cancels the other job at once"
    remedy = "leave replaces_job_id unset, and cancel the other job after the approval"
    return [Violation(field, f"{field} {problem}; {remedy}")]


def _check_continuous(request: pb.CreateJobRequest) -> list[Violation]:
    if request.WhichOneof("target") not in ("target_all", "target_group_id", "target_selector"):
        problem = "continuous needs target_all, target_group_id or target_selector"
        return [Violation("continuous", f"{problem}: no device can match another target later")]
    stages = request.rollout.stages
    if stages and stages[-1].WhichOneof("size") != "remainder":
        problem = "must be the remainder in a continuous job: devices that join belong to it"
        path = f"rollout.stages[{len(stages) - 1}]"
        return [Violation(path, f"the last stage, {path}, {problem}")]
    return []


def _check_max_joins(request: pb.CreateJobRequest) -> list[Violation]:
    if request.continuous:
        return []
    return [Violation("max_joins_per_hour", "max_joins_per_hour is allowed only with continuous")]


_CHECKS: Mapping[str, Callable[[pb.CreateJobRequest], list[Violation]]] = {
    **dict.fromkeys(TARGETS_WITH_SELECTOR, check_target),
    "expected_target_digest": check_expected_digest,
    "rollout": lambda request: check_rollout(request.rollout),
    "failure_criteria": lambda request: check_failure_criteria(
        request.failure_criteria, with_stages=request.HasField("rollout")
    ),
    "start_windows": lambda request: check_start_windows(request.start_windows),
    "window_time_zone": lambda request: check_window_time_zone(
        request.window_time_zone, bool(request.start_windows)
    ),
    "retry_policy": lambda request: check_retry_policy(request.retry_policy),
    "replaces_job_id": _check_replacement,
    "require_start_approval": _check_start_approval,
    "continuous": _check_continuous,
    "max_joins_per_hour": _check_max_joins,
}


def check_fields(request: pb.CreateJobRequest, fields: Iterable[str]) -> list[Violation]:
    """Check the `fields` that are set, each of which is within its limits."""
    violations = []
    for field in fields:
        if field in _CHECKS:
            violations += _CHECKS[field](request)
    return violations
