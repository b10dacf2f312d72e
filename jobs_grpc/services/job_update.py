"""Checks of UpdateJob: its update_mask and the fields that the mask names."""

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.errors import Violation
from jobs_grpc.services.rollout_validation import (
    MAX_COUNT,
    check_failure_criteria,
    check_rollout,
)
from jobs_grpc.services.validation import (
    check_in_progress_timeout,
    check_range,
    check_timestamp,
)

UPDATABLE_FIELDS = (
    "expires_at",
    "in_progress_timeout_minutes",
    "failure_criteria",
    "rollout.max_in_progress",
    "rollout.stages",
)


def check_update(request: pb.UpdateJobRequest) -> list[Violation]:
    """Check the update_mask and the fields that it names.

    The database checks what depends on the job and on the time: whether it has a rollout, which
    fields are fixed, and the range of expires_at.
    """
    fields = {*request.update_mask.paths}
    if not fields or not fields.issubset(UPDATABLE_FIELDS):
        problem = f"update_mask must name one or more of {', '.join(UPDATABLE_FIELDS)}"
        return [Violation("update_mask", problem)]
    violations = []
    if "expires_at" in fields:
        violations += check_timestamp("expires_at", request.expires_at)
    if "in_progress_timeout_minutes" in fields:
        violations += check_in_progress_timeout(request)
    if "failure_criteria" in fields:
        violations += check_failure_criteria(request.failure_criteria, with_stages=True)
    if "rollout.stages" in fields:
        violations += check_rollout(pb.Rollout(stages=request.rollout.stages))
    if "rollout.max_in_progress" in fields and request.rollout.HasField("max_in_progress"):
        violations += check_range(
            "rollout.max_in_progress", request.rollout.max_in_progress, 1, MAX_COUNT
        )
    return violations


def changed_rollout(request: pb.UpdateJobRequest) -> pb.Rollout:
    """Return the part of the rollout that the update_mask names; nothing else is checked."""
    rollout = pb.Rollout()
    fields = {*request.update_mask.paths}
    if "rollout.stages" in fields:
        rollout.stages.extend(request.rollout.stages)
    if "rollout.max_in_progress" in fields and request.rollout.HasField("max_in_progress"):
        rollout.max_in_progress = request.rollout.max_in_progress
    return rollout
