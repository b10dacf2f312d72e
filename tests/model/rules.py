"""What a job does by itself: it starts, expires, completes, retries, trips, and opens stages."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from tests.model import criteria, retries, stages
from tests.model.execution import Execution, Seconds, end
from tests.model.job import Job, add_event, with_executions


@dataclass(frozen=True)
class End:
    """How an attempt ends. With a code, it failed by itself."""

    status: str
    code: str | None
    cause: str
    cancel_accepted: bool = False
    """The device ends the attempt because the job was canceled."""

    @property
    def is_by_others(self) -> bool:
        return self.cause in ("EXECUTION_CANCELED", "DEVICE_DELETED")


def pass_time(job: Job, now: Seconds) -> Job:
    """Let time pass. The clock of the rollout stands still before the start and during a pause."""
    elapsed = max(now - max(job.now, job.start), 0)
    job = replace(job, now=now)
    if not job.is_paused and job.status != "CANCELED":
        job = start_if_due(job)
        if job.rollout is not None:
            rollout = replace(job.rollout, elapsed=job.rollout.elapsed + elapsed)
            job = replace(job, rollout=rollout)
    if job.expires is not None and job.expires <= now and not job.has_expired:
        job = _expire(job)
    return job


def start_if_due(job: Job) -> Job:
    """Start the job if the start time has passed. It is not paused."""
    job = replace(job, has_started=not job.is_scheduled)
    if job.rollout is not None:
        job = replace(job, rollout=replace(job.rollout, has_started=job.has_started))
    return job


def _expire(job: Job) -> Job:
    was_active = job.is_active
    job = _end_all(job, "QUEUED", End("TIMED_OUT", None, "JOB_EXPIRED"))
    job = replace(job, has_expired=True, target=None)
    if was_active:
        is_complete = not job.count("IN_PROGRESS")
        job = replace(
            job, awaiting_approval=False, status="COMPLETED" if is_complete else job.status
        )
        job = add_event(job, "job.expired")
        if is_complete:
            job = add_event(job, "job.completed")
    return job


def _end_all(job: Job, status: str, how: End) -> Job:
    ended = [
        end(execution, job.now, how.status, how.code, how.cause)
        for execution in job.executions
        if execution.status == status
    ]
    return with_executions(job, ended)


def pause(job: Job, cause: str, user: str | None = None) -> Job:
    return add_event(replace(job, pause_cause=cause), "job.paused", user, cause=cause)


def cancel(job: Job, force: bool, cause: str, user: str | None = None, **details: object) -> Job:
    """Cancel the job. With force, also end the executions that are IN_PROGRESS."""
    job = _end_all(job, "QUEUED", End("REJECTED", None, "JOB_CANCELED"))
    if force:
        job = _end_all(job, "IN_PROGRESS", End("REJECTED", None, "JOB_CANCELED"))
    job = replace(job, status="CANCELED", awaiting_approval=False, target=None)
    return add_event(job, "job.canceled", user, cause=cause, **details)


def end_attempts(
    job: Job, ends: Mapping[str, End], jitter: Fraction = Fraction(1), user: str | None = None
) -> Job:
    """End the attempts of devices at once, queue those that are retried, and apply the rules."""
    before = job
    attempts = []
    for device, how in ends.items():
        execution = job.execution(device)
        assert execution is not None
        execution = end(
            execution,
            job.now,
            how.status,
            how.code,
            how.cause,
            cancel_accepted=how.cancel_accepted,
        )
        job, will_retry = _retry(with_executions(job, [execution]), execution, jitter)
        attempts.append(
            {
                "device_id": device,
                "status": how.status,
                "failure_code": how.code or "",
                "execution_number": execution.number,
                "will_retry": will_retry,
            }
        )
    if job.execution_events:
        job = add_event(job, "executions.finished", user, attempts=attempts)
    ended = [device for device, how in ends.items() if not how.is_by_others]
    return apply_rules(job, ended, before.executions, user)


def _retry(job: Job, execution: Execution, jitter: Fraction) -> tuple[Job, bool]:
    """Queue the next attempt of an execution that has ended, if the policy says so."""
    if execution.code is None or job.status == "CANCELED":
        return job, False
    earliest = retries.not_before(job.policy or (), execution, job.now, jitter)
    if earliest is None:
        return job, False
    due = job.due(replace(execution, not_before=earliest), job.now)
    if job.expires is not None and job.expires <= due:
        return job, False
    execution = replace(execution, has_needed_retry=True)
    job = with_executions(job, [execution])
    if job.is_budget_exhausted:
        return job, False
    job = with_executions(job, [retries.retry(execution, job.now, earliest)])
    return replace(job, automatic_retries=job.automatic_retries + 1), True


def apply_rules(
    job: Job,
    ended: Collection[str] | None = (),
    before: tuple[Execution, ...] = (),
    user: str | None = None,
    approved_by: str | None = None,
) -> Job:
    """Complete the job, or apply its failure criteria and the gates of its stages.

    The devices `ended` have just ended an attempt by themselves, and the executions were `before`;
    None: the criteria have changed. `user` has finished executions, `approved_by` approved a stage.
    """
    is_pending = job.count("QUEUED") + job.count("IN_PROGRESS") > 0
    if job.is_active and not is_pending and job.target is None:
        job = replace(job, status="COMPLETED", awaiting_approval=False)
        job = add_event(job, "job.completed", user)
    if not job.is_active or job.is_paused:
        return job
    trip = None
    if ended is None or ended:
        trip = criteria.decide(
            job.criteria,
            job.stage_count,
            before or job.executions,
            job.executions,
            job.released,
            ended,
        )
    if trip is not None:
        return _trip(job, trip)
    if job.rollout is None or job.has_expired:
        return job
    return _apply_gates(job, job.rollout, approved_by)


def _trip(job: Job, trip: criteria.Trip) -> Job:
    details: dict[str, Any] = {} if trip.stage is None else {"stage": trip.stage}
    job = add_event(replace(job, trip=trip), "job.tripped", **details)
    action = job.criteria[trip.criterion][0].action
    if action == "PAUSE":
        return pause(job, "FAILURE_CRITERION")
    return cancel(job, action == "FORCE_CANCEL", "FAILURE_CRITERION")


def _apply_gates(job: Job, before: stages.Rollout, user: str | None) -> Job:
    rollout, has_failed = stages.apply_gates(before, job.statuses)
    job = replace(job, rollout=rollout)
    for stage in range(before.open_stage + 1, rollout.open_stage + 1):
        job = add_event(
            replace(job, awaiting_approval=False),
            "job.stage_opened",
            user,
            stage=stage,
            cause="GATE",
        )
        if stage < rollout.open_stage:
            last = replace(job.events[-1], counts=None)
            job = replace(job, events=(*job.events[:-1], last))
    if has_failed and job.count("QUEUED") + job.count("IN_PROGRESS"):
        return pause(replace(job, awaiting_approval=False), "GATE_NOT_MET")
    if rollout.is_awaiting_approval != job.awaiting_approval:
        job = replace(job, awaiting_approval=rollout.is_awaiting_approval)
        if job.awaiting_approval:
            job = add_event(job, "job.awaiting_approval", stage=rollout.open_stage)
    return job
