"""Failure criteria: what they count, and when they trip. Each answer looks at all executions."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TypeAlias

from tests.model.execution import FAILURES, Execution, Seconds


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
        return frozenset(self.statuses or FAILURES), frozenset(self.codes), self.scope

    def matches(self, status: str, code: str) -> bool:
        statuses, codes, _ = self.counted
        return status in statuses and (not codes or code in codes)


Criteria: TypeAlias = tuple[tuple[Criterion, Seconds], ...]
"""Each criterion with the time after which it counts."""


@dataclass(frozen=True)
class Trip:
    """What tripped: the criterion and the stage (None: the job), the failures, and the basis."""

    criterion: int
    stage: int | None
    failures: int
    basis: int


@dataclass(frozen=True)
class Count:
    """What a criterion has counted in a stage (None: the job)."""

    criterion: int
    stage: int | None
    failures: int
    finished: int
    basis: int
    """The number of executions that is 100 percent; 0 if the threshold is a count."""
    threshold: int
    """The number of failures at which it trips; 0 while the basis of a percentage is 0."""


def replaced(criteria: Criteria, new: Sequence[Criterion], now: Seconds) -> Criteria:
    """Replace criteria. Those that count the same failures as an earlier one keep their counts."""
    before = {criterion.counted: since for criterion, since in reversed(criteria)}
    return tuple((criterion, before.get(criterion.counted, now)) for criterion in new)


def count_all(
    criteria: Criteria, stages: int, executions: Sequence[Execution], released: int | None
) -> Iterator[Count]:
    """Count, while executions up to the rank `released` are released (None: all)."""
    for index, (criterion, since) in enumerate(criteria):
        for stage in range(stages) if criterion.scope == "STAGE" else [None]:
            group = [e for e in executions if stage in (None, e.stage)]
            counted = [e for e in group if e.finished is not None and e.finished > since]
            failures = sum(
                e.failure is not None and criterion.matches(e.failure.status, e.failure.code)
                for e in counted
            )
            basis = {
                "FINISHED": len(counted),
                "RELEASED": sum(released is None or e.rank <= released for e in group),
                "TARGETED": len(group),
            }[criterion.basis]
            if criterion.percent is None:
                basis, threshold = 0, criterion.count or 0
            else:
                threshold = ceil(Fraction(criterion.percent * basis, 100))
            yield Count(index, stage, failures, len(counted), basis, threshold)


def decide(
    criteria: Criteria,
    stages: int,
    before: Sequence[Execution],
    executions: Sequence[Execution],
    released: int | None,
    ended: Collection[str] | None,
) -> Trip | None:
    """Return the trip of the first criterion in order.

    The devices `ended` have just ended an attempt, and the executions were `before`; None: the
    criteria have changed.
    """
    finished_before = {
        (count.criterion, count.stage): count.finished
        for count in count_all(criteria, stages, before, released)
    }
    for count in count_all(criteria, stages, executions, released):
        criterion, _ = criteria[count.criterion]
        was = finished_before[count.criterion, count.stage]
        if (
            0 < count.threshold <= count.failures
            and (criterion.percent is None or count.finished >= criterion.min_finished)
            and (ended is None or _is_checked(criterion, count, was, executions, ended))
        ):
            return Trip(count.criterion, count.stage, count.failures, count.basis)
    return None


def _is_checked(
    criterion: Criterion,
    count: Count,
    finished_before: int,
    executions: Sequence[Execution],
    ended: Collection[str],
) -> bool:
    """Whether what has just ended can trip a criterion.

    A retry can raise a percentage, although no device has failed. So another stage does not trip,
    nor does a success, unless it reaches min_finished.
    """
    just_ended = [execution for execution in executions if execution.device in ended]
    if not any(count.stage in (None, execution.stage) for execution in just_ended):
        return False
    if any(execution.status != "SUCCEEDED" for execution in just_ended):
        return True
    return finished_before < criterion.min_finished
