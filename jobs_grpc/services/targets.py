"""Reads the target of CreateJob and PreviewTarget: selectors, a list of devices, a failed job."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.contract.field_rules import rules_of
from jobs_grpc.db.store import Row
from jobs_grpc.errors import Violation
from jobs_grpc.limits.one_per_tenant import OnePerTenant
from jobs_grpc.services import selectors
from jobs_grpc.services.row_conversions import MessageFields

# See target_digest.sql.
_DIGEST = re.compile("[0-9]{1,10}-[0-9a-f]{16}-[0-9a-f]{16}")

_MAX_CODES = rules_of(pb.FailedIn, "failure_codes").repeated.max_items

MAX_TARGET_BYTES = 4 * selectors.MAX_CHARACTERS + _MAX_CODES * 66 + 200
"""The maximum size of the target of a Job: a character can have four bytes."""

# CreateJob looks up a list of at most this many devices without counting as an evaluation, and
# checks and converts it without a pause: about 1 ms.
_SMALL_LIST = 1000

_NOT_LIMITED = nullcontext(True)

TARGETS_WITH_SELECTOR = ("target_selector", "target_failed_in")

# CreateJobRequest or PreviewTargetRequest: they have the same fields for a target and a rollout.
TargetRequest: TypeAlias = Any

_FAILED_STATUSES = getattr(rules_of(pb.FailedIn, "statuses").repeated.items.enum, "in")


def check_target(request: TargetRequest) -> list[Violation]:
    """Check the selector of the target. rollout_validation checks those of stages."""
    field, text = target_selector(request)
    return selectors.check_selector(field, text, may_be_empty=not request.target_selector)


def check_expected_digest(request: pb.CreateJobRequest) -> list[Violation]:
    """Check that expected_target_digest, if it is set, can be the target_digest of a preview."""
    field, digest = "expected_target_digest", request.expected_target_digest
    if not digest or _DIGEST.fullmatch(digest):
        return []
    return [Violation(field, f"{field} must be the target_digest of a preview")]


def selector_terms(request: TargetRequest) -> str | None:
    """Return the terms of each selector of a valid request, by its text, as JSON; None: none."""
    texts = [target_selector(request)[1]]
    if request.HasField("rollout"):
        texts += [stage.selector for stage in request.rollout.stages]
    parsed = [selectors.parse(text) for text in texts if text]
    if not parsed:
        return None
    return json.dumps({selector.text: selector.sql_terms for selector in parsed})


def target_selector(request: TargetRequest) -> tuple[str, str]:
    """Return the field with the selector of the target, and its text."""
    if request.HasField("target_failed_in"):
        return "target_failed_in.selector", request.target_failed_in.selector
    return "target_selector", request.target_selector


def target_device_ids(request: TargetRequest) -> list[str] | None:
    """Return the devices of the list, sorted and without duplicates; None: another target."""
    if not request.HasField("target_device_ids"):
        return None
    return sorted({*request.target_device_ids.device_ids})


def has_large_list(request: TargetRequest) -> bool:
    """Whether other calls should run between the check of a list and its conversion."""
    return len(request.target_device_ids.device_ids) > _SMALL_LIST


def device_ids_json(device_ids: pb.DeviceIds) -> dict[str, Any]:
    """Convert a list to the form that is stored and compared: the number of devices and a hash."""
    unique = sorted({*device_ids.device_ids})
    # Device IDs have no control characters.
    digest = hashlib.sha256("\n".join(unique).encode())
    return {"count": len(unique), "sha256": digest.hexdigest()}


def failed_in_json(failed_in: pb.FailedIn) -> dict[str, Any]:
    """Convert a valid target_failed_in to the form that is stored and compared."""
    statuses = sorted({*failed_in.statuses} or _FAILED_STATUSES)
    fields: dict[str, Any] = {
        "job_id": failed_in.job_id,
        "statuses": [pb.JobExecution.Status.Name(status) for status in statuses],
    }
    if failed_in.failure_codes:
        fields["failure_codes"] = sorted({*failed_in.failure_codes})
    if text := selectors.parse(failed_in.selector).text:
        fields["selector"] = text
    return fields


TARGET_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "target_selector": lambda text: selectors.parse(text).text,
    "target_device_ids": device_ids_json,
    "target_failed_in": failed_in_json,
}
"""What converts a target for jobs.request. Texts without a conversion are stored as they are."""


def preview_fields(row: Row) -> MessageFields:
    """The fields of a TargetPreview, from a row of create_job.sql or preview_target.sql."""
    return {
        "device_count": row["execution_count"],
        "stage_sizes": row["stage_sizes"],
        "device_ids": row["device_ids"],
        "overlapping_job_ids": row["overlapping_job_ids"],
        "target_digest": row["target_digest"],
        "replaced_devices": json.loads(row.get("replaced_devices") or "null"),
    }


class EvaluationLimit:
    """Lets one call of each tenant evaluate a target: that can take a second of CPU time."""

    def __init__(self) -> None:
        self._calls = OnePerTenant()

    def evaluation(
        self, tenant_id: str, request: TargetRequest, *, is_preview: bool
    ) -> AbstractContextManager[bool]:
        """Context manager; yields whether the call may evaluate its target."""
        return self._calls.admit(tenant_id) if _is_costly(request, is_preview) else _NOT_LIMITED


def _is_costly(request: TargetRequest, is_preview: bool) -> bool:
    """Whether the evaluation of the target can read many devices."""
    if request.target_device_id:
        # This preview reads every device of the replaced job. PreviewTarget has no such field.
        return is_preview and bool(getattr(request, "replaces_job_id", ""))
    return (
        is_preview
        or request.HasField("target_failed_in")
        or has_large_list(request)
        or bool(request.target_selector)
        or any(stage.selector for stage in request.rollout.stages)
    )
