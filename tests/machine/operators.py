"""Random calls of operators."""

from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from tests.machine import messages
from tests.machine.clock import timestamp
from tests.machine.machine import SEED, Machine, outcome
from tests.model import operator_calls as calls
from tests.model import update_calls as updates
from tests.model.execution import FAILURES, PENDING
from tests.model.job import Job
from tests.model.stages import Stage, update_rates
from tests.model.tenant import Call, Result
from tests.model.windows import Window

CODES = ["", "E1", "E2"]
USER = "olivia"


async def create(m: Machine) -> None:
    """CreateJob for all registered devices of the profile, or for some of them."""
    settings = m.profile.settings(m)
    registered = [device.device_id for device in m.state.devices]
    count = settings.pop("devices", len(registered))
    devices = m.random.sample(registered, min(count, len(registered)))
    await create_for(m, devices, settings, {"target_device_ids": pb.DeviceIds(device_ids=devices)})


async def create_for(
    m: Machine, devices: list[str], settings: dict[str, Any], target: dict[str, Any]
) -> None:
    """CreateJob for these devices. A job with windows never expires if it would too early."""
    m.created += 1
    order = await m.service.database.order_of_release(devices, SEED)
    job_id = f"j{m.created}"
    fields = messages.job(settings, SEED) | {"job_id": job_id} | target
    if settings.get("windows") and settings.get("expires_after") is not None:
        # The forecast has a model of its own: test_forecast.py.
        await m.set_time(m.now + m.profile.tick)
        _, reason = await outcome(m.operator.create(**fields, validate_only=True))
        assert reason in (None, "EXPIRY_TOO_EARLY")
        if reason:
            settings["expires_after"] = None
            fields = messages.job(settings, SEED) | {"job_id": job_id} | target
    settings |= {"job_id": job_id, "zones": m.profile.zones}
    call = Call(calls.create, devices=order, user=USER, **settings)
    await m.both(call, m.operator.create(**fields))


async def delete(m: Machine) -> None:
    job_id = m.job().job_id
    await m.both(Call(calls.delete, job_id), m.operator.delete(job_id))
    if all(job.job_id != job_id for job in m.state.jobs):
        assert await outcome(m.operator.get(job_id)) == (None, "JOB_NOT_FOUND")


async def cancel(m: Machine) -> None:
    job_id, force = m.job().job_id, m.choice([True, False, False])
    call = Call(calls.cancel_job, job_id, USER, force=force)
    await m.both(call, m.operator.cancel(job_id, force=force))


async def pause(m: Machine) -> None:
    job_id = m.job().job_id
    await m.both(Call(calls.pause_job, job_id, USER), m.operator.pause(job_id))


async def resume(m: Machine) -> None:
    job_id = m.job().job_id
    await m.both(Call(calls.resume_job, job_id, USER), m.operator.resume(job_id))


async def advance(m: Machine) -> None:
    job_id = m.job().job_id
    await m.both(Call(calls.advance_job, job_id, USER), m.operator.advance(job_id))


async def approve(m: Machine) -> None:
    job_id, stage = m.job().job_id, m.random.randrange(3)
    call = Call(calls.approve_stage, job_id, stage, "anna")
    await m.both(call, m.approver.approve(job_id, stage))


async def reject(m: Machine) -> None:
    """RejectStage, of an open stage that needs an approval if there is one."""
    rollouts = {job.job_id: job.rollout for job in m.state.jobs if job.rollout}
    waiting = [job_id for job_id, rollout in rollouts.items() if rollout.needs_approval]
    job_id = m.choice(waiting) if waiting else m.job().job_id
    stage = rollouts[job_id].open_stage if waiting else m.random.randrange(3)
    call = Call(calls.reject_stage, job_id, stage, "anna")
    await m.both(call, m.approver.reject(job_id, stage))


async def approve_start(m: Machine) -> None:
    """ApproveStart, mostly of a job that needs it."""
    job = _job_to_approve(m)
    if job.windows and job.expires is not None:
        return  # The forecast has a model of its own.
    call = Call(calls.approve_start, job.job_id, "anna")
    await m.both(call, m.approver.approve_start(job.job_id))


async def reject_start(m: Machine) -> None:
    """RejectStart, mostly of a job that is not approved."""
    job_id = _job_to_approve(m).job_id
    await m.both(Call(calls.reject_start, job_id, "anna"), m.approver.reject_start(job_id))


def _job_to_approve(m: Machine) -> Job:
    waiting = [job for job in m.state.jobs if job.is_active and job.start_approved is False]
    return m.choice(waiting) if waiting else m.job()


async def cancel_execution(m: Machine) -> None:
    """CancelExecution, mostly of one that is pending."""
    job_id, execution = m.execution()
    if execution.status not in PENDING and m.random.random() < 0.8:
        return
    force = m.choice([True, True, False])
    await m.both(
        Call(calls.cancel_execution, job_id, execution.device, USER, force=force),
        m.operator.cancel_execution(job_id, execution.device, force=force),
    )


