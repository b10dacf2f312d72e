"""The stages of a rollout: which executions are released, and when a stage opens."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor

from tests.model.execution import PENDING, Seconds
from tests.model.targets import Device, Term, matching


@dataclass(frozen=True)
class Stage:
    """The settings of a stage. Without a count, percent or claim: the remainder."""

    count: int | None = None
    percent: int | None = None
    claim: tuple[Term, ...] | None = None
    """It has the devices that match, except for those that an earlier stage claims."""
    rate: int | None = None
    """Releases per minute; None: all at once."""
    min_succeeded_percent: int | None = None
    bake: Seconds = 0
    advance_after: Seconds | None = None
    require_approval: bool = False


@dataclass(frozen=True)
class Rollout:
    """The stages of a job, and how far it is released.

    Its clock is `elapsed`: it stands still before the start of the job and during a pause.
    """

    stages: tuple[Stage, ...]
    last_ranks: tuple[int, ...]
    """The last rank of each stage."""
    has_started: bool = True
    elapsed: Seconds = 0
    open_stage: int = 0
    opened: Seconds = 0
    """When the open stage opened."""
    met: Seconds | None = None
    """Since when its gate is met, apart from times and approvals."""
    failure_accepted: bool = False
    """A user resumed the job although the gate of the open stage has failed."""
    approved: frozenset[int] = frozenset()
    base: Seconds = 0
    """How many were released when the rate changed, and when it did."""
    base_at: Seconds = 0
    rate: int | None = None

    @property
    def stage(self) -> Stage:
        return self.stages[self.open_stage]

    @property
    def is_last(self) -> bool:
        return self.open_stage == len(self.stages) - 1

    @property
    def ranks(self) -> range:
        first = self.last_ranks[self.open_stage - 1] if self.open_stage else 0
        return range(first + 1, self.last_ranks[self.open_stage] + 1)

    @property
    def progress(self) -> Seconds:
        """How many executions are released, with the part of the next release that has passed."""
        if not self.has_started:
            return 0
        end = self.last_ranks[self.open_stage]
        if self.rate is None:
            return end
        passed = Fraction(self.rate * (self.elapsed - self.base_at))
        return min(Fraction(end), self.base + passed / 60)

    @property
    def released(self) -> int:
        """How many executions are released."""
        return floor(self.progress)

    @property
    def needs_approval(self) -> bool:
        """Whether the open stage has no approval although its gate requires one."""
        return self.stage.require_approval and self.open_stage not in self.approved

    @property
    def is_awaiting_approval(self) -> bool:
        return not self.is_last and self.needs_approval and self.is_time

    @property
    def is_time(self) -> bool:
        """Whether everything but an approval lets the next stage open."""
        return any(at <= self.elapsed for at in self._opening_times())

    def _opening_times(self) -> Iterator[Seconds]:
        if self.met is not None:
            yield self.met + (self.stage.bake if self.ranks else 0)
        if self.stage.advance_after is not None:
            yield self.opened + self.stage.advance_after

    def is_finished(self, statuses: Sequence[str]) -> bool:
        """Whether no execution of the open stage is pending. `statuses` has that of each rank."""
        return not any(statuses[rank - 1] in PENDING for rank in self.ranks)

    def is_successful(self, statuses: Sequence[str]) -> bool:
        """Whether enough executions of the open stage have succeeded."""
        percent = self.stage.min_succeeded_percent
        if not self.ranks or percent is None:
            return self.is_finished(statuses)
        succeeded = sum(statuses[rank - 1] == "SUCCEEDED" for rank in self.ranks)
        return 100 * succeeded >= percent * len(self.ranks)

    def _next_change(self) -> Seconds:
        """When the next execution is released, or the next stage may open."""
        times = [Fraction(at) for at in self._opening_times()]
        if self.rate is not None:
            wanted = self.released + 1 - self.base
            times.append(self.base_at + Fraction(60 * wanted) / self.rate)
        return min(at for at in times if at > self.elapsed)


def claims(stages: Sequence[Stage], known: Iterable[Device]) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, stage in enumerate(stages):
        for device in () if stage.claim is None else matching(stage.claim, known):
            found.setdefault(device, number)
    return found


def divide(
    stages: Sequence[Stage], devices: Sequence[str], claimed: Mapping[str, int] | None = None
) -> tuple[Rollout, list[str]]:
    """Divide devices between stages. Returns them in the order of release, too."""
    claimed = claimed or {}
    left = [device for device in devices if device not in claimed]
    released: list[str] = []
    last_ranks: list[int] = []
    percent = 0
    for number, stage in enumerate(stages):
        if stage.claim is not None:
            released += [device for device in devices if claimed.get(device) == number]
        else:
            before, percent = percent, percent + (stage.percent or 0)
            size = len(left) if stage.count is None else stage.count
            if stage.percent is not None:
                first, end = (ceil(Fraction(p * len(devices), 100)) for p in (before, percent))
                size = end - first
            released += left[:size]
            left = left[size:]
        last_ranks.append(len(released))
    return Rollout(tuple(stages), tuple(last_ranks), rate=stages[0].rate), released


def change_rate(state: Rollout, rate: int | None) -> Rollout:
    """Continue the release at another rate."""
    return replace(state, base=state.progress, base_at=state.elapsed, rate=rate)


def update_rates(state: Rollout, rate: int | None) -> Rollout:
    passed, others = state.stages[: state.open_stage], state.stages[state.open_stage :]
    stages = (*passed, *(replace(stage, rate=rate) for stage in others))
    return replace(change_rate(state, rate), stages=stages)


def open_next(state: Rollout) -> Rollout:
    """Open the next stage. What is left of this one is released first, at the new rate."""
    state = change_rate(state, state.stages[state.open_stage + 1].rate)
    return replace(
        state,
        open_stage=state.open_stage + 1,
        opened=state.elapsed,
        met=None,
        failure_accepted=False,
    )


def apply_gates(state: Rollout, statuses: Sequence[str]) -> tuple[Rollout, bool]:
    """Open the stages whose gates are met; return whether the gate of the open one has failed."""
    while not state.is_last:
        is_finished, is_successful = state.is_finished(statuses), state.is_successful(statuses)
        met = state.elapsed if state.met is None else state.met
        state = replace(
            state,
            met=met if is_successful else None,
            failure_accepted=state.failure_accepted and is_finished,
        )
        if not state.is_time or state.needs_approval:
            waits = state.stage.advance_after is not None and state.failure_accepted
            return state, is_finished and not (is_successful or state.is_time or waits)
        state = open_next(state)
    return state, False


def minimum_time(state: Rollout, unfinished: Collection[int]) -> Seconds:
    """How long the rest takes if every device succeeds when it is released.

    `unfinished` are the ranks of the devices that have not started.
    """
    start = state.elapsed
    state = replace(state, has_started=True, approved=frozenset(range(len(state.stages))))
    firsts = (0, *state.last_ranks)
    waiting = {
        rank
        for first, last in zip(firsts, state.last_ranks, strict=False)
        if not {*range(first + 1, last + 1)}.isdisjoint(unfinished)
        for rank in range(first + 1, last + 1)
    }
    while True:
        before = state.open_stage
        statuses = [
            "QUEUED" if rank in waiting and rank > state.released else "SUCCEEDED"
            for rank in range(1, state.last_ranks[-1] + 1)
        ]
        state, _ = apply_gates(state, statuses)
        if state.is_last and state.released >= max(waiting, default=0):
            return state.elapsed - start
        if state.open_stage == before:
            state = replace(state, elapsed=state._next_change())
