"""What the model's settings look like in requests."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.machine.clock import timestamp
from tests.model.criteria import Criterion
from tests.model.execution import Seconds
from tests.model.retries import Rule
from tests.model.stages import Stage
from tests.model.targets import Term
from tests.model.windows import Window
from tests.support import random_selectors


def criterion(each: Criterion) -> pb.FailureCriterion:
    fields: dict[str, Any] = {
        "statuses": each.statuses,
        "failure_codes": each.codes,
        "scope": each.scope,
        "action": each.action,
    }
    if each.percent is None:
        fields["count"] = each.count
    else:
        percent, basis = each.percent, each.basis
        fields |= {"percent": percent, "basis": basis, "min_finished": each.min_finished}
    return pb.FailureCriterion(**fields)


def retry_policy(rules: Iterable[Rule]) -> pb.RetryPolicy:
    return pb.RetryPolicy(
        rules=[
            pb.RetryRule(
                statuses=[pb.JobExecution.Status.Value(status) for status in rule.statuses],
                failure_codes=rule.codes,
                max_attempts=rule.max_attempts,
                initial_backoff=_duration(rule.initial_backoff),
                backoff_multiplier=rule.multiplier,
                max_backoff=_duration(rule.max_backoff),
            )
            for rule in rules
        ]
    )


def rollout(stages: Sequence[Stage], seed: str, limit: int | None = None) -> pb.Rollout:
    """A rollout. Its last stage has no gate."""
    return pb.Rollout(
        stages=[
            _stage(stage, has_gate=number < len(stages)) for number, stage in enumerate(stages, 1)
        ],
        seed=seed,
        max_in_progress=limit,
    )


def _stage(stage: Stage, *, has_gate: bool) -> pb.Stage:
    fields: dict[str, Any] = {"releases_per_minute": stage.rate}
    if stage.count is not None:
        fields["device_count"] = stage.count
    elif stage.percent is not None:
        fields["percent"] = stage.percent
    elif stage.claim is not None:
        fields |= _claim(stage.claim)
    else:
        fields["remainder"] = True
    if has_gate:
        advance_after = stage.advance_after
        fields["gate"] = pb.Gate(
            min_succeeded_percent=stage.min_succeeded_percent,
            bake_time=_duration(stage.bake),
            advance_after=None if advance_after is None else _duration(advance_after),
            require_approval=stage.require_approval,
        )
    return pb.Stage(**fields)


def _claim(terms: tuple[Term, ...]) -> dict[str, Any]:
    match terms:
        case (("group", "in", (group,)),):
            return {"group_id": group, "allow_empty": True}
    rng = random.Random(repr(terms))  # noqa: S311 - repeatable on purpose
    return {"selector": random_selectors.spell(rng, terms), "allow_empty": True}


def windows(all_windows: Iterable[Window]) -> list[pb.StartWindow]:
    return [
        pb.StartWindow(
            days=[
                day
                for bit, day in enumerate(pb.StartWindow.Day.values()[1:])
                if window.days >> bit & 1
            ],
            start_time=f"{window.minute // 60:02}:{window.minute % 60:02}",
            duration=_duration(60 * window.minutes),
        )
        for window in all_windows
    ]


def job(settings: dict[str, Any], seed: str) -> dict[str, Any]:
    """The fields of CreateJob for the settings of operator_calls.create."""
    fields: dict[str, Any] = {
        "failure_criteria": [criterion(each) for each in settings.get("criteria", ())],
        "priority": pb.Job.Priority.Value(settings.get("priority", "NORMAL")),
        "execution_events": settings.get("execution_events", False),
        "labels": dict(settings.get("labels", ())),
        "replaces_job_id": settings.get("replaces", ""),
    }
    if settings.get("target") is not None:
        fields |= {"continuous": True, "max_joins_per_hour": settings["max_joins"]}
    if settings.get("start_approval"):
        fields["require_start_approval"] = True
    if stages := settings.get("rollout"):
        fields["rollout"] = rollout(stages, seed, settings.get("max_in_progress"))
    if (start := settings.get("start")) is not None:
        fields["start_at"] = timestamp(start)
    if policy := settings.get("policy"):
        fields["retry_policy"] = retry_policy(policy)
    if (timeout := settings.get("timeout")) is not None:
        fields["in_progress_timeout_minutes"] = timeout // 60
    if opened := settings.get("windows"):
        fields["start_windows"] = windows(opened)
        fields["window_time_zone"] = settings.get("zone") or "DEVICE"
    if (expires := settings.get("expires_after")) is None:
        fields["never_expires"] = True
    else:
        fields["expires_in_hours"] = expires // 3600
    return fields


def _duration(seconds: Seconds) -> Duration:
    nanoseconds = round(seconds * 10**9)
    return Duration(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)
