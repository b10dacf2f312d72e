"""A job: its state, what readers see of it, and its events.

The state has no derived statuses except HELD: a cancel or an expiry changes the executions at once.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tests.model import retries
from tests.model.criteria import Count, Criteria, Trip, count_all
from tests.model.execution import Execution, Seconds
from tests.model.stages import Rollout, minimum_time
from tests.model.targets import Term
from tests.model.windows import Window, next_due


@dataclass(frozen=True)
class Event:
    """An event of a job. `details` are those of the service, without reasons."""

    type: str
    status: str
    counts: Mapping[str, int] | None
    """None: another event of the same change follows, and only that one is compared."""
    user: str | None
    details: Mapping[str, object]


@dataclass(frozen=True)
class Job:
    """The state of a job at the time `now`."""

    job_id: str
    executions: tuple[Execution, ...]
    """In the order of release."""
    now: Seconds
    start: Seconds
    expires: Seconds | None = None
    has_start_at: bool = False
    """Whether the request had a start time."""
    has_started: bool = True
    """Whether the start time has passed while the job was not paused."""
    status: str = "IN_PROGRESS"
    has_expired: bool = False
    pause_cause: str | None = None
    start_approved: bool | None = None
    """None: the start needs no approval."""
    expires_after_approval: Seconds | None = None
    """How long after its approval or start the job expires; None: the approval keeps expires."""
    trip: Trip | None = None
    rollout: Rollout | None = None
    criteria: Criteria = ()
    max_in_progress: int | None = None
    policy: tuple[retries.Rule, ...] | None = None
    """None: there was never one."""
    automatic_retries: int = 0
    timeout: Seconds | None = None
    windows: tuple[Window, ...] = ()
    zone: str | None = "UTC"
    """Of the windows; None: that of each device."""
    priority: str = "NORMAL"
    labels: frozenset[tuple[str, str]] = frozenset()
    execution_events: bool = False
    replaces: str = ""
    replaced_by: str = ""
    target: tuple[Term, ...] | None = None
    """Devices that match can join; None: the job is not continuous."""
    max_joins: int | None = None
    hour: Seconds | None = None
    """When the hour of the join brake began."""
    hour_joins: int = 0
    joins_stopped: bool = False
    awaiting_approval: bool = False
    """The event has been added. An approval, an open stage and an end of the job reset it."""
    events: tuple[Event, ...] = field(default=(), compare=False)

    def execution(self, device: str) -> Execution | None:
        return next((e for e in self.executions if e.device == device), None)

    @property
    def is_active(self) -> bool:
        """Whether the job is not finished: IN_PROGRESS, PAUSED or SCHEDULED."""
        return self.status == "IN_PROGRESS"

    @property
    def is_paused(self) -> bool:
        """Whether the job has a pause; one that is finished keeps it."""
        return self.pause_cause is not None

    @property
    def is_scheduled(self) -> bool:
        """Whether the start time has not passed."""
        return self.now < self.start

    @property
    def visible_status(self) -> str:
        if not self.is_active:
            return self.status
        if self.has_expired and not self.count("IN_PROGRESS"):
            return "COMPLETED"
        if self.is_paused:
            return "PAUSED"
        return "SCHEDULED" if self.is_scheduled else "IN_PROGRESS"

    @property
    def statuses(self) -> list[str]:
        """The status of each rank, without HELD."""
        return [execution.status for execution in self.executions]

    @property
    def released(self) -> int | None:
        """How many executions are released; None: all."""
        if not self.has_started:
            return 0
        return self.rollout.released if self.rollout else None

    def is_held(self, execution: Execution) -> bool:
        released = self.released
        return execution.status == "QUEUED" and released is not None and execution.rank > released

    def visible(self, execution: Execution) -> str:
        return "HELD" if self.is_held(execution) else execution.status

    def count(self, status: str) -> int:
        return self.statuses.count(status)

    def counts(self, stage: int | None = None) -> Counter[str]:
        """The number of executions in each status that readers see, and of those that retry."""
        group = [e for e in self.executions if stage in (None, e.stage)]
        counts = Counter(self.visible(execution) for execution in group)
        counts["retrying"] = sum(execution.is_retrying for execution in group)
        return +counts

    @property
    def failures(self) -> Counter[tuple[str, str]]:
        """The number of devices that count as failed, by status and code."""
        failures = [execution.failure for execution in self.executions]
        return Counter((failure.status, failure.code) for failure in failures if failure)

    @property
    def is_budget_exhausted(self) -> bool:
        """Whether no further failure is retried automatically."""
        released = len(self.executions) if self.released is None else self.released
        return retries.is_budget_exhausted(self.executions, released)

    @property
    def criterion_states(self) -> list[Count]:
        open_stage = self.rollout.open_stage if self.rollout else 0
        counts = count_all(self.criteria, self.stage_count, self.executions, self.released)
        return [count for count in counts if (count.stage or 0) <= open_stage]

    @property
    def stage_count(self) -> int:
        """The number of stages; 1 without a rollout."""
        return len(self.rollout.stages) if self.rollout else 1

    # Starts

    @property
    def is_full(self) -> bool:
        """Whether no further device can start."""
        limit = self.max_in_progress
        return limit is not None and self.count("IN_PROGRESS") >= limit

    def due(self, execution: Execution, at: Seconds) -> Seconds:
        """The first time from `at` on at which neither backoff nor windows delay a start."""
        if execution.not_before is not None:
            at = max(at, execution.not_before)
        return next_due(self.windows, self.zone or execution.zone, at)

    def is_waiting(self, execution: Execution) -> bool:
        """Whether a QUEUED execution waits, so that its device does not see it."""
        return execution.status == "QUEUED" and self.due(execution, self.now) != self.now

    def is_queued_for_device(self, execution: Execution) -> bool:
        """Whether the execution is in the queue of its device, perhaps waiting."""
        if execution.status == "QUEUED":
            return not (self.is_paused or self.is_held(execution))
        return execution.status == "IN_PROGRESS"

    def start_error(self, execution: Execution) -> str | None:
        """The reason why StartExecution fails; None: it succeeds."""
        if self.is_held(execution):
            return "EXECUTION_HELD"
        if not execution.is_pending:
            return "EXECUTION_FINISHED"
        if execution.status == "QUEUED":
            if self.is_paused:
                return "JOB_PAUSED"
            if self.is_waiting(execution):
                return "EXECUTION_NOT_DUE"
            if self.is_full:
                return "JOB_FULL"
        return None

    @property
    def minimum_time(self) -> Seconds:
        """How long the rest takes, from the start on, if every device succeeds at once."""
        if self.rollout is None:
            return 0
        return minimum_time(self.rollout, {e.rank for e in self.executions if e.status == "QUEUED"})


def with_executions(job: Job, changed: Iterable[Execution]) -> Job:
    by_device = {execution.device: execution for execution in changed}
    executions = tuple(by_device.get(each.device, each) for each in job.executions)
    return replace(job, executions=executions)


def add_event(job: Job, event_type: str, user: str | None = None, **details: object) -> Job:
    """Add an event with the status and the counts that readers see."""
    counts = Counter(job.visible(execution).lower() for execution in job.executions)
    event = Event(event_type, job.visible_status, counts, user, details)
    return replace(job, events=(*job.events, event))
