"""Converts the request of a job to the form that create_job.sql stores and compares.

Equal requests give equal JSON. A new field that has no message type needs nothing here.
"""

import json
from collections.abc import Callable
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.services import selectors
from jobs_grpc.services.rollout_json import failure_criteria_json, rollout_json
from jobs_grpc.services.schedule import (
    UTC_ZONE,
    retry_policy_json,
    start_at_json,
    start_windows_array,
)
from jobs_grpc.services.targets import TargetRequest, device_ids_json, failed_in_json

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
    "target_selector": lambda text: selectors.parse(text).text,
    "target_device_ids": device_ids_json,
    "target_failed_in": failed_in_json,
    # NORMAL is the same as unset.
    "priority": lambda priority: (
        None if priority == pb.Job.NORMAL else pb.Job.Priority.Name(priority)
    ),
    "start_at": start_at_json,
    "start_windows": start_windows_array,
    "retry_policy": retry_policy_json,
}


def job_request(request: pb.CreateJobRequest) -> str:
    """Convert a valid request to JSON, without the fields that are unset or have no effect.

    `expires_in_hours` is 0 if the job never expires. With a rollout, a start time or start windows,
    it can be unset: the database then computes it, from what it knows at the first call.
    """
    fields = _fields(request)
    if "start_windows" in fields:
        fields.setdefault("window_time_zone", UTC_ZONE)
    if request.never_expires:
        fields["expires_in_hours"] = 0
    elif not fields.keys() & {"rollout", "start_at", "start_windows"}:
        fields.setdefault("expires_in_hours", DEFAULT_EXPIRES_IN_HOURS)
    return json.dumps(fields)


def target_request(request: TargetRequest) -> str:
    """Convert the target and the rollout of a valid PreviewTargetRequest to the same JSON."""
    return json.dumps(_fields(request))


def _fields(request: Any) -> dict[str, Any]:
    fields = {
        field.name: _json(field, value)
        for field, value in request.ListFields()
        if field.name not in _LEFT_OUT
    }
    return {name: value for name, value in fields.items() if value not in (None, [])}


def _json(field: Any, value: Any) -> Any:
    if convert := _CONVERSIONS.get(field.name):
        return convert(value)
    return list(value) if field.is_repeated else value
