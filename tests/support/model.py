"""What jobs, executions and devices do, said once more and simply: the model of the tests.

Everything happens at once here: a cancel or an expiry moves its executions then and there.
"""

from dataclasses import dataclass, field

LIVE = frozenset({"QUEUED", "IN_PROGRESS"})
RETRYABLE = frozenset({"FAILED", "TIMED_OUT", "REJECTED"})


class OperationRejected(Exception):
    """The operation is answered with this ErrorReason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Execution:
    """One device's part of a job. `queued` orders what was queued when."""

    queued: int
    status: str = "QUEUED"
    attempt: int = 1
    reported: bool = False
    """The device itself has ended it."""


@dataclass
class Job:
    """A job; `expired` only if it has been when it was still alive."""

    executions: dict[str, Execution]
    status: str = "IN_PROGRESS"
    expired: bool = False

    def count(self, status: str) -> int:
        """How many executions have it."""
        return sum(each.status == status for each in self.executions.values())

    def move(self, before: str, after: str) -> None:
        """Give all executions with one status another."""
        for each in self.executions.values():
            if each.status == before:
                each.status = after

    def settle(self) -> None:
        """Complete it if nothing is left to do."""
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

    def expire(self, job_id: str) -> None:
        """The clock passes the expiry of a job that is alive."""
        job = self.jobs[job_id]
        job.expired = True
        job.move("QUEUED", "TIMED_OUT")
        job.settle()

    def time_out(self, job_id: str, device: str) -> None:
        """The clock passes the deadline of an execution that is IN_PROGRESS."""
        job, execution = self._of(job_id, device)
        execution.status = "TIMED_OUT"
        job.settle()

    def cancel_execution(self, job_id: str, device: str, force: bool) -> None:
        """CancelExecution."""
        job, execution = self._of(job_id, device)
        if execution.status not in LIVE:
            raise OperationRejected("EXECUTION_FINISHED")
        if execution.status == "IN_PROGRESS" and not force:
            raise OperationRejected("EXECUTION_IN_PROGRESS")
        execution.status = "REJECTED"
        job.settle()

    def retry(self, job_id: str, statuses: set[str], renew: bool) -> int:
        """RetryExecutions, with a new expiry if `renew`. Returns how many were queued."""
        job = self.jobs[job_id]
        if job.status == "CANCELED" or (job.expired and not renew):
            raise OperationRejected("JOB_NOT_RETRYABLE")
        again = [each for each in job.executions.values() if each.status in statuses]
        self._clock += 1
        for each in again:
            each.status, each.attempt, each.queued = "QUEUED", each.attempt + 1, self._clock
            each.reported = False
        if again:
            job.status = "IN_PROGRESS"
            job.expired = False
        return len(again)

    def start(self, job_id: str, device: str) -> None:
        """StartExecution."""
        _, execution = self._of(job_id, device)
        if execution.status not in LIVE:
            raise OperationRejected("EXECUTION_FINISHED")
        execution.status = "IN_PROGRESS"

    def start_next(self, device: str) -> str | None:
        """StartNextExecution. Returns the job, if there is one."""
        mine = sorted(
            (job.executions[device].status == "QUEUED", job.executions[device].queued, job_id)
            for job_id, job in self.jobs.items()
            if device in job.executions and job.executions[device].status in LIVE
        )
        if not mine:
            return None
        self.start(mine[0][2], device)
        return mine[0][2]

    def report(self, job_id: str, device: str, status: str) -> None:
        """UpdateExecution, without details or expectations."""
        job, execution = self._of(job_id, device)
        if execution.status == status and status not in LIVE and execution.reported:
            return
        if execution.status not in LIVE:
            raise OperationRejected("EXECUTION_FINISHED")
        execution.status, execution.reported = status, status not in LIVE
        job.settle()

    def _of(self, job_id: str, device: str) -> tuple[Job, Execution]:
        job = self.jobs[job_id]
        if device not in job.executions:
            raise OperationRejected("EXECUTION_NOT_FOUND")
        return job, job.executions[device]
