"""Estimates the size of responses from the limits of requests."""

from collections.abc import Callable
from typing import Any

from jobs_grpc.limits.memory_limit import response_bytes
from jobs_grpc.services.device_jobs import DEFAULT_PENDING_LIMIT
from jobs_grpc.services.jobs import (
    DEFAULT_ATTEMPTS_LIMIT,
    DEFAULT_EXECUTIONS_LIMIT,
    DEFAULT_JOBS_LIMIT,
    MAX_SUMMARY_BYTES,
)
from jobs_grpc.services.pagination import MAX_RESPONSE_BYTES, max_page_bytes
from jobs_grpc.services.rollout_conversions import MAX_DETAILS_BYTES

# The methods that return a page: the field of the request that limits its items, and the default.
_LIMITS = {
    "/fleet.jobs.v1.JobService/GetJob": ("executions_limit", DEFAULT_EXECUTIONS_LIMIT),
    "/fleet.jobs.v1.JobService/ListJobs": ("limit", DEFAULT_JOBS_LIMIT),
    "/fleet.jobs.v1.JobService/ListJobExecutions": ("limit", DEFAULT_EXECUTIONS_LIMIT),
    "/fleet.jobs.v1.JobService/ListExecutionAttempts": ("limit", DEFAULT_ATTEMPTS_LIMIT),
    "/fleet.jobs.v1.DeviceJobService/ListPendingExecutions": ("limit", DEFAULT_PENDING_LIMIT),
}

# The methods that return a job with its rollout and its failure criteria.
_METHODS_WITH_DETAILS = {
    f"/fleet.jobs.v1.JobService/{name}"
    for name in ("GetJob", "PauseJob", "ResumeJob", "AdvanceJob", "ApproveStage", "UpdateJob")
}

# The methods whose response is large without being a page: the maximum size.
_MAX_BYTES = {"/fleet.jobs.v1.JobService/GetFailureSummary": MAX_SUMMARY_BYTES} | {
    method: max_page_bytes(0) + MAX_DETAILS_BYTES for method in _METHODS_WITH_DETAILS
}

SINGLE_ITEM_BYTES = response_bytes(max_page_bytes(0))
"""The memory of other responses, except with the largest of documents."""


def page_size_estimator(method: str) -> Callable[[Any], int] | None:
    """Return a function from a request to the maximum memory of its response.

    None if the response has at most SINGLE_ITEM_BYTES.
    """
    if method not in _LIMITS:
        max_bytes = _MAX_BYTES.get(method)
        return (lambda _: response_bytes(max_bytes)) if max_bytes else None
    field, default = _LIMITS[method]
    details = MAX_DETAILS_BYTES if method in _METHODS_WITH_DETAILS else 0

    def estimate(request: Any) -> int:
        limit = getattr(request, field) if request.HasField(field) else default
        return response_bytes(min(max_page_bytes(limit) + details, MAX_RESPONSE_BYTES))

    return estimate
