"""Estimates the size of responses from the limits of requests."""

from collections.abc import Callable
from typing import Any

from jobs_grpc.contract.methods import METHODS, page_size
from jobs_grpc.limits.memory_limit import response_bytes
from jobs_grpc.services.response_pages import MAX_ITEM_BYTES, MAX_RESPONSE_BYTES

SINGLE_ITEM_BYTES = response_bytes(MAX_ITEM_BYTES)
"""The memory of other responses, except with the largest of documents."""


def page_size_estimator(method: str) -> Callable[[Any], int] | None:
    """Return a function from a request to the maximum memory of its response.

    None if the response has at most SINGLE_ITEM_BYTES.
    """
    rules = METHODS.get(method)
    if not rules or not (rules.paged or rules.content_bytes):
        return None
    first_bytes = rules.content_bytes or MAX_ITEM_BYTES

    def estimate(request: Any) -> int:
        items = max(page_size(request), 0) if rules.paged else 0
        return response_bytes(min(first_bytes + items * MAX_ITEM_BYTES, MAX_RESPONSE_BYTES))

    return estimate
