"""Retry policies: which failure is followed by another attempt, and when."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tests.model.execution import Execution, Seconds, queue_next


@dataclass(frozen=True)
class Rule:
    """A rule of a retry policy. Empty codes: all, but then it does not retry REJECTED."""

    statuses: tuple[str, ...] = ("FAILED", "TIMED_OUT")
    codes: tuple[str, ...] = ()
    max_attempts: int = 3
    initial_backoff: int = 64
    multiplier: int = 1
    max_backoff: int = 4096

    def matches(self, status: str, code: str) -> bool:
        """Whether it decides about a failure."""
        return status in self.statuses and (not self.codes or code in self.codes)

    def backoff(self, retries: int) -> int:
        """The longest time until the next attempt."""
        backoff: int = self.initial_backoff * self.multiplier**retries
        return min(backoff, self.max_backoff)


def is_budget_exhausted(executions: Iterable[Execution], released: int) -> bool:
    """Whether more than 20 devices and more than 10 percent have needed a retry."""
    needed = sum(execution.has_needed_retry for execution in executions)
    return needed > 20 and Fraction(needed, 10) > Fraction(released, 100)


def not_before(
    policy: Sequence[Rule], execution: Execution, now: Seconds, jitter: Fraction
) -> Seconds | None:
    """The earliest start of the next attempt of one that has failed; None: the failure is final.

    The budget and the expiry of the job can make it final, too.
    """
    assert execution.code is not None
    for rule in policy:
        if rule.matches(execution.status, execution.code):
            if execution.attempts >= rule.max_attempts:
                return None
            return now + jitter * rule.backoff(execution.attempts - 1)
    return None


def retry(execution: Execution, now: Seconds, earliest: Seconds) -> Execution:
    """Queue the next attempt, which must not start before a time."""
    attempts = execution.attempts + 1
    return replace(queue_next(execution, now), attempts=attempts, not_before=earliest)
