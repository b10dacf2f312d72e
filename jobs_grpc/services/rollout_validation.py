"""Checks of rollouts and failure criteria. Each function returns the violations it finds."""

from collections.abc import Sequence

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.errors import Violation
from jobs_grpc.services.validation import (
    MAX_FAILURE_CODES,
    MAX_ID_LENGTH,
    MAX_STATUSES,
    RETRYABLE_STATUSES,
    check_failure_code,
    check_range,
    check_text,
)

# Enough for 100 stages with names and group IDs of 60 bytes each. Messages of this size are parsed,
# stored and sent with each change to each watch.
MAX_ROLLOUT_BYTES = 16 * 1024
# Enough for 10 criteria with 20 codes of 30 characters each.
MAX_CRITERIA_BYTES = 8 * 1024

MAX_STAGES = 100
MAX_APPROVALS = 20
MAX_CRITERIA = 10
MAX_COUNT = 1_000_000
MAX_SEED_LENGTH = 128
MAX_DISPLAY_NAME_LENGTH = 100
MAX_GATE_SECONDS = 30 * 24 * 3600


def check_stage(stage: int) -> list[Violation]:
    """Check the index of a stage."""
    return check_range("stage", stage, 0, MAX_STAGES - 1)


def check_rollout(rollout: pb.Rollout) -> list[Violation]:
    """Check a rollout, except whether its stages have room for the devices."""
    field = "rollout.stages"
    if violations := _check_size("rollout", rollout.ByteSize(), MAX_ROLLOUT_BYTES):
        return violations
    if not 1 <= len(rollout.stages) <= MAX_STAGES:
        return [Violation(field, f"{field} must have 1–{MAX_STAGES} stages")]
    violations = []
    for index, stage in enumerate(rollout.stages):
        violations += _check_stage(f"{field}[{index}]", stage)
    if sum(stage.gate.require_approval for stage in rollout.stages) > MAX_APPROVALS:
        problem = f"At most {MAX_APPROVALS} of {field} can require an approval"
        violations.append(Violation(field, problem))
    violations += _check_sizes(rollout.stages) or _check_last_stage(rollout.stages)
    if rollout.HasField("max_in_progress"):
        violations += check_range("rollout.max_in_progress", rollout.max_in_progress, 1, MAX_COUNT)
    if len(rollout.seed) > MAX_SEED_LENGTH or "\0" in rollout.seed:
        problem = f"rollout.seed must be at most {MAX_SEED_LENGTH} characters without U+0000"
        violations.append(Violation("rollout.seed", problem))
    return violations


def check_failure_criteria(
    criteria: Sequence[pb.FailureCriterion], *, with_stages: bool
) -> list[Violation]:
    """Check the failure criteria of a job with or without a rollout."""
    field = "failure_criteria"
    size = sum(criterion.ByteSize() for criterion in criteria)
    if violations := _check_size(field, size, MAX_CRITERIA_BYTES):
        return violations
    if len(criteria) > MAX_CRITERIA:
        return [Violation(field, f"{field} must have at most {MAX_CRITERIA} elements")]
    violations = []
    for index, criterion in enumerate(criteria):
        violations += _check_criterion(f"{field}[{index}]", criterion, with_stages)
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
    if stage.display_name:
        violations += check_text(
            f"{path}.display_name", stage.display_name, MAX_DISPLAY_NAME_LENGTH
        )
    match stage.WhichOneof("size"):
        case "device_count":
            violations += check_range(f"{path}.device_count", stage.device_count, 1, MAX_COUNT)
        case "percent":
            violations += check_range(f"{path}.percent", stage.percent, 1, 100)
        case "group_id":
            violations += check_text(f"{path}.group_id", stage.group_id, MAX_ID_LENGTH)
        case "remainder" if stage.remainder:
            pass
        case _:
            problem = "Exactly one of device_count, percent, remainder, group_id must be set"
            violations.append(Violation(path, problem))
    if stage.allow_empty and stage.WhichOneof("size") != "group_id":
        problem = f"{path}.allow_empty is allowed only with group_id"
        violations.append(Violation(f"{path}.allow_empty", problem))
    if stage.HasField("releases_per_minute"):
        violations += check_range(
            f"{path}.releases_per_minute", stage.releases_per_minute, 1, MAX_COUNT
        )
    return violations + _check_gate(f"{path}.gate", stage.gate)


