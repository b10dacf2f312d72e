"""Checks of rollouts and failure criteria whose fields are within their limits."""

from collections.abc import Sequence

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.contract.field_rules import rules_of
from jobs_grpc.errors import Violation
from jobs_grpc.services.selectors import check_selector

# Enough for 100 stages with names and group IDs of 60 bytes each. Messages of this size are parsed,
# stored and sent with each change to each watch.
MAX_ROLLOUT_BYTES = 16 * 1024
# Enough for 10 criteria with 20 codes of 30 characters each.
MAX_CRITERIA_BYTES = 8 * 1024

MAX_APPROVALS = 20
# Each is a condition for each device.
MAX_SELECTORS = 10

_MAX_SELECTOR_LENGTH = rules_of(pb.Stage, "selector").string.max_len


def check_rollout(rollout: pb.Rollout) -> list[Violation]:
    """Check a rollout, except whether its stages have room for the devices."""
    if violations := _check_size("rollout", rollout.ByteSize(), MAX_ROLLOUT_BYTES):
        return violations
    field, violations = "rollout.stages", []
    for index, stage in enumerate(rollout.stages):
        violations += _check_stage(f"{field}[{index}]", stage)
    if sum(stage.gate.require_approval for stage in rollout.stages) > MAX_APPROVALS:
        problem = f"At most {MAX_APPROVALS} of {field} can require an approval"
        violations.append(Violation(field, problem))
    if sum(stage.HasField("selector") for stage in rollout.stages) > MAX_SELECTORS:
        problem = f"At most {MAX_SELECTORS} of {field} can have a selector"
        violations.append(Violation(field, problem))
    return violations + (_check_sizes(rollout.stages) or _check_last_stage(rollout.stages))


def check_failure_criteria(
    criteria: Sequence[pb.FailureCriterion], *, with_stages: bool
) -> list[Violation]:
    """Check the failure criteria of a job with or without a rollout."""
    size = sum(criterion.ByteSize() for criterion in criteria)
    violations = _check_size("failure_criteria", size, MAX_CRITERIA_BYTES)
    for index, criterion in enumerate(criteria):
        violations += _check_criterion(f"failure_criteria[{index}]", criterion, with_stages)
    return violations


def has_time_gate(rollout: pb.Rollout) -> bool:
    """Whether a gate has a bake_time or an advance_after, which need maintenance."""
    return any(_has_time(stage.gate) for stage in rollout.stages)


def requires_approval(rollout: pb.Rollout) -> bool:
    """Whether a gate requires an approval."""
    return any(stage.gate.require_approval for stage in rollout.stages)


def _check_size(field: str, size: int, limit: int) -> list[Violation]:
    if size > limit:
        problem = f"{field} must be at most {limit:,} bytes, encoded as protobuf, but is {size:,}"
        return [Violation(field, problem)]
    return []


def _has_time(gate: pb.Gate) -> bool:
    return bool(gate.bake_time.seconds) or gate.HasField("advance_after")


def _check_stage(path: str, stage: pb.Stage) -> list[Violation]:
    violations = []
    if stage.allow_empty and stage.WhichOneof("size") not in ("group_id", "selector"):
        problem = f"{path}.allow_empty is allowed only with group_id or selector"
        violations.append(Violation(f"{path}.allow_empty", problem))
    if stage.gate.allow_self_approval and not stage.gate.require_approval:
        field = f"{path}.gate.allow_self_approval"
        violations.append(Violation(field, f"{field} is allowed only with require_approval"))
    if stage.HasField("selector"):
        violations += check_selector(f"{path}.selector", stage.selector, _MAX_SELECTOR_LENGTH)
    return violations


def _check_sizes(stages: Sequence[pb.Stage]) -> list[Violation]:
    """Check that a remainder is last, and that percents without one add up to 100."""
    for index, stage in enumerate(stages[:-1]):
        if stage.WhichOneof("size") == "remainder":
            field = f"rollout.stages[{index}].remainder"
            return [Violation(field, f"{field} is allowed only in the last stage")]
    percent = 0
    for index, stage in enumerate(stages):
        percent += stage.percent
        if percent > 100:
            field = f"rollout.stages[{index}].percent"
            return [Violation(field, f"The percents up to {field} add up to {percent}, not 100")]
    if percent < 100 and all(stage.WhichOneof("size") == "percent" for stage in stages):
        problem = f"The percents add up to {percent}, not 100; add a stage with remainder"
        return [Violation("rollout.stages", problem)]
    return []


def _check_last_stage(stages: Sequence[pb.Stage]) -> list[Violation]:
    if stages[-1].HasField("gate"):
        field = f"rollout.stages[{len(stages) - 1}].gate"
        return [Violation(field, f"{field} is not allowed in the last stage")]
    return []


def _check_criterion(
    path: str, criterion: pb.FailureCriterion, with_stages: bool
) -> list[Violation]:
    violations = []
    for field in ("basis", "min_finished"):
        if getattr(criterion, field) and not criterion.HasField("percent"):
            problem = f"{path}.{field} is allowed only with percent"
            violations.append(Violation(f"{path}.{field}", problem))
    if criterion.scope == pb.FailureCriterion.STAGE and not with_stages:
        problem = f"{path}.scope STAGE is allowed only with a rollout"
        violations.append(Violation(f"{path}.scope", problem))
    return violations
