"""Converts the request of a job to the form that create_job.sql stores and compares.

Equal requests give equal JSON. A new field that has no message type needs nothing here.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.services.rollout_json import failure_criteria_json, rollout_json
from jobs_grpc.services.schedule import (
    UTC_ZONE,
    retry_policy_json,
    start_at_json,
    start_windows_array,
)
from jobs_grpc.services.targets import TARGET_CONVERSIONS, TargetRequest

DEFAULT_EXPIRES_IN_HOURS = 24

# The document is stored and compared by itself. The last two are not properties of the job.
_LEFT_OUT = {
    *("job_id", "document_params", "never_expires"),
    *("validate_only", "expected_target_digest"),
}

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "rollout": rollout_json,
    "failure_criteria": failure_criteria_json,
    "labels": dict,
    **TARGET_CONVERSIONS,
    # NORMAL is the same as unset.
    "priority": lambda priority: (
        None if priority == pb.Job.NORMAL else pb.Job.Priority.Name(priority)
    ),
    "start_at": start_at_json,
    "start_windows": start_windows_array,
    "retry_policy": retry_policy_json,
}


# Writes repeated fields as lists.
_encode = json.JSONEncoder(default=list).encode


def present_fields(request: TargetRequest) -> dict[str, Any]:
    """Return the fields that are set, by name."""
    return {field.name: value for field, value in request.ListFields()}


def job_request(fields: Mapping[str, Any]) -> str:
    """Convert the set fields of a valid request to JSON, without those that have no effect.

    `expires_in_hours` is 0 if the job never expires, which is the default of a continuous one. With
    a rollout, a start time, start windows or require_start_approval, it can be unset: the database
    then computes it, from what it knows at the first call or at the approval.
    """
    values = _values(fields)
    if "start_windows" in values:
        values.setdefault("window_time_zone", UTC_ZONE)
    if "never_expires" in fields:
        values["expires_in_hours"] = 0
    elif "continuous" in values:
        values.setdefault("expires_in_hours", 0)
    elif not values.keys() & {"rollout", "start_at", "start_windows", "require_start_approval"}:
        values.setdefault("expires_in_hours", DEFAULT_EXPIRES_IN_HOURS)
    return _encode(values)


def target_request(request: TargetRequest) -> str:
    """Convert the target and the rollout of a valid PreviewTargetRequest to the same JSON."""
    return _encode(_values(present_fields(request)))


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, value in fields.items():
        if name not in _LEFT_OUT:
            convert = _CONVERSIONS.get(name)
            converted = convert(value) if convert else value
            if converted not in (None, []):
                values[name] = converted
    return values
