"""Decides what a job with a retry policy does, from the rules alone.

Unlike the service, it keeps no counts: each answer looks at all devices.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.criteria_model import Count, CriteriaModel, Trip

FAILURES = ("FAILED", "TIMED_OUT", "REJECTED")
PENDING = ("QUEUED", "IN_PROGRESS")


@dataclass(frozen=True)
class Rule:
    """A rule of a retry policy. Empty codes: all."""

    statuses: tuple[str, ...]
    codes: tuple[str, ...]
    max_attempts: int
    initial_backoff: int
    multiplier: int
    max_backoff: int

    @property
    def message(self) -> pb.RetryRule:
        """The rule of a request."""
        rule = pb.RetryRule(
            statuses=[pb.JobExecution.Status.Value(status) for status in self.statuses],
            failure_codes=self.codes,
            max_attempts=self.max_attempts,
            backoff_multiplier=self.multiplier,
        )
        rule.initial_backoff.seconds = self.initial_backoff
        rule.max_backoff.seconds = self.max_backoff
        return rule

    def matches(self, status: str, code: str) -> bool:
        """Whether it decides about a failure."""
        if status not in self.statuses:
            return False
        return code in self.codes if self.codes else status != "REJECTED"

    def backoff(self, retries: int) -> int:
        """The longest time until the next attempt, in seconds."""
        backoff = self.initial_backoff
        for _ in range(retries):
            backoff *= self.multiplier
        return min(backoff, self.max_backoff)


@dataclass
class Execution:
    """The execution of a device."""

    stage: int = 0
    rank: int = 0
    number: int = 1
    status: str = "QUEUED"
    """As stored: a cancel or an expiry of the job does not change it."""
    code: str | None = None
    """The failure code, if the device failed."""
    started: bool = False
    times_out_at: float = math.inf
    not_before: float = -math.inf
    attempts: int = 1
    """Since the creation or the last RetryExecutions."""
    has_needed_retry: bool = False
    """Since the same time."""
    failure: tuple[str, str] | None = None
    """The status and the code that the device counts with."""
    is_retrying: bool = False
    """An attempt failed, and the next one has not ended."""
    earlier: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    """The status and the code of each earlier attempt."""


@dataclass(frozen=True)
class Answer:
    """What a report gets: the outcome, and the number, status and code of an attempt."""

    outcome: str
    number: int = 0
    status: str = ""
    code: str | None = None


@dataclass
class RetryModel:
    """A model of a job with a retry policy. Times are in seconds."""

    devices: dict[str, Execution]
    criteria: CriteriaModel
    last_ranks: Sequence[int]
    """Of each stage; empty: no rollout."""
    policy: Sequence[Rule]
    expires_at: float
    now: float = 0
    jitter: float = 0
    is_paused: bool = False
    canceled_at: float = math.inf
    is_forced: bool = False
    open_stage: int = 0
    automatic_retries: int = 0

    # What readers see.

    @property
    def released(self) -> int:
        """How many executions are released, and the last rank of these."""
        return self.last_ranks[self.open_stage] if self.last_ranks else len(self.devices)

    @property
    def queued_status(self) -> str:
        """The status of executions that are stored as QUEUED."""
        if self.expires_at <= min(self.now, self.canceled_at):
            return "TIMED_OUT"
        return "QUEUED" if self.canceled_at == math.inf else "REJECTED"

    def is_held(self, execution: Execution) -> bool:
        """Whether the execution is HELD."""
        return self.queued_status == "QUEUED" == execution.status and (
            execution.rank > self.released
        )

    def status(self, execution: Execution) -> str:
        """The status of an execution."""
        if execution.status == "QUEUED":
            return "HELD" if self.is_held(execution) else self.queued_status
        if execution.status == "IN_PROGRESS" and self.is_forced:
            return "REJECTED"
        return execution.status

    @property
    def job_status(self) -> str:
        """The status of the job."""
        stored = Counter(execution.status for execution in self.devices.values())
        if self.canceled_at < math.inf:
            return "CANCELED"
        is_expired = self.expires_at <= self.now
        if not stored["IN_PROGRESS"] and (is_expired or not stored["QUEUED"]):
            return "COMPLETED"
        return "PAUSED" if self.is_paused else "IN_PROGRESS"

    def counts(self, stage: int | None = None) -> Counter[str]:
        """The number of executions in each status, and of those that are retrying."""
        group = [e for e in self.devices.values() if stage in (None, e.stage)]
        counts = Counter(self.status(execution) for execution in group)
        counts["retrying"] = sum(
            e.is_retrying and self.status(e) in ("QUEUED", "IN_PROGRESS") for e in group
        )
        return counts

    @property
    def failures(self) -> Counter[tuple[str, str]]:
        """The number of devices that count as failed, by status and code."""
        return Counter(e.failure for e in self.devices.values() if e.failure)

    @property
    def is_budget_exhausted(self) -> bool:
        """Whether more than 20 devices and more than 10 percent have needed a retry."""
        needed = sum(execution.has_needed_retry for execution in self.devices.values())
        return needed > max(20, self.released / 10)

    # What devices do.

    def can_start(self, device: str) -> bool:
        """Whether StartNextExecution returns the execution."""
        execution = self.devices[device]
        status = self.status(execution)
        if status == "QUEUED":
            return not self.is_paused and execution.not_before <= self.now
        return status == "IN_PROGRESS"

    def start(self, device: str, timeout: float) -> None:
        """Start an execution that can start."""
        execution = self.devices[device]
        if execution.status == "QUEUED":
            execution.status, execution.started = "IN_PROGRESS", True
            execution.times_out_at = self.now + timeout

    def report(self, device: str, number: int | None, status: str, code: str | None) -> Answer:
        """Report the end of an attempt."""
        execution = self.devices[device]
        if self.is_held(execution):
            return Answer("EXECUTION_HELD")
        failure_code = None if status == "SUCCEEDED" else code or ""
        if number is None and execution.number > 1 and execution.started:
            return Answer("EXECUTION_CHANGED")
        reported = number or max(execution.number - 1, 1)
        if reported != execution.number:
            if execution.earlier.get(reported) == (status, failure_code):
                return Answer("REPEATED", reported, status, failure_code)
            return Answer("EXECUTION_CHANGED")
        if self.status(execution) not in PENDING:
            is_repeated = (execution.status, execution.code) == (status, failure_code)
            if is_repeated and (status == "SUCCEEDED" or execution.code is not None):
                return Answer("REPEATED", reported, status, failure_code)
            return Answer("EXECUTION_FINISHED")
        self._end(device, status, failure_code)
        return Answer("APPLIED", reported, status, failure_code)

    def time_out(self, devices: Iterable[str]) -> list[str]:
        """Time out those devices that are IN_PROGRESS for too long, and return them."""
        due = [
            name
            for name in devices
            if self.devices[name].status == "IN_PROGRESS"
            and self.devices[name].times_out_at <= self.now
            and not self.is_forced
        ]
        for name in due:
            self._end(name, "TIMED_OUT", "")
        return due

    def _end(self, device: str, status: str, code: str | None) -> None:
        execution = self.devices[device]
        execution.status, execution.code = status, code
        execution.times_out_at = math.inf
        execution.is_retrying = False
        execution.failure = None if code is None else (status, code)
        self.criteria.finish(device, status, code)
        if code is not None:
            self._retry_automatically(execution, status, code)

    def _retry_automatically(self, execution: Execution, status: str, code: str) -> None:
        rule = next((rule for rule in self.policy if rule.matches(status, code)), None)
        if rule is None or execution.attempts >= rule.max_attempts or self.canceled_at < math.inf:
            return
        not_before = self.now + self.jitter * rule.backoff(execution.attempts - 1)
        if not_before >= self.expires_at:
            return
        execution.has_needed_retry = True
        if self.is_budget_exhausted:
            return
        self._queue_next(execution, status, code)
        execution.attempts += 1
        execution.not_before, execution.is_retrying = not_before, True
        self.automatic_retries += 1

    def _queue_next(self, execution: Execution, status: str, code: str | None) -> None:
        execution.earlier[execution.number] = (status, code)
        execution.number += 1
        execution.status, execution.code, execution.started = "QUEUED", None, False

    # What operators do.

    def retry(
        self,
        devices: Collection[str],
        statuses: Collection[str],
        codes: Collection[str],
        expires_at: float | None,
    ) -> int:
        """RetryExecutions; empty devices or codes: all. Return how many executions it takes."""
        taken = []
        for name, execution in self.devices.items():
            if devices and name not in devices:
                continue
            status, code = self.status(execution), execution.code
            if status in statuses and (not codes or code in codes):
                self._queue_next(execution, status, code)
                taken.append(name)
            elif (
                execution.status == "QUEUED"
                and self.queued_status == "QUEUED"
                and execution.is_retrying
                and execution.failure is not None
                and execution.failure[0] in statuses
                and (not codes or execution.failure[1] in codes)
            ):
                taken.append(name)
        for name in taken:
            execution = self.devices[name]
            execution.attempts, execution.has_needed_retry = 1, False
            execution.failure, execution.is_retrying = None, False
            execution.not_before = -math.inf
        self.criteria.retry(taken)
        if taken and expires_at is not None:
            if self.expires_at <= self.now:
                for name, execution in self.devices.items():
                    if execution.status == "QUEUED" and name not in taken:
                        execution.status, execution.is_retrying = "TIMED_OUT", False
            self.expires_at = expires_at
        return len(taken)

    def end_by_operator(self, devices: Iterable[str]) -> None:
        """CancelExecution or DeleteDevices: end these executions, which are pending."""
        for name in devices:
            execution = self.devices[name]
            execution.status, execution.is_retrying = "REJECTED", False
            # Not a failure, but the device still counts as failed because of an earlier attempt.
            if execution.failure is None:
                self.criteria.finish(name, "REJECTED")

    def finalize(self) -> None:
        """Store what a cancel or an expiry has ended. Readers see no difference."""
        status = self.queued_status
        for execution in self.devices.values():
            if execution.status == "QUEUED" and status != "QUEUED":
                execution.status, execution.is_retrying = status, False
            elif execution.status == "IN_PROGRESS" and self.is_forced:
                execution.status, execution.is_retrying = "REJECTED", False

    # The rules of the job.

    def apply_criteria(self, finished: Collection[str], before: Sequence[Count]) -> Trip | None:
        """Apply the failure criteria after these devices have ended an attempt."""
        if self.job_status != "IN_PROGRESS" or not finished:
            return None
        trip = self.criteria.decide(self.released, finished, before)
        if trip is not None:
            action = self.criteria.criteria[trip.criterion][0].action
            if action == "PAUSE":
                self.is_paused = True
            else:
                self.canceled_at, self.is_forced = self.now, action == "FORCE_CANCEL"
        return trip

    def apply_gates(self) -> None:
        """Open the next stages while the open one is finished."""
        while (
            self.job_status == "IN_PROGRESS"
            and self.expires_at > self.now
            and self.open_stage + 1 < len(self.last_ranks)
            and not any(
                execution.status in PENDING
                for execution in self.devices.values()
                if execution.stage == self.open_stage
            )
        ):
            self.open_stage += 1
