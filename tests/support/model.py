"""A simple model of jobs and executions, which tests compare with the service.

The model has no derived statuses, except HELD: a cancel or an expiry changes its executions at
once. Its time passes only by `Model.wait`.
"""

import copy
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from tests.support.criteria_model import CriteriaModel, Criterion, Device, Trip
from tests.support.rollout_model import Rollout

PENDING = frozenset({"QUEUED", "IN_PROGRESS"})
RETRYABLE = frozenset({"FAILED", "TIMED_OUT", "REJECTED"})


class OperationRejected(Exception):
    """The operation fails with this ErrorReason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Event:
    """An event of a job. `user` and `details` are those of the service, without reasons."""

    type: str
    status: str
    counts: Mapping[str, int] | None
    """None: another event of the same change follows, and only that one is compared."""
    user: str | None
    details: Mapping[str, object]


@dataclass
class Execution:
    """One device's part of a job. `queued` is the logical time at which it was queued."""

    queued: int
    status: str = "QUEUED"
    attempt: int = 1
    reported: bool = False
    """A report of the device finished it."""
    failure_code: str | None = None
    """Set if the device failed."""
    finished: int = 0
    """The logical time at which it finished."""
    end_cause: str | None = None
    """What ended it; None: it is pending."""
    earlier_causes: list[str | None] = field(default_factory=list)
    """What ended the earlier attempts, the first one first."""


