"""What keeps a device from starting an execution: ExplainExecution."""

from tests.model.device_calls import queue_key
from tests.model.execution import Execution
from tests.model.job import Job
from tests.model.tenant import State
from tests.model.windows import next_due


def blockers(state: State, job: Job, execution: Execution) -> set[str]:
    """The kinds of StartBlocker, without EXPIRES_FIRST."""
    if execution.status == "IN_PROGRESS":
        return set()
    if not execution.is_pending:
        return {"FINISHED"}
    rollout = job.rollout
    is_open = rollout is None or execution.stage <= rollout.open_stage
    has_rate = rollout is not None and rollout.rate is not None
    now = state.now
    holds = {
        "JOB_PAUSED": job.is_paused,
        "JOB_SCHEDULED": job.is_scheduled,
        "STAGE_NOT_OPEN": not is_open,
        "NOT_RELEASED": is_open and has_rate and job.is_held(execution),
        "WINDOW_CLOSED": next_due(job.windows, job.zone or execution.zone, now) != now,
        "BACKOFF": execution.not_before is not None and execution.not_before > now,
        "JOB_FULL": job.is_full,
        "OTHER_JOB_FIRST": job_before(state, job, execution) is not None,
    }
    return {kind for kind, holds_back in holds.items() if holds_back} or {"WAITING_FOR_DEVICE"}


def job_before(state: State, job: Job, execution: Execution) -> str | None:
    """The job that the device starts first, if that is another one."""
    own = queue_key(job, execution)
    keys = []
    for other in state.jobs:
        each = other.execution(execution.device)
        if each is not None and other.is_queued_for_device(each) and not other.start_error(each):
            keys.append(queue_key(other, each))
    before = [key for key in keys if key < own]
    return min(before)[-1] if before else None