async def retry(m: Machine) -> None:
    """RetryExecutions, of some devices, statuses and codes, sometimes with a new expiry."""
    job = m.job()
    devices = [execution.device for execution in job.executions]
    if not devices:
        return
    some = m.random.sample(devices, m.random.randint(1, len(devices)))
    hours = 2 if job.has_expired or m.random.random() < 0.3 else None
    never = hours is not None and m.random.random() < 0.3
    choices: dict[str, Any] = {
        "statuses": m.choice([FAILURES, FAILURES, *((status,) for status in FAILURES)]),
        "codes": m.choice([[], [], ["E1"], ["", "E2"]]),
        "devices": m.choice([[], some]),
        "never_expires": never,
        "expires_after": None if hours is None or never else 3600 * hours,
    }
    await retry_chosen(m, job.job_id, choices)


async def retry_chosen(m: Machine, job_id: str, choices: dict[str, Any]) -> None:
    """RetryExecutions with arguments of the model."""
    fields = {"device_ids": choices.get("devices", []), "failure_codes": choices["codes"]}
    if choices.get("never_expires"):
        fields["never_expires"] = True
    elif choices.get("expires_after"):
        fields["expires_in_hours"] = choices["expires_after"] // 3600
    response, count = await m.both(
        Call(calls.retry_executions, job_id, USER, **choices),
        m.operator.retry(job_id, *choices["statuses"], **fields),
    )
    assert response is None or response.retried_count == count


# UpdateJob


async def _update(
    m: Machine, function: Callable[..., Result], job_id: str, value: Any, *paths: str, **fields: Any
) -> None:
    await m.both(Call(function, job_id, USER, value), m.operator.update(job_id, *paths, **fields))


async def end_joins(m: Machine) -> None:
    await _update(m, updates.end_joins, m.job().job_id, None, "continuous")


async def update_labels(m: Machine) -> None:
    job_id, team = m.job().job_id, m.choice(["a", "b"])
    new = frozenset({("team", team)})
    await _update(m, updates.update_labels, job_id, new, "labels", labels={"team": team})


async def update_criteria(m: Machine) -> None:
    """Replace the failure criteria by those of another random job."""
    job = m.job()
    new = list(m.profile.settings(m).get("criteria", ()))
    if job.rollout is None:
        new = [criterion for criterion in new if criterion.scope == "JOB"]
    sent = [messages.criterion(criterion) for criterion in new]
    path = "failure_criteria"
    await _update(m, updates.update_criteria, job.job_id, new, path, failure_criteria=sent)


async def update_policy(m: Machine) -> None:
    """Replace the retry policy by that of another random job, or remove it."""
    job_id = m.job().job_id
    policy = m.profile.settings(m).get("policy") or ()
    sent = messages.retry_policy(policy)
    await _update(m, updates.update_policy, job_id, policy, "retry_policy", retry_policy=sent)


async def update_max_in_progress(m: Machine) -> None:
    job_id, limit = m.job().job_id, m.choice([None, 1, 2])
    sent, path = pb.Rollout(max_in_progress=limit), "rollout.max_in_progress"
    await _update(m, updates.update_max_in_progress, job_id, limit, path, rollout=sent)


async def update_rate(m: Machine) -> None:
    """Change the rate of the stages that have not passed, mostly while one is released."""
    paced = [job for job in m.state.jobs if job.is_active and job.rollout and job.rollout.rate]
    job, rate = m.choice(paced) if paced else m.job(), m.choice([None, 1, 2])
    stages = update_rates(job.rollout, rate).stages if job.rollout else [Stage()]
    sent = messages.rollout(stages, SEED)
    await _update(m, updates.update_rate, job.job_id, rate, "rollout.stages", rollout=sent)


async def update_start(m: Machine) -> None:
    """Change the start time, mostly of a job that has not started."""
    scheduled = [job for job in m.state.jobs if job.is_scheduled]
    job = m.choice(scheduled) if scheduled else m.job()
    start = m.now + m.choice([0, 30, 60, 180, 5400])
    sent = timestamp(start)
    await _update(m, updates.update_start, job.job_id, start, "start_at", start_at=sent)


async def update_expiry(m: Machine) -> None:
    """Let the job expire before, at or after the end of its rollout, before its start, or never."""
    job = m.job()
    if job.windows:
        return  # The forecast has a model of its own.
    earliest = max(m.now + m.profile.tick, job.start) + job.minimum_time
    earliest = Fraction(ceil(earliest * 10**6), 10**6)  # A timestamp has microseconds.
    expires = m.choice([None, *(earliest + more for more in (-60, 0, 30, 3600))])
    if expires is None or expires > m.now + m.profile.tick:
        sent = None if expires is None else timestamp(expires)
        await _update(m, updates.update_expiry, job.job_id, expires, "expires_at", expires_at=sent)


async def update_windows(m: Machine) -> None:
    """Remove the windows, or let one open in three days."""
    job_id = m.job().job_id
    windows = m.choice([(), (Window(1 << 4, 12 * 60, 60),)])
    paths, sent = ("start_windows", "expires_at"), messages.windows(windows)
    await _update(m, updates.update_windows, job_id, windows, *paths, start_windows=sent)
