"""The calls of devices, and background work."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tests.model.execution import Execution, Seconds, start
from tests.model.job import Job, with_executions
from tests.model.rules import End, apply_rules, end_attempts
from tests.model.tenant import Rejected, Result, State


@dataclass(frozen=True)
class Report:
    """A report of a device: of the attempt `number`, or without a number. None: it starts."""

    device: str
    status: str | None
    code: str = ""
    number: int | None = None
    cancel_accepted: bool = False

    @property
    def is_start(self) -> bool:
        return self.status in (None, "IN_PROGRESS")

    @property
    def failure_code(self) -> str | None:
        has_failed = self.status in ("FAILED", "REJECTED") and not self.cancel_accepted
        return self.code if has_failed else None

    @property
    def end(self) -> End:
        """How the report ends the attempt, if it does."""
        assert self.status is not None
        cause = "JOB_CANCELED" if self.cancel_accepted else "DEVICE"
        return End(self.status, self.failure_code, cause, self.cancel_accepted)


@dataclass(frozen=True)
class Outcome:
    """What a report gets: APPLIED, REPEATED or a reason; and number, status, code of an attempt."""

    name: str
    number: int = 0
    status: str = ""
    code: str | None = None


def start_execution(state: State, job_id: str, device: str) -> Result:
    job, execution = state.find(job_id, device)
    reason = job.start_error(execution)
    if reason is not None:
        raise Rejected(reason)
    return state.with_job(_start(job, execution)), None


def start_next(state: State, device: str) -> Result:
    """StartNextExecution. Returns the ID of the job, or None if no execution can start."""
    state, (job_id,) = start_next_of_all(state, [device])
    return state, job_id


def start_next_of_all(state: State, devices: Sequence[str]) -> Result:
    """StartNextExecutions. Returns the ID of the job of each device, or None.

    All choose a job before the first one starts. Those whose job is full by then choose again.
    """
    jobs: dict[str, str | None] = {}
    while waiting := [device for device in devices if device not in jobs]:
        chosen = {device: _next_job(state, device) for device in waiting}
        for device, job_id in chosen.items():
            if job_id is None:
                jobs[device] = None
            elif job_id == _next_job(state, device):
                state, jobs[device] = state.with_job(_start(*state.find(job_id, device))), job_id
    return state, [jobs[device] for device in devices]


def _next_job(state: State, device: str) -> str | None:
    """The first job in the queue of a device that it can start, or has started."""
    for job_id in queue(state, device):
        if state.job(job_id).start_error(state.find(job_id, device)[1]) is None:
            return job_id
    return None


def queue(state: State, device: str) -> list[str]:
    """The jobs in the queue of a device, also full ones and those that wait."""
    found = [(job, job.execution(device)) for job in state.jobs]
    keys = [
        queue_key(job, execution)
        for job, execution in found
        if execution is not None and job.is_queued_for_device(execution)
    ]
    return [job_id for *_, job_id in sorted(keys)]


def queue_key(job: Job, execution: Execution) -> tuple[bool, int, Seconds, str]:
    """The place of an execution in the queue of its device."""
    priority = ("HIGH", "NORMAL", "LOW").index(job.priority)
    return execution.status == "QUEUED", priority, execution.queued, job.job_id


def report(state: State, job_id: str, each: Report, jitter: Fraction = Fraction(1)) -> Result:
    """UpdateExecution."""
    state, (outcome,) = report_all(state, job_id, [each], jitter)
    if outcome.name not in ("APPLIED", "REPEATED"):
        raise Rejected(outcome.name)
    return state, outcome


def report_all(
    state: State, job_id: str, reports: Sequence[Report], jitter: Fraction = Fraction(1)
) -> Result:
    """Reports of different devices in one batch. Returns their outcomes.

    All ends are decided and applied at once. The rules of a job can forbid the starts after them.
    """
    job = state.job(job_id)
    outcomes: dict[Report, Outcome] = {}
    has_rules = job.rollout is not None or bool(job.criteria)
    for is_start in (False, True) if has_rules else (True, False):
        some = [each for each in reports if each.is_start == is_start]
        job = (_start_all if is_start else _end_all)(job, some, outcomes, jitter)
    return state.with_job(job), [outcomes[each] for each in reports]


def _start_all(
    job: Job, reports: Sequence[Report], outcomes: dict[Report, Outcome], jitter: Fraction
) -> Job:
    for each in reports:
        job, outcomes[each] = _decide_start(job, each)
    return job


def _end_all(
    job: Job, reports: Sequence[Report], outcomes: dict[Report, Outcome], jitter: Fraction
) -> Job:
    ends = {}
    for each in reports:
        outcomes[each] = _decide_end(job, each)
        if outcomes[each].name == "APPLIED":
            ends[each.device] = each.end
    return end_attempts(job, ends, jitter) if ends else job


def _start(job: Job, execution: Execution) -> Job:
    if execution.status == "IN_PROGRESS":
        return job
    return with_executions(job, [start(execution, job.now, job.timeout)])


def _decide_start(job: Job, each: Report) -> tuple[Job, Outcome]:
    execution = job.execution(each.device)
    if execution is None:
        return job, Outcome("EXECUTION_NOT_FOUND")
    reason = job.start_error(execution)
    if each.status is None and execution.status == "IN_PROGRESS":
        return job, Outcome("REPEATED", execution.number, execution.status)
    is_old = each.status is not None and job.policy is not None and execution.number > 1
    if is_old and each.number != execution.number and reason != "EXECUTION_HELD":
        return job, Outcome("EXECUTION_CHANGED")
    if reason is not None:
        return job, Outcome(reason)
    return _start(job, execution), Outcome("APPLIED", execution.number, "IN_PROGRESS")


def _decide_end(job: Job, each: Report) -> Outcome:
    """Decide what a report of an end does.

    With a retry policy, a report without a number may be a late one of the attempt before.
    """
    execution = job.execution(each.device)
    if execution is None:
        return Outcome("EXECUTION_NOT_FOUND")
    if job.is_held(execution):
        return Outcome("EXECUTION_HELD")
    assert each.status is not None
    number = each.number
    if number is None:
        if job.policy is None:
            number = execution.number
        elif execution.number > 1 and execution.started:
            return Outcome("EXECUTION_CHANGED")
        else:
            number = max(execution.number - 1, 1)
    end = (each.status, each.failure_code)
    if number != execution.number:
        if job.policy is not None and 0 < number < execution.number:
            earlier = execution.earlier[number - 1]
            if (earlier.status, earlier.code) == end and each.failure_code is not None:
                return Outcome("REPEATED", number, *end)
        return Outcome("EXECUTION_CHANGED")
    if not execution.is_pending:
        is_by_device = execution.cause == "DEVICE" or execution.cancel_accepted
        is_repeated = is_by_device and (execution.status, execution.code) == end
        return Outcome("REPEATED", number, *end) if is_repeated else Outcome("EXECUTION_FINISHED")
    if each.cancel_accepted and job.status != "CANCELED":
        return Outcome("CANCEL_NOT_REQUESTED")
    return Outcome("APPLIED", number, *end)


def cancel_requested(state: State, job_id: str, device: str) -> bool:
    """Whether the device learns that it may end its execution."""
    job, execution = state.find(job_id, device)
    return job.status == "CANCELED" and execution.status == "IN_PROGRESS"


def ended_by_others(state: State, device: str) -> list[tuple[str, int, str]]:
    """The attempts that others ended and that the device has not acknowledged, sorted."""
    executions = [(job.job_id, job.execution(device)) for job in state.jobs]
    return sorted(
        (job_id, *each.ended_by_others)
        for job_id, each in executions
        if each is not None and each.ended_by_others is not None
    )


def acknowledge(state: State, device: str, attempts: Sequence[tuple[str, int]]) -> Result:
    """AcknowledgeExecutions."""
    for job_id, number, _ in ended_by_others(state, device):
        if (job_id, number) in attempts:
            job, execution = state.find(job_id, device)
            known = replace(execution, ended_by_others=None)
            state = state.with_job(with_executions(job, [known]))
    return state, None


def wait(state: State) -> Result:
    """Nothing but time passes."""
    return state, None


def sweep(state: State, jitter: Fraction = Fraction(1)) -> Result:
    """Background work: time out executions, and open the stages for which it is time."""
    how = End("TIMED_OUT", "", "TIMEOUT")
    for job in state.jobs:
        overdue = [
            (e.times_out, e.device)
            for e in job.executions
            if e.times_out is not None and e.times_out <= state.now
        ]
        if overdue:
            job = end_attempts(job, {device: how for _, device in sorted(overdue)}, jitter)
        state = state.with_job(apply_rules(job))
    return state, None
