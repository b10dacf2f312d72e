"""The calls of operators, except UpdateJob."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.model import stages
from tests.model.criteria import Criterion
from tests.model.execution import Execution, Seconds, forget_failures, queue_next
from tests.model.job import Job, add_event, with_executions
from tests.model.rules import End, apply_rules, cancel, end_attempts, pause, start_if_due
from tests.model.stages import Stage
from tests.model.targets import Device
from tests.model.tenant import Rejected, Result, State

UNAPPROVED_EXPIRY = 720 * 3600
"""How long after its start a job expires whose start is not approved, unless it never does."""


def create(
    state: State,
    job_id: str,
    devices: Sequence[str],
    user: str,
    *,
    zones: Mapping[str, str] | None = None,
    rollout: Sequence[Stage] = (),
    criteria: Sequence[Criterion] = (),
    start: Seconds | None = None,
    expires_after: Seconds | None = None,
    replaces: str = "",
    start_approval: bool = False,
    **settings: Any,
) -> Result:
    """CreateJob for devices in the order of release. It expires some time after its start.

    With start_approval, it expires some time after its approval, if that is later.

    `zones` has the time zones of devices; others have UTC.
    """
    starts = state.now if start is None else max(start, state.now)
    if replaces:
        if starts > state.now:
            raise Rejected("INVALID_FIELD")
        state = state.with_job(_replace(state.job(replaces), job_id, user))
    placed = None
    if rollout:
        placed, devices = stages.divide(rollout, devices, stages.claims(rollout, state.devices))
    last_ranks = placed.last_ranks if placed else (len(devices),)
    executions = tuple(
        Execution(
            device,
            rank,
            stage=sum(last < rank for last in last_ranks),
            zone=(zones or {}).get(device, "UTC"),
            queued=state.now,
        )
        for rank, device in enumerate(devices, 1)
    )
    job = Job(
        job_id,
        executions,
        state.now,
        starts,
        None if expires_after is None else starts + expires_after,
        has_start_at=start is not None,
        rollout=placed,
        criteria=tuple((criterion, state.now) for criterion in criteria),
        replaces=replaces,
        **settings,
    )
    if expires_after is not None and expires_after <= job.minimum_time:
        raise Rejected("EXPIRY_TOO_EARLY")
    details = {"replaces_job_id": replaces} if replaces else {}
    job = start_if_due(job)
    if start_approval:
        job = replace(
            job,
            expires=None if expires_after is None else starts + UNAPPROVED_EXPIRY,
            expires_after_approval=expires_after,
            start_approved=False,
            pause_cause="START_APPROVAL",
        )
    job = add_event(job, "job.created", user, **details)
    if start_approval:
        job = pause(job, "START_APPROVAL")
    return state.with_job(apply_rules(job)), None


def _replace(job: Job, new_job_id: str, user: str) -> Job:
    job = replace(job, replaced_by=new_job_id)
    if not job.is_active:
        return job
    return cancel(job, False, "REPLACED", user, replaced_by_job_id=new_job_id)


def delete(state: State, job_id: str) -> Result:
    job = state.job(job_id)
    if job.is_active or job.count("IN_PROGRESS"):
        raise Rejected("JOB_NOT_DELETABLE")
    return state.without_job(job_id), None


def cancel_job(state: State, job_id: str, user: str, *, force: bool) -> Result:
    job = _active(state, job_id, "JOB_NOT_CANCELABLE")
    return state.with_job(cancel(job, force, "OPERATOR", user)), None


def pause_job(state: State, job_id: str, user: str) -> Result:
    """PauseJob. A pause until the approval of the start becomes one of the operator."""
    job = _active(state, job_id, "JOB_NOT_PAUSABLE")
    if job.pause_cause not in (None, "START_APPROVAL"):
        return state, None
    return state.with_job(pause(job, "OPERATOR", user)), None


def resume_job(state: State, job_id: str, user: str) -> Result:
    """ResumeJob. The criteria count what finishes from now on."""
    job = _active(state, job_id, "JOB_NOT_RESUMABLE")
    if not job.is_paused:
        return state, None
    if job.start_approved is False:
        raise Rejected("START_NOT_APPROVED")
    job = _resumed(job, user)
    if job.pause_cause == "GATE_NOT_MET":
        raise Rejected("GATE_NOT_MET")
    return state.with_job(job), None


def _resumed(job: Job, user: str) -> Job:
    job = start_if_due(replace(job, pause_cause=None))
    if job.joins_stopped:
        job = replace(job, joins_stopped=False, hour=None)
    job = replace(job, criteria=tuple((criterion, job.now) for criterion, _ in job.criteria))
    if job.rollout is not None:
        # A stage that has failed waits for advance_after, if there is one.
        is_finished = job.rollout.is_finished(job.statuses)
        job = replace(job, rollout=replace(job.rollout, failure_accepted=is_finished))
    return apply_rules(add_event(job, "job.resumed", user))


def advance_job(state: State, job_id: str, user: str) -> Result:
    job = _active(state, job_id, "JOB_NOT_ADVANCEABLE")
    if job.is_scheduled or job.rollout is None or job.rollout.is_last:
        raise Rejected("JOB_NOT_ADVANCEABLE")
    if job.start_approved is False:
        raise Rejected("START_NOT_APPROVED")
    if job.rollout.needs_approval:
        raise Rejected("APPROVAL_REQUIRED")
    rollout = stages.open_next(job.rollout)
    job = replace(job, rollout=rollout, awaiting_approval=False)
    job = add_event(job, "job.stage_opened", user, stage=rollout.open_stage, cause="OPERATOR")
    return state.with_job(apply_rules(job)), None


def approve_stage(state: State, job_id: str, stage: int, user: str) -> Result:
    """ApproveStage, by another user than the creator."""
    job = state.job(job_id)
    rollout = job.rollout
    if rollout is None or stage >= len(rollout.stages):
        raise Rejected("STAGE_NOT_APPROVABLE")
    if not rollout.stages[stage].require_approval:
        raise Rejected("STAGE_NOT_APPROVABLE")
    if stage in rollout.approved:
        return state, None
    if not job.is_active or stage != rollout.open_stage:
        raise Rejected("STAGE_NOT_APPROVABLE")
    rollout = replace(rollout, approved=rollout.approved | {stage})
    job = replace(job, rollout=rollout, awaiting_approval=False)
    job = add_event(job, "job.stage_approved", user, stage=stage)
    return state.with_job(apply_rules(job, approved_by=user)), None


def reject_stage(state: State, job_id: str, stage: int, user: str) -> Result:
    job = _active(state, job_id, "STAGE_NOT_APPROVABLE")
    rollout = job.rollout
    if rollout is None or rollout.is_last or stage != rollout.open_stage:
        raise Rejected("STAGE_NOT_APPROVABLE")
    if not rollout.needs_approval:
        raise Rejected("STAGE_NOT_APPROVABLE")
    job = add_event(job, "job.stage_rejected", user, stage=stage)
    if job.pause_cause not in (None, "START_APPROVAL"):
        return state.with_job(job), None
    return state.with_job(pause(job, "STAGE_REJECTED", user)), None


def approve_start(state: State, job_id: str, user: str) -> Result:
    """ApproveStart, by another user than the creator."""
    job = state.job(job_id)
    if job.start_approved:
        return state, None
    if job.start_approved is None or not job.is_active:
        raise Rejected("START_NOT_APPROVABLE")
    starts = max(job.now, job.start)
    if job.expires_after_approval is not None:
        job = replace(job, expires=starts + job.expires_after_approval)
    if job.expires is not None and job.expires <= starts + job.minimum_time:
        raise Rejected("EXPIRY_TOO_EARLY")
    job = add_event(replace(job, start_approved=True), "job.start_approved", user)
    return state.with_job(_resumed(job, user) if job.pause_cause == "START_APPROVAL" else job), None


def reject_start(state: State, job_id: str, user: str) -> Result:
    """RejectStart."""
    job = _active(state, job_id, "START_NOT_APPROVABLE")
    if job.start_approved is not False:
        raise Rejected("START_NOT_APPROVABLE")
    return state.with_job(cancel(job, False, "START_REJECTED", user)), None


def cancel_execution(state: State, job_id: str, device: str, user: str, *, force: bool) -> Result:
    job, execution = state.find(job_id, device)
    if not execution.is_pending:
        raise Rejected("EXECUTION_FINISHED")
    if execution.status == "IN_PROGRESS" and not force:
        raise Rejected("EXECUTION_IN_PROGRESS")
    how = End("REJECTED", None, "EXECUTION_CANCELED")
    return state.with_job(end_attempts(job, {device: how}, user=user)), None


def retry_executions(
    state: State,
    job_id: str,
    user: str,
    *,
    statuses: Collection[str],
    codes: Collection[str] = (),
    devices: Collection[str] = (),
    expires_after: Seconds | None = None,
    never_expires: bool = False,
) -> Result:
    """RetryExecutions; empty codes or devices: all. Returns how many it has retried.

    Without a new expiry, the job keeps the old one. Also takes executions whose next attempt the
    policy has queued after such a failure: it ends their backoff.
    """
    job = state.job(job_id)
    is_renewed = never_expires or expires_after is not None
    if job.status == "CANCELED" or (job.has_expired and not is_renewed):
        raise Rejected("JOB_NOT_RETRYABLE")
    taken = []
    for execution in job.executions:
        status, code = execution.status, execution.code
        if status == "QUEUED" and execution.failure is not None:
            status, code = execution.failure.status, execution.failure.code
        is_selected = not devices or execution.device in devices
        if is_selected and status in statuses and (not codes or code in codes):
            is_queued = execution.status == "QUEUED"
            taken.append(
                forget_failures(execution if is_queued else queue_next(execution, job.now))
            )
    if not taken:
        return state, 0
    job = replace(with_executions(job, taken), status="IN_PROGRESS", has_expired=False)
    if is_renewed:
        starts = max(job.now, job.start)
        expires = None if expires_after is None else starts + expires_after
        job = replace(job, expires=expires, expires_after_approval=None)
    job = add_event(job, "job.retried", user, retried_count=len(taken))
    return state.with_job(apply_rules(job)), len(taken)


def register(state: State, device: Device) -> Result:
    """UpdateDevices: register a device, or set its groups and some of its labels.

    Jobs that exist keep their devices.
    """
    before = state.device(device.device_id)
    if before is not None:
        labels = dict(before.labels) | dict(device.labels)
        device = replace(device, labels=frozenset(labels.items()))
    others = [d for d in state.devices if d.device_id != device.device_id]
    devices = sorted([*others, device], key=lambda each: each.device_id)
    return replace(state, devices=tuple(devices)), None


def delete_devices(state: State, devices: Sequence[str]) -> Result:
    """DeleteDevices. Returns how many devices existed, and how many executions it has ended."""
    left = tuple(device for device in state.devices if device.device_id not in devices)
    deleted, ended = len(state.devices) - len(left), 0
    state = replace(state, devices=left)
    how = End("REJECTED", None, "DEVICE_DELETED")
    for job in state.jobs:
        found = [job.execution(device) for device in sorted(devices)]
        queued = {each.device: how for each in found if each and each.status == "QUEUED"}
        if queued:
            state = state.with_job(end_attempts(job, queued))
            ended += len(queued)
    return state, (deleted, ended)


def _active(state: State, job_id: str, reason: str) -> Job:
    job = state.job(job_id)
    if not job.is_active:
        raise Rejected(reason)
    return job
