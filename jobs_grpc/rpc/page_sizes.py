"""Estimates the size of responses from the limits of requests."""

from collections.abc import Callable
from typing import Any

from jobs_grpc.byte_budget import response_bytes
from jobs_grpc.services.device_jobs import DEFAULT_PENDING_LIMIT
from jobs_grpc.services.jobs import (
    DEFAULT_ATTEMPTS_LIMIT,
    DEFAULT_EXECUTIONS_LIMIT,
    DEFAULT_JOBS_LIMIT,
    MAX_SUMMARY_BYTES,
)
from jobs_grpc.services.pagination import max_page_bytes

# The methods that return a page: the field of the request that limits its items, and the default.
_LIMITS = {
    "/fleet.jobs.v1.JobService/GetJob": ("executions_limit", DEFAULT_EXECUTIONS_LIMIT),
    "/fleet.jobs.v1.JobService/ListJobs": ("limit", DEFAULT_JOBS_LIMIT),
    "/fleet.jobs.v1.JobService/ListJobExecutions": ("limit", DEFAULT_EXECUTIONS_LIMIT),
    "/fleet.jobs.v1.JobService/ListExecutionAttempts": ("limit", DEFAULT_ATTEMPTS_LIMIT),
    "/fleet.jobs.v1.DeviceJobService/ListPendingExecutions": ("limit", DEFAULT_PENDING_LIMIT),
}

# The methods whose response is large without being a page: the maximum size.
_MAX_BYTES = {"/fleet.jobs.v1.JobService/GetFailureSummary": MAX_SUMMARY_BYTES}

SINGLE_ITEM_BYTES = response_bytes(max_page_bytes(0))
"""The memory of other responses, except with the largest of documents."""


def page_size_estimator(method: str) -> Callable[[Any], int] | None:
    """Return a function from a request to the maximum memory of its response.

    None if the response has at most SINGLE_ITEM_BYTES.
    """
    if method in _MAX_BYTES:
        return lambda _: response_bytes(_MAX_BYTES[method])
    if method not in _LIMITS:
        return None
    field, default = _LIMITS[method]

    def estimate(request: Any) -> int:
        limit = getattr(request, field) if request.HasField(field) else default
        return response_bytes(max_page_bytes(limit))

    return estimate
