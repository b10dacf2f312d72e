"""Decides when failure criteria trip, from the rules alone.

Unlike the service, it keeps no counts: each decision looks at all devices.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb


@dataclass(frozen=True)
class Criterion:
    """A failure criterion. Empty statuses or codes: all."""

    percent: int | None = None
    count: int | None = None
    statuses: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    basis: str = "FINISHED"
    min_finished: int = 0
    scope: str = "JOB"
    action: str = "PAUSE"

    @property
    def counted(self) -> tuple[frozenset[str], frozenset[str], str]:
        """The failures that it counts. Criteria with the same value have the same counts."""
        statuses = self.statuses or ("FAILED", "TIMED_OUT", "REJECTED")
        return frozenset(statuses), frozenset(self.codes), self.scope

    @property
    def message(self) -> pb.FailureCriterion:
        """The criterion of a request."""
        fields: dict[str, Any] = {
            "statuses": self.statuses,
            "failure_codes": self.codes,
            "scope": self.scope,
            "action": self.action,
        }
        if self.percent is None:
            fields["count"] = self.count
        else:
            fields |= {
                "percent": self.percent,
                "basis": self.basis,
                "min_finished": self.min_finished,
            }
        return pb.FailureCriterion(**fields)

    def matches(self, status: str, code: str) -> bool:
        """Whether it counts a failure."""
        statuses, codes, _ = self.counted
        return status in statuses and (not codes or code in codes)


@dataclass
class Device:
    """A device of a job. `finished` is when it finished its current attempt."""

    stage: int = 0
    rank: int = 0
    status: str = "QUEUED"
    failure_code: str | None = None
    finished: int = 0


@dataclass(frozen=True)
class Trip:
    """What tripped: the criterion and the stage (None: the job), the failures, and the basis."""

    criterion: int
    stage: int | None
    failures: int
    basis: int


@dataclass(frozen=True)
class Count:
    """What a criterion has counted in a stage (None: the job): failures, and finished devices."""

    criterion: int
    stage: int | None
    failures: int
    finished: int


@dataclass(frozen=True)
class State:
    """What readers see of a Count: its basis, and the number of failures at which it trips.

    Both are 0 while there is none.
    """

    criterion: int
    stage: int | None
    failures: int
    basis: int
    threshold: int


@dataclass
class CriteriaModel:
    """A model of the failure criteria of a job."""

    devices: dict[str, Device]
    criteria: list[tuple[Criterion, int]] = field(default_factory=list)
    """Each criterion with the time since which it counts."""
    clock: int = 0

    def finish(self, device: str, status: str, failure_code: str | None = None) -> None:
        """End the device's current attempt; with a failure_code, it is the device's failure."""
        self.clock += 1
        ended = self.devices[device]
        ended.status, ended.failure_code, ended.finished = status, failure_code, self.clock

    def retry(self, devices: Iterable[str]) -> None:
        """Queue the next attempt of these devices."""
        for device in devices:
            self.devices[device].status, self.devices[device].failure_code = "QUEUED", None

    def replace(self, criteria: Sequence[Criterion]) -> None:
        """UpdateJob: resets the criteria that count other failures than all earlier ones."""
        before = {criterion.counted: since for criterion, since in reversed(self.criteria)}
        self.criteria = [(c, before.get(c.counted, self.clock)) for c in criteria]

    def restart(self) -> None:
        """ResumeJob: resets all criteria."""
        self.criteria = [(criterion, self.clock) for criterion, _ in self.criteria]

    def decide(
        self,
        released: int | None,
        finished: Collection[str] | None = None,
        before: Iterable[Count] = (),
    ) -> Trip | None:
        """The trip of the first criterion in order, while executions up to rank `released` are
        released (None: all). The devices `finished` have just ended; None: the criteria changed.

        `before` are the counts before they ended. Without it, none of them had counted as failed.
        """
        were = {(count.criterion, count.stage): count.finished for count in before}
        counts = [count for count in self.counts() if self._is_checked(count, finished, were)]
        return next(filter(None, (self._trip(count, released) for count in counts)), None)

    def _is_checked(
        self,
        count: Count,
        finished: Collection[str] | None,
        before: Mapping[tuple[int, int | None], int],
    ) -> bool:
        """Whether what has just ended can trip a criterion.

        A retry can raise a percentage, although no device has failed. So another stage does not
        trip, nor does a success, unless it reaches min_finished.
        """
        if finished is None:
            return True
        devices = [self.devices[name] for name in finished]
        changed = sum(count.stage in (None, device.stage) for device in devices)
        if not changed:
            return False
        if any(device.failure_code is not None for device in devices):
            return True
        criterion, _ = self.criteria[count.criterion]
        was = before.get((count.criterion, count.stage), count.finished - changed)
        return was < criterion.min_finished

    def counts(self) -> Iterator[Count]:
        """What each criterion counts now, for each stage or the job."""
        for index, (criterion, since) in enumerate(self.criteria):
            stages = sorted({device.stage for device in self.devices.values()})
            for stage in stages if criterion.scope == "STAGE" else [None]:
                counted = [d for d in self._group(stage) if d.finished > since]
                failed = [d for d in counted if d.failure_code is not None]
                yield Count(
                    index,
                    stage,
                    sum(criterion.matches(d.status, d.failure_code or "") for d in failed),
                    len(failed) + sum(d.status == "SUCCEEDED" for d in counted),
                )

    def states(self, released: int | None) -> list[State]:
        """The state of each count, while executions up to rank `released` are released."""
        states = []
        for count in self.counts():
            criterion, _ = self.criteria[count.criterion]
            basis = self._basis(count, released)
            threshold = criterion.count or ceil(Fraction((criterion.percent or 0) * basis, 100))
            states.append(State(count.criterion, count.stage, count.failures, basis, threshold))
        return states

    def _basis(self, count: Count, released: int | None) -> int:
        """The number of executions that is 100 percent; 0 if the threshold is a count."""
        criterion, _ = self.criteria[count.criterion]
        group = self._group(count.stage)
        if criterion.count is not None:
            return 0
        return {
            "FINISHED": count.finished,
            "RELEASED": sum(released is None or d.rank <= released for d in group),
            "TARGETED": len(group),
        }[criterion.basis]

    def _group(self, stage: int | None) -> list[Device]:
        return [d for d in self.devices.values() if stage in (None, d.stage)]

    def _trip(self, count: Count, released: int | None) -> Trip | None:
        criterion, _ = self.criteria[count.criterion]
        basis = self._basis(count, released)
        if criterion.count is not None:
            trips = count.failures >= criterion.count
        else:
            trips = (
                count.finished >= criterion.min_finished
                and basis > 0
                and Fraction(count.failures, basis) >= Fraction(criterion.percent or 0, 100)
            )
        return Trip(count.criterion, count.stage, count.failures, basis) if trips else None
