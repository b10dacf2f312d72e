"""Converts the request of a job to the form that create_job.sql stores and compares.

Equal requests give equal JSON. A new field that has no message type needs nothing here.
"""

import json
from collections.abc import Callable
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.services.rollout_json import failure_criteria_json, rollout_json

DEFAULT_EXPIRES_IN_HOURS = 24

# The document is stored and compared by itself. validate_only is not a property of the job.
_LEFT_OUT = {"job_id", "document_params", "never_expires", "validate_only"}

_MESSAGES: dict[str, Callable[[Any], Any]] = {
    "rollout": rollout_json,
    "failure_criteria": failure_criteria_json,
    "labels": dict,
}


def job_request(request: pb.CreateJobRequest) -> str:
    """Convert a valid request to JSON, without the fields that are unset.

    `expires_in_hours` is 0 if the job never expires. With a rollout it can be unset: the database
    then computes it, from the devices at the first call.
    """
    fields: dict[str, Any] = {
        field.name: _json(field, value)
        for field, value in request.ListFields()
        if field.name not in _LEFT_OUT
    }
    if request.never_expires:
        fields["expires_in_hours"] = 0
    elif not request.HasField("rollout"):
        fields.setdefault("expires_in_hours", DEFAULT_EXPIRES_IN_HOURS)
    return json.dumps(fields)


def _json(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _MESSAGES[field.name](value)
    return list(value) if field.is_repeated else value
