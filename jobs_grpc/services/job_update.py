"""Checks of UpdateJob: its update_mask and the fields that the mask names."""

from collections.abc import Iterable

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.contract.field_rules import check
from jobs_grpc.errors import Violation
from jobs_grpc.services.rollout_validation import check_failure_criteria, check_rollout
from jobs_grpc.services.selectors import check_labels


def check_update(request: pb.UpdateJobRequest) -> list[Violation]:
    """Check the update_mask and the fields that it names; others may have any value.

    The database checks what depends on the job and on the time: whether it has a rollout, which
    fields are fixed, and the range of expires_at.
    """
    found = check(request)
    if violations := _of_fields(("job_id", "etag", "update_mask"), found):
        return violations
    fields = {*request.update_mask.paths}
    if violations := _of_fields(fields, check(request.rollout, "rollout.", found)):
        return violations
    if "failure_criteria" in fields:
        violations += check_failure_criteria(request.failure_criteria, with_stages=True)
    if "labels" in fields:
        violations += check_labels(request.labels)
    if "rollout.stages" in fields:
        violations += check_rollout(pb.Rollout(stages=request.rollout.stages))
    return violations


def _of_fields(fields: Iterable[str], violations: list[Violation]) -> list[Violation]:
    return [violation for violation in violations if violation.field.startswith(tuple(fields))]


def changed_rollout(request: pb.UpdateJobRequest) -> pb.Rollout:
    """Return the part of the rollout that the update_mask names; nothing else is checked."""
    rollout = pb.Rollout()
    fields = {*request.update_mask.paths}
    if "rollout.stages" in fields:
        rollout.stages.extend(request.rollout.stages)
    if "rollout.max_in_progress" in fields and request.rollout.HasField("max_in_progress"):
        rollout.max_in_progress = request.rollout.max_in_progress
    return rollout
