"""Converts the rollout and the failure criteria of a job to the fields of protobuf messages."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fleet.jobs.v1.jobs_pb2 import FailureCriterion, JobStage

from jobs_grpc.db.store import Row
from jobs_grpc.services.job_waits import add_waits
from jobs_grpc.services.row_conversions import (
    EXECUTION_COUNTS,
    EXECUTION_STATUS_NUMBERS,
    MessageFields,
    job_fields,
    timestamp_fields,
)

_BASIS_NUMBERS = dict(FailureCriterion.Basis.items())
_SCOPE_NUMBERS = dict(FailureCriterion.Scope.items())
_ACTION_NUMBERS = dict(FailureCriterion.Action.items())

MAX_DETAILS_BYTES = 104_000
"""The maximum size of the rollout, stages, failure criteria, criterion states, trip, waits and
approval of the start of a Job.

tests/rpc/test_response_sizes.py creates the largest ones.
"""

# Columns of jobs.job_stages.
_PENDING_COUNTS = ("held", "queued", "in_progress")


def job_details_fields(row: Row) -> MessageFields:
    """The fields of a Job with its rollout and failure criteria, from a row of jobs.job_details."""
    fields = job_fields(row)
    encoded = row["rollout_details"]
    details = None if encoded is None else json.loads(encoded)
    add_waits(fields, row, details)
    if details is None:
        return fields
    stages = details["stages"]
    return fields | {
        "rollout": _rollout_fields(details) if stages else None,
        "failure_criteria": [_criterion_fields(c) for c in details["failure_criteria"] or ()],
        "criterion_states": [_criterion_state_fields(s) for s in details["criterion_states"] or ()],
        "stages": list(_stage_states(details, row["status"], row["continuous"]))
        if stages
        else None,
    }


def _rollout_fields(details: Mapping[str, Any]) -> MessageFields:
    return {
        "stages": [_stage_fields(stage) for stage in details["stages"]],
        "max_in_progress": details["max_in_progress"],
        "seed": details["seed"],
    }


def _stage_fields(stage: Mapping[str, Any]) -> MessageFields:
    sizes = [stage[size] for size in ("device_count", "percent", "group_id", "selector")]
    return {
        "display_name": stage["display_name"],
        "device_count": stage["device_count"],
        "percent": stage["percent"],
        "remainder": True if sizes == [None] * 4 else None,
        "group_id": stage["group_id"],
        "selector": stage["selector"],
        "releases_per_minute": stage["releases_per_minute"],
        "gate": _gate_fields(stage),
        "allow_empty": stage["allow_empty"],
    }


def _gate_fields(stage: Mapping[str, Any]) -> MessageFields:
    """The fields of a Gate; None if no field is set."""
    gate = {
        "min_succeeded_percent": stage["min_succeeded_percent"],
        "bake_time": _duration_fields(stage["bake_seconds"] or None),
        "advance_after": _duration_fields(stage["advance_after_seconds"]),
        "require_approval": stage["require_approval"] or None,
        "allow_self_approval": stage["allow_self_approval"] or None,
    }
    return gate if any(setting is not None for setting in gate.values()) else None


def _duration_fields(seconds: int | None) -> MessageFields:
    return None if seconds is None else {"seconds": seconds}


def _stage_states(
    details: Mapping[str, Any], job_status: str, is_continuous: bool
) -> Iterator[MessageFields]:
    """The fields of each JobStage."""
    stages, open_stage = details["stages"], details["open_stage"]
    for number, stage in enumerate(stages):
        is_open = number == open_stage
        is_last = number == len(stages) - 1
        is_finished = not any(stage[count] for count in _PENDING_COUNTS)
        if is_finished and job_status in ("COMPLETED", "CANCELED"):
            # The job can end before the gates are checked. Its later stages do not open anymore.
            state = JobStage.PASSED
        elif number > open_stage:
            state = JobStage.PENDING
        elif is_open and (is_continuous or not (is_last and is_finished)):
            state = JobStage.OPEN
        else:
            state = JobStage.PASSED
        approved = stage["approved_at"] is not None
        opens_by_time = is_open and not is_last and (approved or not stage["require_approval"])
        yield {
            "display_name": stage["display_name"],
            "state": state,
            "total_executions": stage["total_executions"],
            "execution_counts": {count: stage[count] for count in EXECUTION_COUNTS},
            "released_count": stage["released"],
            "opened_at": timestamp_fields(stage["opened_at"]),
            "next_opens_at": timestamp_fields(details["stage_due_at"] if opens_by_time else None),
            "awaiting_approval": is_open and details["awaiting_approval"],
            "approval": _approval_fields(stage) if approved else None,
            "retrying_count": stage["retrying"],
        }


def _approval_fields(stage: Mapping[str, Any]) -> MessageFields:
    return {
        "approved_at": timestamp_fields(stage["approved_at"]),
        "approved_by": stage["approved_by"],
        "comment": stage["approval_comment"],
    }


def _criterion_fields(criterion: Mapping[str, Any]) -> MessageFields:
    return {
        "statuses": [EXECUTION_STATUS_NUMBERS[status] for status in criterion["statuses"]],
        "failure_codes": criterion["failure_codes"],
        "percent": criterion["percent"],
        "count": criterion["count"],
        "basis": _BASIS_NUMBERS.get(criterion["basis"]),
        "min_finished": criterion["min_finished"],
        "scope": _SCOPE_NUMBERS.get(criterion["scope"]),
        "action": _ACTION_NUMBERS.get(criterion["action"]),
    }


def _criterion_state_fields(state: Mapping[str, Any]) -> MessageFields:
    return {
        "criterion_index": state["criterion"],
        "stage": state["stage"],
        "failure_count": state["failures"],
        "basis_count": state["basis_size"],
        "threshold": state["threshold"],
    }
