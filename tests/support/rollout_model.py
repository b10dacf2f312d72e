"""A model of the stages of a rollout: which executions are released, and when a stage opens."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

PENDING = frozenset({"QUEUED", "IN_PROGRESS"})


@dataclass
class Stage:
    """A stage: its settings and its state. Without a count or percent: the remainder.

    Times are in minutes.
    """

    count: int | None = None
    percent: int | None = None
    rate: int | None = None
    min_succeeded_percent: int | None = None
    bake: int | Fraction = 0
    advance_after: int | Fraction | None = None
    require_approval: bool = False

    devices: list[str] = field(default_factory=list)
    approved: bool = False
    opened: int | Fraction = 0
    """The time at which it opened, without pauses."""
    met: int | Fraction | None = None
    """The time since which its gate is met, without pauses."""
    failed_gate_accepted: bool = False


@dataclass
class Rollout:
    """The stages of a job and how far it is released.

    `minutes` do not pass before the start and during a pause.
    """

    stages: list[Stage]
    seed: str
    open_stage: int = 0
    minutes: int | Fraction = 0
    has_started: bool = True
    """Whether the job has started; nothing is released before."""
    _order: list[str] = field(default_factory=list)
    _base: int | Fraction = 0
    _base_at: int | Fraction = 0
    _rate: int | None = None

    def fill(self, devices: Sequence[str]) -> None:
        """Divide the devices between the stages. They are in the order of release."""
        self._order = list(devices)
        end, percent = 0, 0
        for stage in self.stages:
            start = end
            if stage.percent is not None:
                percent += stage.percent
                end = ceil(Fraction(percent * len(devices), 100))
            elif stage.count is not None:
                end = min(start + stage.count, len(devices))
            else:
                end = len(devices)
            stage.devices = self._order[start:end]
        self._rate = self.stages[0].rate

    def rank(self, device: str) -> int:
        """The position of the device in the order of release; the first is 1."""
        return self._order.index(device) + 1

    def stage(self, device: str) -> int:
        """The stage of the device."""
        return next(n for n, stage in enumerate(self.stages) if device in stage.devices)

    @property
    def released(self) -> int:
        """How many executions are released."""
        return floor(self._progress)

    @property
    def _progress(self) -> int | Fraction:
        """The same, with the part of the next release that has passed."""
        if not self.has_started:
            return 0
        end = sum(len(stage.devices) for stage in self.stages[: self.open_stage + 1])
        if self._rate is None:
            return end
        return min(end, self._base + self._rate * (self.minutes - self._base_at))

    @property
    def is_last(self) -> bool:
        """Whether the last stage is open."""
        return self.open_stage == len(self.stages) - 1

    @property
    def needs_approval(self) -> bool:
        """Whether the open stage has no approval although its gate requires one."""
        stage = self.stages[self.open_stage]
        return stage.require_approval and not stage.approved

    @property
    def awaiting_approval(self) -> bool:
        """Whether only an approval is missing."""
        return not self.is_last and self.needs_approval and self._can_open

    def open_next(self) -> None:
        """Open the next stage. What is left of this one is released first, at the new rate."""
        self._rebase(self.stages[self.open_stage + 1].rate)
        self.open_stage += 1
        self.stages[self.open_stage].opened = self.minutes

    def change_rate(self, rate: int | None) -> None:
        """Change the rate of the stages that have not passed."""
        self._rebase(rate)
        for stage in self.stages[self.open_stage :]:
            stage.rate = rate

    def _rebase(self, rate: int | None) -> None:
        self._base, self._base_at, self._rate = self._progress, self.minutes, rate

    def open_stages(self, statuses: Mapping[str, str]) -> bool:
        """Open the stages whose gates are met. False if the gate of the open one has failed."""
        while not self.is_last:
            stage = self.stages[self.open_stage]
            finished = self._is_finished(statuses)
            successful = self._is_successful(statuses)
            if not successful:
                stage.met = None
            elif stage.met is None:
                stage.met = self.minutes
            stage.failed_gate_accepted &= finished
            if self._can_open and not self.needs_approval:
                self.open_next()
                continue
            waits = stage.advance_after is not None and stage.failed_gate_accepted
            return not finished or successful or self._can_open or waits
        return True

    def minimum_minutes(self, queued: Collection[str] | None = None) -> Fraction:
        """How long the rest takes, to a second, if every device succeeds when it is released.

        `queued` are the devices whose executions are not finished; None: all.
        """
        rollout = copy.deepcopy(self)
        rollout.has_started = True
        for stage in rollout.stages:
            stage.approved = True
        waiting = {
            device
            for stage in rollout.stages
            if queued is None or not {*queued}.isdisjoint(stage.devices)
            for device in stage.devices
        }
        last_rank = max(map(rollout.rank, waiting), default=0)
        while not (rollout._open_all(waiting) and rollout.released >= last_rank):
            rollout.minutes += Fraction(1, 60)
        return Fraction(rollout.minutes - self.minutes)

    def _open_all(self, waiting: Collection[str]) -> bool:
        """Open the stages that can open if each released device has succeeded."""
        before = -1
        while self.open_stage != before:
            before, released = self.open_stage, self.released
            self.open_stages(
                {
                    device: "QUEUED" if device in waiting and rank > released else "SUCCEEDED"
                    for rank, device in enumerate(self._order, 1)
                }
            )
        return self.is_last

    def accept_failed_gate(self, statuses: Mapping[str, str]) -> None:
        """The job is resumed: a stage that has failed waits for advance_after, if there is one."""
        self.stages[self.open_stage].failed_gate_accepted = self._is_finished(statuses)

    def _is_finished(self, statuses: Mapping[str, str]) -> bool:
        return not any(statuses[d] in PENDING for d in self.stages[self.open_stage].devices)

    def _is_successful(self, statuses: Mapping[str, str]) -> bool:
        stage = self.stages[self.open_stage]
        if not stage.devices or stage.min_succeeded_percent is None:
            return self._is_finished(statuses)
        succeeded = sum(statuses[device] == "SUCCEEDED" for device in stage.devices)
        return Fraction(succeeded, len(stage.devices)) >= Fraction(stage.min_succeeded_percent, 100)

    @property
    def _can_open(self) -> bool:
        """Whether everything but an approval lets the next stage open."""
        stage = self.stages[self.open_stage]
        bake = stage.bake if stage.devices else 0
        return (stage.met is not None and self.minutes - stage.met >= bake) or (
            stage.advance_after is not None and self.minutes - stage.opened >= stage.advance_after
        )
