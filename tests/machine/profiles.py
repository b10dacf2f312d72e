"""What machines do: each profile meets some rules of jobs often."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Any

from tests.machine import devices, events, fleet, joins, operators
from tests.machine.machine import Machine, Profile
from tests.model.criteria import Criterion
from tests.model.retries import Rule
from tests.model.stages import Stage
from tests.model.targets import Device
from tests.model.windows import Window
from tests.support import random_selectors

MICROSECOND = Fraction(1, 10**6)
_JITTERS = [Fraction(n, 4) for n in (0, 1, 2, 4)]

# For all profiles with gates. Some are met only by time, some need an approval.
_GATES: list[list[Stage]] = [
    [Stage(count=1), Stage(rate=2)],
    [Stage(count=1, min_succeeded_percent=100), Stage(count=1, bake=60), Stage()],
    [Stage(count=2, min_succeeded_percent=50, require_approval=True), Stage(rate=1)],
    [Stage(count=1, advance_after=120, require_approval=True), Stage(count=1), Stage()],
    [Stage(count=2, min_succeeded_percent=100, advance_after=60, bake=60), Stage(rate=60)],
    [Stage(percent=50, rate=2, advance_after=120), Stage(percent=50, rate=1)],
]


def _devices(count: int) -> Callable[[Random], list[Device]]:
    """Return a function that always returns the same `count` devices."""
    return lambda _: [Device(f"d{number:02}") for number in range(count)]


def _criteria(
    m: Machine, stages: object, number: int, counts: Sequence[int], percents: Sequence[int]
) -> list[Criterion]:
    """Failure criteria that often count the same."""
    criteria = []
    for _ in range(number):
        common: dict[str, Any] = {
            "statuses": m.choice([(), (), ("FAILED",), ("TIMED_OUT", "REJECTED")]),
            "codes": m.choice([(), (), ("E1",), ("", "E2")]),
            "scope": m.choice(["JOB", "STAGE"]) if stages else "JOB",
            "action": m.choice(["PAUSE"] * 10 + ["CANCEL", "FORCE_CANCEL"]),
        }
        if m.choice([True, False]):
            criteria.append(Criterion(count=m.choice(counts), **common))
        else:
            basis = m.choice(["FINISHED", "FINISHED", "RELEASED", "TARGETED"])
            percent, least = m.choice(percents), m.choice([0, 2, 4, 8, 12])
            criteria.append(Criterion(percent=percent, basis=basis, min_finished=least, **common))
    return criteria


def _any_settings(m: Machine) -> dict[str, Any]:
    stages = m.choice([[], [Stage(rate=1)], *_GATES])
    start = m.choice([None, None, 0, 60, 180])
    others = ["missing", *(job.job_id for job in m.state.jobs)]
    replaced = m.choice(others) if m.random.random() < 0.2 else ""
    return {
        "rollout": stages,
        "criteria": _criteria(m, stages, m.random.randrange(3), [1, 2], [50, 60, 100]),
        "max_in_progress": m.choice([None, None, 1]) if stages else None,
        "priority": m.choice(["LOW", "NORMAL", "HIGH"]),
        "start": None if start is None else m.now + start,
        "expires_after": m.choice([None, 3600]),
        "execution_events": m.choice([True, False]),
        "labels": frozenset(m.choice([[], [("team", "a")], [("team", "b")]])),
        "policy": m.choice([None, None, (Rule(codes=("E2",), max_attempts=2),)]),
        "replaces": replaced,
        "start_approval": not replaced and m.choice([True, False, False, False]),
    }


ANY_CALL = Profile(
    "any call",
    _devices(3),
    _any_settings,
    fleet.create_with_target,
    {
        **dict.fromkeys((fleet.delete_devices, fleet.list_devices), 1),
        **dict.fromkeys((fleet.register, fleet.get_device, fleet.list_jobs, fleet.read_job), 2),
        **dict.fromkeys((events.create_webhook, events.list_webhooks, operators.delete), 1),
        **dict.fromkeys((events.read_events, events.change_webhook), 2),
        **dict.fromkeys((operators.cancel, operators.update_labels, operators.update_criteria), 1),
        **dict.fromkeys((operators.update_policy, operators.update_max_in_progress), 1),
        **dict.fromkeys((operators.update_rate, operators.update_start), 1),
        **dict.fromkeys((operators.update_expiry, operators.update_windows), 1),
        **dict.fromkeys((operators.reject, operators.reject_start), 1),
        operators.approve_start: 3,
        **dict.fromkeys((operators.pause, operators.advance, operators.cancel_execution), 2),
        devices.start_next_of_several: 2,
        **dict.fromkeys((operators.resume, operators.approve, operators.retry), 3),
        **dict.fromkeys((devices.start, devices.start_next, devices.report_on_stream), 4),
        **dict.fromkeys((devices.list_pending, devices.watch_pending, devices.explain), 1),
        **dict.fromkeys((fleet.create_with_target, devices.wait_and_sweep), 5),
        devices.report: 8,
        **dict.fromkeys((devices.accept_cancel, devices.acknowledge), 1),
    },
    first_jobs=2,
    tick=MICROSECOND,
)


def _joins_settings(m: Machine) -> dict[str, Any]:
    """Jobs that mostly run, so that devices join them at all stages of their life."""
    settings = _any_settings(m)
    stages = m.choice([[], [], [Stage(rate=1)], *_GATES])
    return settings | {
        "is_continuous": m.choice([True, True, True, False]),
        "max_joins": m.choice([None, None, 1, 2, 3]),
        "rollout": stages,
        "criteria": _criteria(m, stages, m.choice([0, 0, 1]), [1, 2, 3], [50, 60, 100]),
        "max_in_progress": m.choice([None, None, 1]) if stages else None,
        "start": None,
        "start_approval": settings["start_approval"] and m.choice([True, False]),
    }


# Not in ANY_CALL: there, the server lets devices join at any time.
JOINS = Profile(
    "joins",
    _devices(4),
    _joins_settings,
    fleet.create_with_target,
    {
        **dict.fromkeys((operators.cancel, operators.end_joins, operators.update_rate), 1),
        **dict.fromkeys((operators.pause, operators.advance, operators.cancel_execution), 1),
        **dict.fromkeys((operators.update_expiry, operators.update_criteria), 1),
        **dict.fromkeys((operators.approve, operators.approve_start, operators.retry), 2),
        **dict.fromkeys((joins.join, joins.full_scan, devices.wait_and_sweep), 3),
        **dict.fromkeys((joins.join_changed, fleet.delete_devices, operators.resume), 5),
        fleet.register: 8,
        devices.report: 16,
    },
    tick=MICROSECOND,
)


def _criteria_settings(m: Machine) -> dict[str, Any]:
    in_three = [Stage(count=4), Stage(count=3, rate=1), Stage(rate=2)]
    stages = m.choice([[], [Stage(percent=100)], in_three, [Stage(rate=2)]])
    percents = [25, 33, 34, 50, 50, 66, 67, 100]
    criteria = _criteria(m, stages, m.random.randint(1, 4), range(2, 7), percents)
    if m.random.random() < 0.5:
        # Retries of other failures can raise the percentage above the threshold.
        scope = m.choice(["JOB", "STAGE"]) if stages else "JOB"
        percent, least = m.choice([40, 50, 60]), m.choice([2, 3])
        criteria = [Criterion(percent, codes=("E1",), min_finished=least, scope=scope)]
    return {"rollout": stages, "criteria": criteria, "timeout": 60}


CRITERIA = Profile(
    "criteria",
    _devices(16),
    _criteria_settings,
    operators.create,
    {
        **dict.fromkeys((devices.wait, devices.sweep), 1),
        **dict.fromkeys((operators.cancel_execution, operators.pause), 1),
        operators.update_criteria: 2,
        operators.resume: 4,
        **dict.fromkeys((operators.retry, devices.retry_others), 4),
        devices.report_batch: 12,
    },
    batch=6,
    steps=25,
)


def _retry_settings(m: Machine) -> dict[str, Any]:
    stages = m.choice([[], [Stage(count=23), Stage()]])
    return {
        "rollout": stages,
        "criteria": _criteria(m, stages, m.choice([0, 0, 1, 2]), range(4, 17), [30, 50, 70, 90]),
        "policy": _policy(m),
        "timeout": 600,
        "expires_after": 3600,
        "execution_events": m.choice([True, False]),
    }


def _policy(m: Machine) -> tuple[Rule, ...]:
    """One or two rules. The backoffs are powers of 2, so that all arithmetic is exact."""
    codes_of_rules: list[list[tuple[str, ...]]] = [[()], [("E1",), ()], [("", "E1"), ("E2",)]]
    rules = []
    for codes in m.choice(codes_of_rules):
        statuses = [("FAILED", "TIMED_OUT"), ("FAILED",)]
        if all(codes or [""]):
            statuses.append(("FAILED", "TIMED_OUT", "REJECTED"))
        attempts, multiplier = m.choice([2, 3, 3, 4]), m.choice([1, 2, 4])
        initial, longest = m.choice([1, 64, 256, 1024]), m.choice([1024, 4096])
        rules.append(Rule(m.choice(statuses), codes, attempts, initial, multiplier, longest))
    return tuple(rules)


# More devices than the 20 that the retry budget always allows.
RETRIES = Profile(
    "retries",
    _devices(26),
    _retry_settings,
    operators.create,
    {
        **dict.fromkeys((operators.pause, operators.cancel, operators.update_policy), 1),
        **dict.fromkeys((fleet.delete_devices, operators.cancel_execution), 1),
        **dict.fromkeys((devices.report_late, devices.sweep, operators.retry), 4),
        operators.resume: 4,
        devices.wait: 8,
        devices.start_some: 16,
        devices.report_batch: 30,
    },
    jitters=_JITTERS,
    successes=(0, 0, 0.1, 0.4, 0.8),
    waits=(16, 64, 256, 512, 1024, 1500),
)


def _schedule_settings(m: Machine) -> dict[str, Any]:
    paced = [Stage(count=2, rate=1, min_succeeded_percent=50, bake=30), Stage()]
    slow = [Stage(count=1, advance_after=2400), Stage(count=1, advance_after=3000), Stage()]
    baked = [Stage(count=1, bake=120), Stage()]
    stages = m.choice([[], [Stage(rate=1)], [Stage(rate=1)], paced, slow, baked, baked, *_GATES])
    start = m.choice([None, None, -60, 30, 60, 180, 5400])
    return {
        "devices": 2 if stages is baked else m.choice([1, 9, 9]),
        "rollout": stages,
        "start": None if start is None else m.now + start,
        "expires_after": m.choice([3600, 7200]),
    }


SCHEDULES = Profile(
    "schedules",
    _devices(9),
    _schedule_settings,
    operators.create,
    {
        **dict.fromkeys((operators.advance, operators.approve), 1),
        **dict.fromkeys((fleet.list_jobs, devices.list_pending), 1),
        **dict.fromkeys((operators.update_rate, operators.update_expiry), 2),
        **dict.fromkeys((operators.pause, operators.resume), 3),
        **dict.fromkeys((operators.cancel_execution, operators.retry), 2),
        **dict.fromkeys((devices.sweep, devices.start, operators.update_start), 3),
        **dict.fromkeys((devices.wait, devices.report), 5),
    },
    waits=(16, 30, 30, 60, 60, 120, 600),
    steps=30,
)

APPROVALS = replace(
    SCHEDULES,
    name="approvals",
    settings=lambda m: _schedule_settings(m) | {"start_approval": m.choice([True, True, False])},
    actions={**SCHEDULES.actions, operators.approve_start: 3, operators.reject_start: 1},
)


def _waiting_settings(m: Machine) -> dict[str, Any]:
    windows = tuple(
        Window(
            days=m.choice([127, 127, 1 << m.random.randrange(7), m.random.randint(1, 127)]),
            minute=m.choice([0, 10, 720, 1000, 1410]),
            minutes=m.choice([15, 60, 1440]),
        )
        for _ in range(m.choice([1, 3]))
    )
    has_windows, has_start, has_policy = (m.random.random() < 0.4 for _ in range(3))
    start = m.choice([1, 30, 100_000]) + m.random.randrange(2) * MICROSECOND
    backoff = m.choice([60, 6000])
    canary = Stage(count=1, min_succeeded_percent=100)
    options: list[tuple[list[Stage], int | None]] = [
        *(([], None), ([Stage()], 1), ([Stage()], 1), ([Stage(rate=1)], None)),
        *(([Stage(rate=7)], 2), ([Stage(count=1), Stage(rate=3000)], None)),
        ([canary, Stage(rate=13)], None),
    ]
    stages, limit = m.choice(options)
    return {
        "devices": 3,
        "rollout": stages,
        "max_in_progress": limit,
        "priority": m.choice(["LOW", "NORMAL", "HIGH"]),
        "start": m.now + start if has_start else None,
        "windows": windows if has_windows else (),
        "zone": m.choice(["UTC", "Europe/Berlin", "Asia/Kathmandu", None]),
        "policy": (Rule(initial_backoff=backoff, max_backoff=backoff),) if has_policy else None,
        "expires_after": 3600 * m.choice([1, 24, 300]),
    }


WAITING = Profile(
    "waiting",
    _devices(8),
    _waiting_settings,
    operators.create,
    {
        **dict.fromkeys((operators.pause, operators.resume, operators.cancel_execution), 1),
        **dict.fromkeys((devices.wait, devices.list_pending), 1),
        **dict.fromkeys((devices.start, devices.report), 2),
        devices.start_next: 4,
        devices.explain_and_start: 10,
    },
    first_jobs=4,
    steps=25,
    tick=MICROSECOND,
    jitters=_JITTERS,
    waits=(1, 20, 5000),
    zones={"d01": "Europe/Berlin", "d02": "America/New_York"},
)

TARGETS = Profile(
    "targets",
    lambda rng: random_selectors.devices(rng, rng.choice([5, 40])),
    lambda m: {"rollout": m.choice([[], fleet.random_stages(m), fleet.random_stages(m)])},
    fleet.create_with_target,
    {
        **dict.fromkeys((fleet.register, fleet.delete_devices, fleet.list_devices), 1),
        **dict.fromkeys((operators.cancel, devices.report_batch), 1),
        fleet.create_with_target: 12,
    },
)


def _cancel_settings(m: Machine) -> dict[str, Any]:
    """Jobs whose attempts are often ended by others, and then retried."""
    stages = m.choice([[], [], [Stage(count=2), Stage()]])
    policy = (Rule(initial_backoff=m.choice([1, 64]), max_backoff=64),)
    return {
        "rollout": stages,
        "criteria": _criteria(m, stages, m.choice([0, 0, 1]), [3, 4], [66, 90]),
        "policy": m.choice([None, policy, policy]),
        "priority": m.choice(["NORMAL", "HIGH"]),
        "timeout": 60,
        "expires_after": m.choice([None, 3600]),
        "execution_events": m.choice([True, False]),
    }


CANCELS = Profile(
    "cancels",
    _devices(4),
    _cancel_settings,
    operators.create,
    {
        **dict.fromkeys((operators.create, devices.watch_pending, devices.list_pending), 1),
        **dict.fromkeys((operators.cancel, devices.accept_cancel, devices.acknowledge), 2),
        **dict.fromkeys((operators.cancel_execution, operators.retry, devices.report), 2),
        **dict.fromkeys((devices.wait, devices.wait_and_sweep), 3),
        devices.start_some: 6,
    },
    first_jobs=2,
    waits=(64, 64, 130, 3600),
)

PROFILES = {
    each.name: each
    for each in (
        *(CRITERIA, RETRIES, SCHEDULES, APPROVALS, WAITING, TARGETS, JOINS),
        CANCELS,
    )
}