@dataclass
class Job:
    """A job."""

    executions: dict[str, Execution]
    rollout: Rollout | None = None
    criteria: list[tuple[Criterion, int]] = field(default_factory=list)
    """Each with the logical time after which it counts."""
    max_in_progress: int | None = None
    priority: str = "NORMAL"
    status: str = "IN_PROGRESS"
    expired: bool = False
    pause_cause: str | None = None
    """None: not paused."""
    trip: Trip | None = None
    start_in: int | Fraction = 0
    """Minutes until the start time; 0: it has passed."""
    has_started: bool = True
    """Whether the start time has passed while the job was not paused."""
    expires_in: int | Fraction | None = None
    """Minutes until the job expires; None: never, or by `Model.expire`."""
    execution_events: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    is_window_closed: bool = False
    """No start window is open for days."""
    awaiting_approval: bool = False
    """The event has been added. An approval, an open stage and an end of the job reset it."""
    events: list[Event] = field(default_factory=list)

    @property
    def paused(self) -> bool:
        """Whether the job has a pause; one that is finished keeps it."""
        return self.pause_cause is not None

    @property
    def active(self) -> bool:
        """Whether the job is not finished: IN_PROGRESS, PAUSED or SCHEDULED."""
        return self.status == "IN_PROGRESS"

    @property
    def visible_status(self) -> str:
        """The status that operators see."""
        if not self.active:
            return self.status
        if self.expired and not self.count("IN_PROGRESS"):
            return "COMPLETED"
        if self.paused:
            return "PAUSED"
        return "SCHEDULED" if self.start_in else "IN_PROGRESS"

    @property
    def released(self) -> int | None:
        """How many executions are released; None: all."""
        if not self.has_started:
            return 0
        return self.rollout.released if self.rollout else None

    def visible_execution_status(self, device: str) -> str:
        """The status of an execution that operators see."""
        return "HELD" if self.is_held(device) else self.executions[device].status

    def is_held(self, device: str) -> bool:
        """Whether the job has not started, or has not released the execution of a device."""
        released = self.released
        if released is None or self.executions[device].status != "QUEUED":
            return False
        return self.rollout is None or self.rollout.rank(device) > released

    @property
    def is_full(self) -> bool:
        """Whether no further device can start."""
        return self.max_in_progress is not None and self.count("IN_PROGRESS") >= (
            self.max_in_progress
        )

    def is_pending(self, device: str) -> bool:
        """Whether an execution is in the queue of its device."""
        if self.executions[device].status == "QUEUED":
            return not (self.paused or self.is_held(device))
        return self.executions[device].status == "IN_PROGRESS"

    def is_waiting(self, device: str) -> bool:
        """Whether a QUEUED execution waits for a start window. Its device does not see it."""
        return self.is_window_closed and self.executions[device].status == "QUEUED"

    def can_start(self, device: str) -> bool:
        """Whether a device can start its execution, or has started it."""
        is_started = self.executions[device].status == "IN_PROGRESS"
        may_start = not (self.is_full or self.is_waiting(device))
        return self.is_pending(device) and (is_started or may_start)

    def count(self, status: str) -> int:
        """Count the executions with a status."""
        return sum(execution.status == status for execution in self.executions.values())

    def add_event(self, event_type: str, user: str | None = None, **details: object) -> None:
        """Add an event."""
        counts = Counter(self.visible_execution_status(d).lower() for d in self.executions)
        self.events.append(Event(event_type, self.visible_status, dict(counts), user, details))

    def add_finished(self, device: str, status: str, user: str | None = None) -> None:
        """Add the event of an execution that has finished."""
        if self.execution_events:
            execution = {
                "device_id": device,
                "status": status,
                "failure_code": self.executions[device].failure_code or "",
                "execution_number": self.executions[device].attempt,
                "will_retry": False,
            }
            self.add_event("executions.finished", user, attempts=[execution])

    def end(self, before: str, after: str, cause: str) -> None:
        """End all executions with one status."""
        for execution in self.executions.values():
            if execution.status == before:
                execution.status, execution.end_cause = after, cause

    def pause(self, cause: str, user: str | None = None) -> None:
        """Pause the job."""
        self.pause_cause = cause
        self.add_event("job.paused", user, cause=cause)

    def cancel(self, force: bool, cause: str, user: str | None = None) -> None:
        """Cancel the job."""
        self.end("QUEUED", "REJECTED", "JOB_CANCELED")
        if force:
            self.end("IN_PROGRESS", "REJECTED", "JOB_CANCELED")
        self.status = "CANCELED"
        self.awaiting_approval = False
        self.add_event("job.canceled", user, cause=cause)

    def start_if_due(self) -> None:
        """Start if the start time has passed. The job is not paused."""
        self.has_started = not self.start_in
        if self.rollout is not None:
            self.rollout.has_started = self.has_started

    def resume(self, now: int, user: str) -> None:
        """End the pause. The criteria count what finishes after `now`."""
        self.pause_cause = None
        self.start_if_due()
        self.criteria = [(criterion, now) for criterion, _ in self.criteria]
        if self.rollout is not None:
            self.rollout.accept_failed_gate(self._statuses())
        self.add_event("job.resumed", user)
        self.apply_rules()

    def _statuses(self) -> dict[str, str]:
        return {device: execution.status for device, execution in self.executions.items()}

    def expire(self) -> None:
        """Expire, unless it has."""
        if self.expired:
            return
        was_active = self.active
        self.expired = True
        self.end("QUEUED", "TIMED_OUT", "JOB_EXPIRED")
        if was_active:
            self.awaiting_approval = False
            if not self.count("IN_PROGRESS"):
                self.status = "COMPLETED"
            self.add_event("job.expired")
            if not self.active:
                self.add_event("job.completed")

    def apply_rules(
        self,
        finished: Collection[str] | None = (),
        user: str | None = None,
        approved_by: str | None = None,
    ) -> None:
        """Complete the job, or apply its failure criteria and the gates of its stages.

        `finished` are the devices that have just ended; None: the criteria have changed. `user` has
        finished executions, and `approved_by` has approved the open stage.
        """
        if self.active and not self.count("QUEUED") + self.count("IN_PROGRESS"):
            self.status = "COMPLETED"
            self.awaiting_approval = False
            self.add_event("job.completed", user)
        if not self.active or self.paused:
            return
        if self._apply_criteria(finished) or self.rollout is None or self.expired:
            return
        self._apply_gates(self.rollout, approved_by)

    def _apply_gates(self, rollout: Rollout, user: str | None) -> None:
        before = rollout.open_stage
        can_be_met = rollout.open_stages(self._statuses())
        for stage in range(before + 1, rollout.open_stage + 1):
            self.awaiting_approval = False
            self.add_event("job.stage_opened", user, stage=stage, cause="GATE")
            if stage < rollout.open_stage:
                self.events[-1].counts = None
        if not can_be_met:
            self.awaiting_approval = False
            self.pause("GATE_NOT_MET")
        elif rollout.awaiting_approval != self.awaiting_approval:
            self.awaiting_approval = rollout.awaiting_approval
            if self.awaiting_approval:
                self.add_event("job.awaiting_approval", stage=rollout.open_stage)

    def _apply_criteria(self, finished: Collection[str] | None) -> bool:
        """Pause or cancel the job if a criterion trips; return whether one has."""
        devices = {
            device: Device(
                stage=self.rollout.stage(device) if self.rollout else 0,
                rank=self.rollout.rank(device) if self.rollout else 0,
                status=execution.status,
                failure_code=execution.failure_code,
                finished=execution.finished,
            )
            for device, execution in self.executions.items()
        }
        trip = CriteriaModel(devices, self.criteria).decide(self.released, finished)
        if trip is None:
            return False
        self.trip = trip
        if trip.stage is None:
            self.add_event("job.tripped")
        else:
            self.add_event("job.tripped", stage=trip.stage)
        action = self.criteria[trip.criterion][0].action
        if action == "PAUSE":
            self.pause("FAILURE_CRITERION")
        else:
            self.cancel(action == "FORCE_CANCEL", "FAILURE_CRITERION")
        return True


