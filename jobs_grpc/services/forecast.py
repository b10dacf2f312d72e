"""Converts the shortest time of a rollout, from minimum_rollout_time.sql, to a Forecast."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from jobs_grpc.db.store import Row
from jobs_grpc.rollout_time import describe_stage_times, format_seconds
from jobs_grpc.services.row_conversions import MessageFields, timestamp_fields

# Of the stages in the summary. A rollout has up to 100.
_MAX_DESCRIBED_STAGES = 5


def forecast_fields(row: Row) -> MessageFields:
    """The fields of a Forecast, from a row of create_job.sql with validate_only."""
    minimum_time = json.loads(row["minimum_time"])
    seconds, stages = minimum_time["seconds"], minimum_time["stages"]
    last_start_at = timestamp_fields(row["start_at"] + round(seconds * 1_000_000))
    return {
        "last_start_at": last_start_at,
        "summary": _summary(last_start_at["seconds"], seconds, stages),
        "stages": [_stage_fields(stage) for stage in stages],
    }


def _summary(unix_seconds: int, seconds: float, stages: list[Mapping[str, Any]]) -> str:
    time = datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = f"The last device can start at {time} at the earliest"
    if not stages:
        return text
    described = describe_stage_times(stages[:_MAX_DESCRIBED_STAGES], len(stages))
    return f"{text}, after {format_seconds(seconds)}: {described}"


def _stage_fields(stage: Mapping[str, Any]) -> MessageFields:
    return {
        "stage": stage.get("stage", 0),
        "duration": _duration_fields(stage["seconds"]),
        "release_time": _duration_fields(stage.get("release_seconds")),
        "window_time": _duration_fields(stage.get("window_seconds")),
        "bake_time": _duration_fields(stage.get("bake_seconds")),
        "ends_with_advance_after": stage.get("advance_after", False),
    }


def _duration_fields(seconds: float | None) -> MessageFields:
    """The fields of a Duration, with microsecond precision; None without a time."""
    if not seconds:
        return None
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return {"seconds": whole, "nanos": micros * 1000}
