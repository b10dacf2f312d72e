"""Checks of UpdateJob: its update_mask and the fields that the mask names."""

import json
from collections.abc import Iterable
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.contract.field_rules import check
from jobs_grpc.errors import Violation
from jobs_grpc.services.rollout_validation import check_failure_criteria, check_rollout
from jobs_grpc.services.row_conversions import to_pg_micros
from jobs_grpc.services.schedule import (
    UTC_ZONE,
    check_retry_policy,
    check_start_windows,
    check_window_time_zone,
    retry_policy_json,
    start_windows_array,
)
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
    if "start_at" in fields and not request.HasField("start_at"):
        # A forgotten value must not start the job.
        problem = "start_at is required; with the current time, the job starts now"
        violations.append(Violation("start_at", problem))
    if "start_windows" in fields:
        violations += check_start_windows(request.start_windows)
    if "window_time_zone" in fields:
        has_windows = "start_windows" not in fields or bool(request.start_windows)
        violations += check_window_time_zone(request.window_time_zone, has_windows)
    if "retry_policy" in fields:
        violations += check_retry_policy(request.retry_policy)
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


def changed_schedule(request: pb.UpdateJobRequest) -> dict[str, Any]:
    """Return the arguments of update_job.sql for the start, the windows and the retry policy.

    None for those that the update_mask does not name, and for no start time and no windows.
    """
    fields, zone = {*request.update_mask.paths}, request.window_time_zone or UTC_ZONE
    windows, rules = (
        start_windows_array(request.start_windows) if "start_windows" in fields else [],
        retry_policy_json(request.retry_policy) if "retry_policy" in fields else None,
    )
    return {
        "start_at": to_pg_micros(request, "start_at") if "start_at" in fields else None,
        "start_windows": windows or None,
        "window_time_zone": zone if "window_time_zone" in fields else None,
        "retry_policy": None if rules is None else json.dumps(rules),
    }
