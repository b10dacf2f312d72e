"""Devices that join continuous jobs."""

from collections.abc import Container
from dataclasses import replace

from tests.model.execution import Execution, forget_failures, queue_next
from tests.model.job import Job, add_event, with_executions
from tests.model.rules import End, apply_rules, end_attempts, pause
from tests.model.stages import change_rate
from tests.model.targets import matching
from tests.model.tenant import Result, State

# The default, for jobs of up to 2,000 devices.
_MAX_JOINS = 100
_HOUR = 3600


def join_changed(state: State, devices: Container[str]) -> Result:
    """Let devices that changed join all jobs. Returns nothing."""
    for job_id in _continuous(state):
        state, _ = join(state, job_id, devices)
    return state, None


def full_scan(state: State, size: int) -> Result:
    """Let all devices join all jobs, in ranges of `size` devices. Returns nothing.

    It also ends executions of devices that were deleted before an operator retried them.
    """
    registered = [device.device_id for device in state.devices]
    for job_id in _continuous(state):
        for first in range(0, len(registered) + 1, size):
            devices = registered[first : first + size]
            state, _ = join(state, job_id, devices)
            after = registered[first - 1] if first else ""
            last = devices[-1] if len(devices) == size else "\U0010ffff"
            gone = {
                each.device: End("REJECTED", None, "DEVICE_DELETED")
                for each in sorted(state.job(job_id).executions, key=lambda each: each.device)
                if each.status == "QUEUED"
                and after < each.device <= last
                and each.device not in registered
            }
            if gone and registered:
                state = state.with_job(end_attempts(state.job(job_id), gone))
    return state, None


def _continuous(state: State) -> list[str]:
    return [job.job_id for job in state.jobs if job.target is not None]


def join(state: State, job_id: str, devices: Container[str] | None = None) -> Result:
    """Let devices that match, by default all, join a job. Returns how many; None: none ever can."""
    job = state.job(job_id)
    if job.target is None or job.joins_stopped:
        return state, None if job.target is None else 0
    matches = [
        device
        for device in matching(job.target, state.devices)
        if devices is None or device in devices
    ]
    found = {device: job.execution(device) for device in matches}
    removed = [
        e for e in found.values() if e and (e.status, e.cause) == ("REJECTED", "DEVICE_DELETED")
    ]
    new = [device for device, execution in found.items() if execution is None]
    if not removed + new:
        return state, 0

    if job.hour is None or job.now > job.hour + _HOUR:
        job = replace(job, hour=job.now, hour_joins=0)
    room = (job.max_joins or _MAX_JOINS) - job.hour_joins
    is_stopped = len(removed) + len(new) > room
    removed = removed[:room]
    new = new[: room - len(removed)]
    count = len(removed) + len(new)
    job = replace(job, hour_joins=job.hour_joins + count, joins_stopped=is_stopped)
    if count:
        again = [forget_failures(queue_next(execution, job.now)) for execution in removed]
        job = _add(with_executions(job, again), new)
        job = add_event(job, "job.devices_joined", joined_count=count)
    else:
        job = replace(job, hour=None) if not job.hour_joins else job
    job = pause(job, "JOINS") if is_stopped and not job.is_paused else apply_rules(job)
    return state.with_job(job), count


def _add(job: Job, devices: list[str]) -> Job:
    """Add executions to the last stage. Releases for which there was no device lapse."""
    rollout, stage = job.rollout, job.stage_count - 1
    if rollout is not None:
        if rollout.is_last and devices:
            rollout = change_rate(rollout, rollout.rate)
        *before, last = rollout.last_ranks
        rollout = replace(rollout, last_ranks=(*before, last + len(devices)))
    first = len(job.executions) + 1
    added = tuple(
        Execution(device, rank, stage=stage, queued=job.now)
        for rank, device in enumerate(devices, first)
    )
    return replace(job, executions=(*job.executions, *added), rollout=rollout)
