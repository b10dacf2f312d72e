"""A breadth-first search over all states of the model of tests/model/, for jobs of a few devices.

Two states are one if they differ in what can't change what follows: in devices that change places,
in times with the same number of waits until each deadline, in the numbers of attempts, and in what
is only told (events, trips, acknowledged attempts). So a search ends, although time goes on and
operators retry without a limit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeAlias

from tests.model import operator_calls
from tests.model.execution import Execution, Seconds
from tests.model.job import Job
from tests.model.targets import Device
from tests.model.tenant import Call, State, step
from tests.search.moves import DEVICE_MOVES, HOUR, JOB, PERIOD, Move, after

Key: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Scenario:
    """A job, and the moves of a search."""

    name: str
    settings: Mapping[str, Any]
    """Of the job: arguments of operator_calls.create."""
    moves: Sequence[str]
    registered: int = 3
    """How many of the three devices are registered at first: these are the targets."""

    def first(self, devices: Sequence[str]) -> State:
        """The state after CreateJob."""
        targets = devices[: self.registered]
        state = State(devices=tuple(Device(device) for device in sorted(targets)))
        call = Call(operator_calls.create, JOB, targets, "olivia", **self.settings)
        state, answer = step(state, call, 1)
        assert answer.reason is None
        return state


DEVICES = ["d1", "d2", "d3"]


def _waits(at: Seconds | None, now: Seconds) -> int | None:
    """The number of waits until a time, which is at least half a period from a wait's end."""
    return None if at is None else max((at + HOUR) // PERIOD - now // PERIOD, 0)


def _execution_key(job: Job, each: Execution) -> Key:
    failure, finished = each.failure, each.finished
    return (
        each.stage,
        each.status,
        _waits(each.times_out, job.now),
        _waits(each.not_before, job.now) if each.status == "QUEUED" else None,
        each.attempts if each.is_pending else 0,
        each.code,
        each.cause,
        each.cancel_accepted,
        failure and (failure.status, failure.code),
        [finished is not None and finished > since for _, since in job.criteria],
    )


def _rollout_key(job: Job) -> Key:
    rollout = job.rollout
    if rollout is None:
        return ()
    bake, advance_after = rollout.stage.bake, rollout.stage.advance_after
    ends = (
        None if rollout.met is None else rollout.met + bake,
        None if advance_after is None else rollout.opened + advance_after,
    )
    return (
        rollout.open_stage,
        [None if end is None else end > rollout.elapsed for end in ends],
        rollout.failure_accepted,
        sorted(rollout.approved),
    )


def key_of(state: State) -> tuple[str, list[str]]:
    """What decides what can follow: of the job, and of each device."""
    job = state.job(JOB)
    is_brake_on = job.hour is not None and bool(_waits(job.hour + HOUR, job.now))
    of_job = (
        job.status,
        job.has_started,
        _waits(job.start, job.now),
        None if job.has_expired else _waits(job.expires, job.now),
        job.has_expired,
        job.pause_cause,
        job.start_approved,
        job.target is None,
        job.hour_joins if is_brake_on else None,
        job.joins_stopped,
        job.awaiting_approval,
        _rollout_key(job),
    )
    of_devices = []
    for device in DEVICES:
        execution = job.execution(device)
        of_device = execution and _execution_key(job, execution)
        of_devices.append(repr((state.device(device) is not None, of_device)))
    return repr(of_job), of_devices


def _merge(of_job: str, of_devices: Sequence[str]) -> str:
    return "|".join([of_job, *sorted(of_devices)])


Check: TypeAlias = Callable[[State, Move, State, str | None], None]


@dataclass
class Found:
    """All states, and the moves between them."""

    scenario: Scenario
    states: list[State] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    """The number of each state, by its key."""
    came_from: list[tuple[int, Move] | None] = field(default_factory=list)
    edges: list[tuple[int, Move, int]] = field(default_factory=list)
    merged: list[tuple[int, State]] = field(default_factory=list)
    """A sample of states that are one with an earlier state: the number of that, and the state."""

    def path(self, number: int) -> list[Move]:
        """The moves to a state."""
        path: list[Move] = []
        while (step := self.came_from[number]) is not None:
            number, move = step
            path.append(move)
        return path[::-1]

    def paths(self, random: Random, count: int) -> list[list[Move]]:
        """A sample of paths, each to a random state and with one move from there."""
        some = random.sample(self.edges, min(count, len(self.edges)))
        return [[*self.path(number), move] for number, move, _ in some]


def moves_from(scenario: Scenario, of_devices: Sequence[str]) -> Iterator[Move]:
    """The moves that are tried. Of devices in the same state, only one moves."""
    for name in scenario.moves:
        if name not in DEVICE_MOVES:
            yield name, None
            continue
        seen = set()
        for number, of_device in enumerate(of_devices):
            if of_device not in seen:
                seen.add(of_device)
                yield name, number


def search(scenario: Scenario, check: Check, *, sample: int = 200) -> Found:
    """Visit all states, and check each move. Its errors have the path as a note."""
    found = Found(scenario)
    _add(found, scenario.first(DEVICES), None)
    number = 0
    while number < len(found.states):
        state = found.states[number]
        for move in moves_from(scenario, key_of(state)[1]):
            try:
                following, reason = after(move, state, DEVICES)
                check(state, move, following, reason)
            except AssertionError as e:
                e.add_note(f"{scenario.name}: {[*found.path(number), move]}")
                raise
            to = _add(found, following, (number, move))
            found.edges.append((number, move, to))
            if len(found.edges) % sample == 0:
                found.merged.append((to, following))
        number += 1
    return found


def _add(found: Found, state: State, came_from: tuple[int, Move] | None) -> int:
    key = _merge(*key_of(state))
    number = found.numbers.setdefault(key, len(found.states))
    if number == len(found.states):
        # The events would need most of the memory.
        found.states.append(replace(state, jobs=(replace(state.job(JOB), events=()),)))
        found.came_from.append(came_from)
    return number


def successors(scenario: Scenario, state: State) -> list[tuple[str, str, str | None]]:
    """What can follow a state: each move without its device, the key, and the reason."""
    following = []
    for move in moves_from(scenario, key_of(state)[1]):
        state_after, reason = after(move, state, DEVICES)
        following.append((move[0], _merge(*key_of(state_after)), reason))
    return sorted(following, key=repr)
