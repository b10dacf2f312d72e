"""Decodes the columns of jobs.events that hold several values."""

import json
from collections.abc import Sequence
from typing import Any

# The order of `counts`.
_STATUSES = ("queued", "held", "in_progress", "succeeded", "failed", "timed_out", "rejected")


def execution_counts(counts: Sequence[int]) -> dict[str, int]:
    """Return the fields of ExecutionCounts."""
    return dict(zip(_STATUSES, counts, strict=False))


def event_details(details: str | None) -> dict[str, Any]:
    """Return the fields of an Event that only some types have. asyncpg returns jsonb as text."""
    fields: dict[str, Any] = json.loads(details) if details else {}
    return fields
