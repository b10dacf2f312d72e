"""Describes the arithmetic of minimum_rollout_time.sql."""

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

_UNITS = (("d", 24 * 3600), ("h", 3600), ("min", 60), ("s", 1))


def describe_expiry(times: Mapping[str, Any]) -> str:
    """Say why a job expires too early. `times` is the HINT of check_expiry.sql, parsed."""
    terms = "; ".join(map(_describe_stage, times["stages"]))
    more = times["stage_count"] - len(times["stages"])
    return (
        f"The rollout takes at least {format_seconds(times['seconds'])}, but the job expires"
        f" in {format_seconds(times['seconds_left'])}: {terms}"
        + (f"; and {more} more" if more else "")
        + ". Let it expire later or never, or shorten the stages"
    )


def format_seconds(seconds: float) -> str:
    """Format a duration, such as "2 d 3 h"; fractions of a second are rounded up."""
    return " ".join(_parts(ceil(seconds))) or "0 s"


def _parts(seconds: int) -> Iterator[str]:
    for unit, size in _UNITS:
        if count := seconds // size:
            yield f"{count} {unit}"
        seconds %= size


def _describe_stage(stage: Mapping[str, Any]) -> str:
    name = f"stage {stage['stage']}"
    if "advance_after" in stage:
        return f"{name}: {format_seconds(stage['seconds'])} until advance_after"
    terms = []
    if "devices" in stage:
        devices, rate = int(stage["devices"]), stage["releases_per_minute"]
        time = format_seconds(stage["release_seconds"])
        terms.append(f"{time} for {devices:,} devices at {rate:,} per minute")
    if stage["bake_seconds"]:
        terms.append(f"{format_seconds(stage['bake_seconds'])} of bake_time")
    return f"{name}: {' + '.join(terms)}"
