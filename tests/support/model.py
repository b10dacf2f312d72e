"""A simple model of jobs and executions, which tests compare with the service.

The model has no derived statuses: a cancel or an expiry changes its executions at once.
"""

from collections import Counter
from dataclasses import dataclass, field

PENDING = frozenset({"QUEUED", "IN_PROGRESS"})
RETRYABLE = frozenset({"FAILED", "TIMED_OUT", "REJECTED"})


class OperationRejected(Exception):
    """The operation fails with this ErrorReason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


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

    def finish(self, status: str, failure_code: str | None = None) -> None:
        """Change the status to one that is terminal."""
        self.status, self.failure_code = status, failure_code


@dataclass
class Job:
    """A job. `expired` is only set if it expired before it finished."""

    executions: dict[str, Execution]
    status: str = "IN_PROGRESS"
    expired: bool = False
    paused: bool = False

    @property
    def active(self) -> bool:
        """Whether the job is not finished: IN_PROGRESS or PAUSED."""
        return self.status == "IN_PROGRESS"

    @property
    def visible_status(self) -> str:
        """The status that operators see."""
        return "PAUSED" if self.active and self.paused else self.status

    def count(self, status: str) -> int:
        """Count the executions with a status."""
        return sum(execution.status == status for execution in self.executions.values())

    def move(self, before: str, after: str) -> None:
        """Change all executions with one status to another status."""
        for execution in self.executions.values():
            if execution.status == before:
                execution.status = after

    def complete_if_finished(self) -> None:
        """Complete the job if no execution is pending."""
        if self.status == "IN_PROGRESS" and not self.count("QUEUED") + self.count("IN_PROGRESS"):
            self.status = "COMPLETED"


@dataclass
class Model:
    """All jobs of a tenant."""

    jobs: dict[str, Job] = field(default_factory=dict)
    _clock: int = 0

    def create(self, job_id: str, devices: list[str]) -> None:
        """CreateJob."""
        self._clock += 1
        self.jobs[job_id] = Job({device: Execution(self._clock) for device in devices})

    def cancel(self, job_id: str, force: bool) -> None:
        """CancelJob."""
        job = self.jobs[job_id]
        if job.status != "IN_PROGRESS":
            raise OperationRejected("JOB_NOT_CANCELABLE")
        job.move("QUEUED", "REJECTED")
        if force:
            job.move("IN_PROGRESS", "REJECTED")
        job.status = "CANCELED"

    def pause(self, job_id: str) -> None:
        """PauseJob."""
        job = self.jobs[job_id]
        if not job.active:
            raise OperationRejected("JOB_NOT_PAUSABLE")
        job.paused = True

    def resume(self, job_id: str) -> None:
        """ResumeJob."""
        job = self.jobs[job_id]
        if not job.active:
            raise OperationRejected("JOB_NOT_RESUMABLE")
        job.paused = False

    def failures(self, job_id: str) -> dict[tuple[str, str], int]:
        """GetFailureSummary: the number of failures by status and failure_code."""
        failed = [e for e in self.jobs[job_id].executions.values() if e.failure_code is not None]
        return Counter((e.status, e.failure_code or "") for e in failed)

    def expire(self, job_id: str) -> None:
        """Expire a job that is not finished."""
        job = self.jobs[job_id]
        job.expired = True
        job.move("QUEUED", "TIMED_OUT")
        job.complete_if_finished()

    def time_out(self, job_id: str, device: str) -> None:
        """Time out an execution that is IN_PROGRESS."""
        job, execution = self._find(job_id, device)
        execution.finish("TIMED_OUT", "")
        job.complete_if_finished()

    def cancel_execution(self, job_id: str, device: str, force: bool) -> None:
        """CancelExecution."""
        job, execution = self._find(job_id, device)
        if execution.status not in PENDING:
            raise OperationRejected("EXECUTION_FINISHED")
        if execution.status == "IN_PROGRESS" and not force:
            raise OperationRejected("EXECUTION_IN_PROGRESS")
        execution.status = "REJECTED"
        job.complete_if_finished()

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
        if retried:
            job.status = "IN_PROGRESS"
            job.expired = False
        return len(retried)

    def start(self, job_id: str, device: str) -> None:
        """StartExecution."""
        job, execution = self._find(job_id, device)
        if execution.status not in PENDING:
            raise OperationRejected("EXECUTION_FINISHED")
        if execution.status == "QUEUED" and job.paused:
            raise OperationRejected("JOB_PAUSED")
        execution.status = "IN_PROGRESS"

    def start_next(self, device: str) -> str | None:
        """StartNextExecution. Returns the job's ID, or None if no execution is pending."""
        pending = sorted(
            (job.executions[device].status == "QUEUED", job.executions[device].queued, job_id)
            for job_id, job in self.jobs.items()
            if device in job.executions
            and job.executions[device].status in PENDING
            and not (job.paused and job.executions[device].status == "QUEUED")
        )
        if not pending:
            return None
        self.start(pending[0][2], device)
        return pending[0][2]

    def report(self, job_id: str, device: str, status: str, code: str = "") -> None:
        """UpdateExecution without status_details, expected_version and execution_number."""
        job, execution = self._find(job_id, device)
        repeated = (status, code) == (execution.status, execution.failure_code or "")
        if repeated and status not in PENDING and execution.reported:
            return
        if status == "IN_PROGRESS":
            self.start(job_id, device)
            return
        if execution.status not in PENDING:
            raise OperationRejected("EXECUTION_FINISHED")
        execution.finish(status, code if status in ("FAILED", "REJECTED") else None)
        execution.reported = True
        job.complete_if_finished()

    def _find(self, job_id: str, device: str) -> tuple[Job, Execution]:
        job = self.jobs[job_id]
        if device not in job.executions:
            raise OperationRejected("EXECUTION_NOT_FOUND")
        return job, job.executions[device]
