"""Describes in words what takes time in a rollout, as minimum_rollout_time.sql computes it."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any


def describe_stage_times(stages: Sequence[Mapping[str, Any]], count: int) -> str:
    """Describe the stages that take time: the first ones, of `count` in total."""
    more = count - len(stages)
    return "; ".join(map(_describe_stage, stages)) + (f"; and {more} more" if more else "")


def format_seconds(seconds: float) -> str:
    """Format a duration, such as "2 d 3 h"; fractions of a second are rounded up."""
    rest, parts = ceil(seconds), []
    for unit, size in (("d", 24 * 3600), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts) or "0 s"


def _describe_stage(stage: Mapping[str, Any]) -> str:
    # Without a rollout, a job has one stage without a number.
    name = f"stage {stage['stage']}: " if "stage" in stage else ""
    if "advance_after" in stage:
        return f"{name}{format_seconds(stage['seconds'])} until advance_after"
    terms = []
    if "devices" in stage:
        devices, rate = int(stage["devices"]), stage["releases_per_minute"]
        time = format_seconds(stage["release_seconds"])
        terms.append(f"{time} for {devices:,} devices at {rate:,} per minute")
    if "window_seconds" in stage:
        terms.append(f"{format_seconds(stage['window_seconds'])} until a start window opens")
    if stage["bake_seconds"]:
        terms.append(f"{format_seconds(stage['bake_seconds'])} of bake_time")
    return f"{name}{' + '.join(terms)}"
