"""Converts rollouts and failure criteria to values of the JSON that SQL functions take.

Equal requests give equal JSON: a field that is unset, or has the default that the contract
documents, is written as that default or left out.
"""

from collections.abc import Sequence
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.contract.field_rules import rules_of
from jobs_grpc.services import selectors

# The statuses of failures.
_STATUSES = getattr(rules_of(pb.FailureCriterion, "statuses").repeated.items.enum, "in")


def rollout_json(rollout: pb.Rollout) -> dict[str, Any]:
    """Convert a valid rollout. Its stages are objects with the columns of jobs.job_stages."""
    fields: dict[str, Any] = {"stages": [_stage(stage) for stage in rollout.stages]}
    if rollout.HasField("max_in_progress"):
        fields["max_in_progress"] = rollout.max_in_progress
    if rollout.seed:
        fields["seed"] = rollout.seed
    return fields


def failure_criteria_json(criteria: Sequence[pb.FailureCriterion]) -> list[dict[str, Any]]:
    """Convert valid criteria: a list of objects with the columns of jobs.job_failure_criteria."""
    return [_criterion(criterion) for criterion in criteria]


def _stage(stage: pb.Stage) -> dict[str, Any]:
    fields: dict[str, Any] = {"display_name": stage.display_name}
    size = stage.WhichOneof("size")
    if size is not None and size != "remainder":
        fields[size] = getattr(stage, size)
    if stage.selector:
        fields["selector"] = selectors.parse(stage.selector).text
    if stage.allow_empty:
        fields["allow_empty"] = True
    if stage.HasField("releases_per_minute"):
        fields["releases_per_minute"] = stage.releases_per_minute
    gate = stage.gate
    if gate.HasField("min_succeeded_percent"):
        fields["min_succeeded_percent"] = gate.min_succeeded_percent
    if gate.bake_time.seconds:
        fields["bake_seconds"] = gate.bake_time.seconds
    if gate.HasField("advance_after"):
        fields["advance_after_seconds"] = gate.advance_after.seconds
    for name in ("require_approval", "allow_self_approval"):
        if getattr(gate, name):
            fields[name] = True
    return fields


def _criterion(criterion: pb.FailureCriterion) -> dict[str, Any]:
    threshold = "percent" if criterion.HasField("percent") else "count"
    statuses = sorted({*criterion.statuses} or _STATUSES)
    return {
        "statuses": [pb.JobExecution.Status.Name(status) for status in statuses],
        "failure_codes": sorted({*criterion.failure_codes}),
        threshold: getattr(criterion, threshold),
        "basis": pb.FailureCriterion.Basis.Name(
            criterion.basis or pb.FailureCriterion.Basis.FINISHED
        ),
        "min_finished": criterion.min_finished,
        "scope": pb.FailureCriterion.Scope.Name(criterion.scope or pb.FailureCriterion.Scope.JOB),
        "action": pb.FailureCriterion.Action.Name(
            criterion.action or pb.FailureCriterion.Action.PAUSE
        ),
    }
