"""UpdateJob, one field at a time."""

from collections.abc import Sequence
from dataclasses import replace

from tests.model import criteria, stages
from tests.model.criteria import Criterion
from tests.model.execution import Seconds
from tests.model.job import Job, add_event
from tests.model.retries import Rule
from tests.model.rules import apply_rules, start_if_due
from tests.model.tenant import Rejected, Result, State
from tests.model.windows import Window


def update_labels(
    state: State, job_id: str, user: str, labels: frozenset[tuple[str, str]]
) -> Result:
    job = replace(state.job(job_id), labels=labels)
    return state.with_job(_updated(job, user, "labels")), None


def update_criteria(state: State, job_id: str, user: str, new: Sequence[Criterion]) -> Result:
    job = _updatable(state, job_id)
    job = replace(job, criteria=criteria.replaced(job.criteria, new, job.now))
    job = _updated(job, user, "failure_criteria")
    return state.with_job(apply_rules(job, ended=None)), None


def update_policy(state: State, job_id: str, user: str, policy: tuple[Rule, ...]) -> Result:
    """Replace the retry policy; an empty one removes it."""
    job = _updatable(state, job_id)
    job = replace(job, policy=policy or (None if job.policy is None else ()))
    return state.with_job(apply_rules(_updated(job, user, "retry_policy"))), None


def update_max_in_progress(state: State, job_id: str, user: str, limit: int | None) -> Result:
    job = _updatable(state, job_id)
    if job.rollout is None:
        raise Rejected("INVALID_FIELD")
    job = _updated(replace(job, max_in_progress=limit), user, "rollout.max_in_progress")
    return state.with_job(apply_rules(job)), None


def update_rate(state: State, job_id: str, user: str, rate: int | None) -> Result:
    """Change the rate of the stages that have not passed."""
    job = _updatable(state, job_id)
    if job.rollout is None:
        raise Rejected("INVALID_FIELD")
    job = replace(job, rollout=stages.update_rates(job.rollout, rate))
    return state.with_job(_fitting(apply_rules(_updated(job, user, "rollout.stages")))), None


def update_start(state: State, job_id: str, user: str, start: Seconds) -> Result:
    """Change the start of a job that has not started, which moves its expiry as well."""
    job = _updatable(state, job_id)
    if not job.is_scheduled:
        raise Rejected("JOB_NOT_UPDATABLE")
    start = max(start, job.now)
    expires = None if job.expires is None else job.expires + start - job.start
    job = replace(job, start=start, expires=expires)
    if not job.is_paused:
        job = start_if_due(job)
    return state.with_job(_fitting(apply_rules(_updated(job, user, "start_at")))), None


def update_expiry(state: State, job_id: str, user: str, expires: Seconds | None) -> Result:
    job = _updatable(state, job_id)
    if job.has_expired:
        raise Rejected("JOB_NOT_UPDATABLE")
    job = replace(job, expires=expires, expires_after_approval=None)
    job = _updated(job, user, "expires_at")
    return state.with_job(_fitting(apply_rules(job))), None


def update_windows(state: State, job_id: str, user: str, windows: tuple[Window, ...]) -> Result:
    """Change the start windows, and let the job never expire: it could be before a window."""
    job = _updatable(state, job_id)
    if job.has_expired:
        raise Rejected("JOB_NOT_UPDATABLE")
    job = replace(job, windows=windows, expires=None, expires_after_approval=None)
    job = _updated(job, user, "expires_at", "start_windows")
    return state.with_job(apply_rules(job)), None


def end_joins(state: State, job_id: str, user: str, _: object) -> Result:
    job = _updated(replace(_updatable(state, job_id), target=None), user, "continuous")
    return state.with_job(apply_rules(job, user=user)), None


def _updatable(state: State, job_id: str) -> Job:
    job = state.job(job_id)
    if not job.is_active:
        raise Rejected("JOB_NOT_UPDATABLE")
    return job


def _updated(job: Job, user: str, *names: str) -> Job:
    return add_event(job, "job.updated", user, updated_fields=list(names))


def _fitting(job: Job) -> Job:
    """Return the job, unless the rest of its rollout can't end before it expires."""
    if job.expires is None or job.has_expired:
        return job
    if job.expires <= max(job.now, job.start) + job.minimum_time:
        raise Rejected("EXPIRY_TOO_EARLY")
    return job