def _check_gate(path: str, gate: pb.Gate) -> list[Violation]:
    violations = []
    if gate.HasField("min_succeeded_percent"):
        violations += check_range(
            f"{path}.min_succeeded_percent", gate.min_succeeded_percent, 1, 100
        )
    if gate.HasField("bake_time"):
        violations += _check_duration(f"{path}.bake_time", gate.bake_time, low=0)
    if gate.HasField("advance_after"):
        violations += _check_duration(f"{path}.advance_after", gate.advance_after, low=1)
    if gate.allow_self_approval and not gate.require_approval:
        problem = f"{path}.allow_self_approval is allowed only with require_approval"
        violations.append(Violation(f"{path}.allow_self_approval", problem))
    return violations


def _check_duration(field: str, duration: Duration, low: int) -> list[Violation]:
    if duration.nanos or not low <= duration.seconds <= MAX_GATE_SECONDS:
        problem = f"{field} must be {low}–{MAX_GATE_SECONDS} whole seconds"
        return [Violation(field, problem)]
    return []


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
    if len(criterion.statuses) > MAX_STATUSES:
        problem = f"{path}.statuses must have at most {MAX_STATUSES} elements"
        violations.append(Violation(f"{path}.statuses", problem))
    elif not all(status in RETRYABLE_STATUSES for status in criterion.statuses):
        names = ", ".join(map(pb.JobExecution.Status.Name, RETRYABLE_STATUSES))
        problem = f"{path}.statuses must be some of {names}"
        violations.append(Violation(f"{path}.statuses", problem))
    if len(criterion.failure_codes) > MAX_FAILURE_CODES:
        problem = f"{path}.failure_codes must have at most {MAX_FAILURE_CODES} elements"
        violations.append(Violation(f"{path}.failure_codes", problem))
    else:
        for index, code in enumerate(criterion.failure_codes):
            violations += check_failure_code(f"{path}.failure_codes[{index}]", code)
    return (
        violations + _check_threshold(path, criterion) + _check_enums(path, criterion, with_stages)
    )


def _check_threshold(path: str, criterion: pb.FailureCriterion) -> list[Violation]:
    match criterion.WhichOneof("threshold"):
        case "percent":
            return check_range(f"{path}.percent", criterion.percent, 1, 100) + check_range(
                f"{path}.min_finished", criterion.min_finished, 0, MAX_COUNT
            )
        case "count":
            violations = check_range(f"{path}.count", criterion.count, 1, MAX_COUNT)
            for field in ("basis", "min_finished"):
                if getattr(criterion, field):
                    problem = f"{path}.{field} is allowed only with percent"
                    violations.append(Violation(f"{path}.{field}", problem))
            return violations
    return [Violation(path, "Exactly one of percent, count must be set")]


def _check_enums(path: str, criterion: pb.FailureCriterion, with_stages: bool) -> list[Violation]:
    violations = []
    for field, enum in (
        ("basis", pb.FailureCriterion.Basis),
        ("scope", pb.FailureCriterion.Scope),
        ("action", pb.FailureCriterion.Action),
    ):
        if getattr(criterion, field) not in enum.values():
            allowed = ", ".join(enum.keys()[1:])
            problem = f"{path}.{field} must be one of {allowed}"
            violations.append(Violation(f"{path}.{field}", problem))
    if criterion.scope == pb.FailureCriterion.STAGE and not with_stages:
        problem = f"{path}.scope STAGE is allowed only with a rollout"
        violations.append(Violation(f"{path}.scope", problem))
    return violations
