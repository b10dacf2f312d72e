"""Decodes the JSON columns of jobs.events, which asyncpg returns as text."""

import json
from typing import Any

# The order of `counts`.
_STATUSES = ("queued", "held", "in_progress", "succeeded", "failed", "timed_out", "rejected")


def execution_counts(counts: str) -> dict[str, int]:
    """Return the fields of ExecutionCounts."""
    return dict(zip(_STATUSES, json.loads(counts), strict=False))


def event_details(details: str | None) -> dict[str, Any]:
    """Return the fields of an Event that only some types have."""
    fields: dict[str, Any] = json.loads(details) if details else {}
    return fields