@dataclass
class Model:
    """All jobs of a tenant."""

    user: str = ""
    """Who makes the calls of operators, except ApproveStage."""
    jobs: dict[str, Job] = field(default_factory=dict)
    devices: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """The registered devices, with their labels."""
    _clock: int = 0

    def create(
        self,
        job_id: str,
        devices: list[str],
        rollout: Rollout | None = None,
        criteria: list[Criterion] | None = None,
        max_in_progress: int | None = None,
        start_in: int | Fraction = 0,
        expires_in: int | Fraction | None = None,
        priority: str = "NORMAL",
        execution_events: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """CreateJob. The job expires `expires_in` minutes after its start."""
        self._clock += 1
        self.jobs[job_id] = Job(
            {device: Execution(self._clock) for device in devices},
            rollout,
            [(criterion, self._clock) for criterion in criteria or []],
            max_in_progress,
            start_in=start_in,
            expires_in=None if expires_in is None else start_in + expires_in,
            priority=priority,
            execution_events=execution_events,
            labels=labels or {},
        )
        self.jobs[job_id].start_if_due()
        self.jobs[job_id].add_event("job.created", self.user)
        self.jobs[job_id].apply_rules()

    def wait(self, minutes: int | Fraction = 1) -> None:
        """Time passes. Rates and gates stand still before the start and during a pause."""
        for job in self.jobs.values():
            since_start = max(minutes - job.start_in, 0)
            job.start_in = max(job.start_in - minutes, 0)
            if job.expires_in is not None:
                job.expires_in -= minutes
                if job.expires_in <= 0 and not job.expired:
                    job.expire()
            if not job.paused:
                job.start_if_due()
                if job.rollout is not None:
                    job.rollout.minutes += since_start
                job.apply_rules()

    def cancel(self, job_id: str, force: bool) -> None:
        """CancelJob."""
        job = self.jobs[job_id]
        if not job.active:
            raise OperationRejected("JOB_NOT_CANCELABLE")
        job.cancel(force, "OPERATOR", self.user)

    def pause(self, job_id: str) -> None:
        """PauseJob."""
        job = self.jobs[job_id]
        if not job.active:
            raise OperationRejected("JOB_NOT_PAUSABLE")
        if not job.paused:
            job.pause("OPERATOR", self.user)

    def resume(self, job_id: str) -> None:
        """ResumeJob."""
        before = self.jobs[job_id]
        if not before.active:
            raise OperationRejected("JOB_NOT_RESUMABLE")
        if not before.paused:
            return
        self._clock += 1
        job = copy.deepcopy(before)
        job.resume(self._clock, self.user)
        if job.pause_cause == "GATE_NOT_MET":
            raise OperationRejected("GATE_NOT_MET")
        self.jobs[job_id] = job

    def advance(self, job_id: str) -> None:
        """AdvanceJob."""
        job = self.jobs[job_id]
        if not job.active or job.start_in or job.rollout is None or job.rollout.is_last:
            raise OperationRejected("JOB_NOT_ADVANCEABLE")
        if job.rollout.needs_approval:
            raise OperationRejected("APPROVAL_REQUIRED")
        job.rollout.open_next()
        job.awaiting_approval = False
        stage = job.rollout.open_stage
        job.add_event("job.stage_opened", self.user, stage=stage, cause="OPERATOR")
        job.apply_rules()

    def approve(self, job_id: str, stage: int, user: str) -> None:
        """ApproveStage, by another user than the creator."""
        job = self.jobs[job_id]
        stages = job.rollout.stages if job.rollout else []
        if stage >= len(stages) or not stages[stage].require_approval:
            raise OperationRejected("STAGE_NOT_APPROVABLE")
        assert job.rollout is not None
        if stages[stage].approved:
            return
        if not job.active or stage != job.rollout.open_stage:
            raise OperationRejected("STAGE_NOT_APPROVABLE")
        stages[stage].approved = True
        job.awaiting_approval = False
        job.add_event("job.approved", user, stage=stage)
        job.apply_rules(approved_by=user)

    def update_criteria(self, job_id: str, criteria: list[Criterion]) -> None:
        """UpdateJob with failure_criteria."""
        job = self._updatable(job_id)
        self._clock += 1
        updated = CriteriaModel({}, job.criteria, self._clock)
        updated.replace(criteria)
        job.criteria = updated.criteria
        self._add_updated(job, "failure_criteria")
        job.apply_rules(finished=None)

    def update_max_in_progress(self, job_id: str, max_in_progress: int | None) -> None:
        """UpdateJob with rollout.max_in_progress."""
        job = self._updatable(job_id)
        if job.rollout is None:
            raise OperationRejected("INVALID_FIELD")
        job.max_in_progress = max_in_progress
        self._add_updated(job, "rollout.max_in_progress")

    def update_rate(self, job_id: str, rate: int | None) -> None:
        """UpdateJob with rollout.stages: another rate of the stages that have not passed."""
        job = copy.deepcopy(self._updatable(job_id))
        if job.rollout is None:
            raise OperationRejected("INVALID_FIELD")
        job.rollout.change_rate(rate)
        self._add_updated(job, "rollout.stages")
        job.apply_rules()
        self._replace_if_expiry_fits(job_id, job)

    def update_start(self, job_id: str, minutes: int | Fraction) -> None:
        """UpdateJob with start_at, which moves the expiry as well."""
        job = copy.deepcopy(self._updatable(job_id))
        if not job.start_in:
            raise OperationRejected("JOB_NOT_UPDATABLE")
        if job.expires_in is not None:
            job.expires_in += minutes - job.start_in
        job.start_in = minutes
        if not job.paused:
            job.start_if_due()
        self._add_updated(job, "start_at")
        job.apply_rules()
        self._replace_if_expiry_fits(job_id, job)

    def _replace_if_expiry_fits(self, job_id: str, job: Job) -> None:
        """Store an updated job, unless the rest of its rollout can't end before it expires."""
        before, self.jobs[job_id] = self.jobs[job_id], job
        minutes = job.expires_in
        if minutes is None or job.expired:
            return
        if minutes <= job.start_in + self.minimum_minutes(job_id):
            self.jobs[job_id] = before
            raise OperationRejected("EXPIRY_TOO_EARLY")

    def minimum_minutes(self, job_id: str) -> Fraction:
        """How long the rest of the job's rollout takes if every device succeeds at once."""
        job = self.jobs[job_id]
        if job.rollout is None:
            return Fraction(0)
        queued = [device for device, e in job.executions.items() if e.status == "QUEUED"]
        return job.rollout.minimum_minutes(queued)

    def update_expiry(self, job_id: str, minutes: Fraction | None) -> None:
        """UpdateJob with expires_at. None: never."""
        job = copy.deepcopy(self._updatable(job_id))
        if job.expired:
            raise OperationRejected("JOB_NOT_UPDATABLE")
        job.expires_in = minutes
        self._add_updated(job, "expires_at")
        job.apply_rules()
        self._replace_if_expiry_fits(job_id, job)

    def update_windows(self, job_id: str, *, is_closed: bool) -> None:
        """UpdateJob with start_windows. Removes the expiry, which can be before the window."""
        job = copy.deepcopy(self._updatable(job_id))
        if job.expired:
            raise OperationRejected("JOB_NOT_UPDATABLE")
        job.is_window_closed, job.expires_in = is_closed, None
        self._add_updated(job, "expires_at", "start_windows")
        job.apply_rules()
        self.jobs[job_id] = job

    def update_retry_policy(self, job_id: str) -> None:
        """UpdateJob with a retry policy that no failure matches."""
        job = self._updatable(job_id)
        self._add_updated(job, "retry_policy")
        job.apply_rules()

    def update_labels(self, job_id: str, labels: Mapping[str, str]) -> None:
        """UpdateJob with labels, in any status."""
        job = self.jobs[job_id]
        job.labels = labels
        self._add_updated(job, "labels")

    def delete(self, job_id: str) -> None:
        """DeleteJob."""
        job = self.jobs[job_id]
        if job.active or job.count("IN_PROGRESS"):
            raise OperationRejected("JOB_NOT_DELETABLE")
        del self.jobs[job_id]

    def delete_device(self, device: str) -> int:
        """DeleteDevices, by a caller without a user. Returns how many executions it has ended."""
        self.devices.pop(device, None)
        ended = 0
        for job in self.jobs.values():
            execution = job.executions.get(device)
            if execution is not None and execution.status == "QUEUED":
                execution.status, execution.end_cause = "REJECTED", "DEVICE_REMOVED"
                job.add_finished(device, "REJECTED")
                job.apply_rules()
                ended += 1
        return ended

    def _updatable(self, job_id: str) -> Job:
        job = self.jobs[job_id]
        if not job.active:
            raise OperationRejected("JOB_NOT_UPDATABLE")
        return job

    def _add_updated(self, job: Job, *names: str) -> None:
        job.add_event("job.updated", self.user, updated_fields=list(names))

    def failures(self, job_id: str) -> dict[tuple[str, str], int]:
        """GetFailureSummary: the number of failures by status and failure_code."""
        failed = [e for e in self.jobs[job_id].executions.values() if e.failure_code is not None]
        return Counter((e.status, e.failure_code or "") for e in failed)

    def expire(self, job_id: str) -> None:
        """Expire a job."""
        self.jobs[job_id].expire()

    def time_out(self, job_id: str, device: str) -> None:
        """Time out an execution that is IN_PROGRESS."""
        job, execution = self._find(job_id, device)
        self._finish(execution, "TIMED_OUT", "", "TIMEOUT")
        job.add_finished(device, "TIMED_OUT")
        job.apply_rules([device])

    def cancel_execution(self, job_id: str, device: str, force: bool) -> None:
        """CancelExecution."""
        job, execution = self._find(job_id, device)
        if execution.status not in PENDING:
            raise OperationRejected("EXECUTION_FINISHED")
        if execution.status == "IN_PROGRESS" and not force:
            raise OperationRejected("EXECUTION_IN_PROGRESS")
        execution.status, execution.end_cause = "REJECTED", "EXECUTION_CANCELED"
        job.add_finished(device, "REJECTED", self.user)
        job.apply_rules(user=self.user)

    def retry(
        self, job_id: str, statuses: set[str], codes: set[str], devices: set[str], renew: bool
    ) -> int:
        """RetryExecutions, with a new expiry if `renew`. Returns how many were retried."""
        job = self.jobs[job_id]
        if job.status == "CANCELED" or (job.expired and not renew):
            raise OperationRejected("JOB_NOT_RETRYABLE")
        retried = [
            e
            for device, e in job.executions.items()
            if e.status in statuses
            and (not codes or e.failure_code in codes)
            and (not devices or device in devices)
        ]
        self._clock += 1
        for execution in retried:
            execution.status, execution.queued = "QUEUED", self._clock
            execution.attempt += 1
            execution.reported, execution.failure_code = False, None
            execution.earlier_causes.append(execution.end_cause)
            execution.end_cause = None
        if retried:
            job.status = "IN_PROGRESS"
            job.expired = False
            if renew:
                job.expires_in = None
            job.add_event("job.retried", self.user, retried_count=len(retried))
            job.apply_rules()
        return len(retried)

    def start(self, job_id: str, device: str) -> None:
        """StartExecution."""
        job, execution = self._find(job_id, device)
        if job.is_held(device):
            raise OperationRejected("EXECUTION_HELD")
        if execution.status not in PENDING:
            raise OperationRejected("EXECUTION_FINISHED")
        if execution.status == "QUEUED" and job.paused:
            raise OperationRejected("JOB_PAUSED")
        if job.is_waiting(device):
            raise OperationRejected("EXECUTION_NOT_DUE")
        if execution.status == "QUEUED" and job.is_full:
            raise OperationRejected("JOB_FULL")
        execution.status = "IN_PROGRESS"

    def start_next(self, device: str) -> str | None:
        """StartNextExecution. Returns the job's ID, or None if no execution is pending."""
        for job_id in self.queue(device):
            if self.jobs[job_id].can_start(device):
                self.start(job_id, device)
                return job_id
        return None

    def queue(self, device: str) -> list[str]:
        """The queue of GetDevice: the job of each, also of full jobs and of waiting executions."""
        pending = [
            (
                job.executions[device].status == "QUEUED",
                ("HIGH", "NORMAL", "LOW").index(job.priority),
                job.executions[device].queued,
                job_id,
            )
            for job_id, job in self.jobs.items()
            if device in job.executions and job.is_pending(device)
        ]
        return [job_id for *_, job_id in sorted(pending)]

    def report(self, job_id: str, device: str, status: str, code: str = "") -> None:
        """UpdateExecution without status_details, expected_version and execution_number."""
        job, execution = self._find(job_id, device)
        repeated = (status, code) == (execution.status, execution.failure_code or "")
        if repeated and status not in PENDING and execution.reported:
            return
        if status == "IN_PROGRESS":
            self.start(job_id, device)
            return
        if job.is_held(device):
            raise OperationRejected("EXECUTION_HELD")
        if execution.status not in PENDING:
            raise OperationRejected("EXECUTION_FINISHED")
        failure_code = code if status in ("FAILED", "REJECTED") else None
        self._finish(execution, status, failure_code, "DEVICE")
        execution.reported = True
        job.add_finished(device, status)
        job.apply_rules([device])

    def _finish(
        self, execution: Execution, status: str, failure_code: str | None, end_cause: str
    ) -> None:
        self._clock += 1
        execution.status, execution.failure_code = status, failure_code
        execution.end_cause = end_cause
        execution.finished = self._clock

    def _find(self, job_id: str, device: str) -> tuple[Job, Execution]:
        job = self.jobs[job_id]
        if device not in job.executions:
            raise OperationRejected("EXECUTION_NOT_FOUND")
        return job, job.executions[device]
