"""What a job waits for, and which calls it allows: Job.waits_for and Job.possible_actions."""

from collections.abc import Callable, Iterator
from functools import partial
from math import ceil

from tests.model import operator_calls as calls
from tests.model.execution import FAILURES
from tests.model.job import Job
from tests.model.tenant import Call, Result, State, step

Wait = tuple[str, int, int, int]
"""The kind, the stage (0: none), and how many devices meet the gate and must meet it (0: none)."""

_CALLS: dict[str, Callable[..., Result]] = {
    "PAUSE": calls.pause_job,
    "ADVANCE": calls.advance_job,
    "CANCEL": partial(calls.cancel_job, force=False),
}


def possible_actions(job: Job) -> set[str]:
    """The calls that would change the job, and those that may."""
    rollout = job.rollout
    before = State(job.now, (job,))

    def changes(each: Call) -> bool:
        return step(before, each, job.now)[0] != before

    allows = {
        name: changes(Call(function, job.job_id, "olivia")) for name, function in _CALLS.items()
    }
    allows |= {
        "RESUME": job.is_active
        and job.is_paused
        and job.start_approved is not False
        and not _has_failed(job),
        **dict.fromkeys(
            ("APPROVE_START", "REJECT_START"), job.is_active and job.start_approved is False
        ),
        "APPROVE_STAGE": rollout is not None
        and not rollout.is_last
        and changes(Call(calls.approve_stage, job.job_id, rollout.open_stage, "anna")),
        "REJECT_STAGE": rollout is not None
        and step(before, Call(calls.reject_stage, job.job_id, rollout.open_stage, "anna"), job.now)[
            1
        ].reason
        is None,
        "RETRY": job.status != "CANCELED" and any(map(job.count, FAILURES)),
        "UPDATE": job.is_active,
        "DELETE": changes(Call(calls.delete, job.job_id)),
    }
    return {name for name, is_allowed in allows.items() if is_allowed}


def _has_failed(job: Job) -> bool:
    """Whether the gate of the open stage pauses the job as soon as it is resumed."""
    rollout = job.rollout
    return (
        rollout is not None
        and not (rollout.is_last or job.has_expired)
        and rollout.is_finished(job.statuses)
        and not rollout.is_successful(job.statuses)
        and rollout.stage.advance_after is None
    )


def waits(job: Job) -> list[Wait]:
    """What the job waits for, in order, without start windows."""
    if not job.is_active:
        return []
    found = [("START_APPROVAL", 0, 0, 0)] if job.start_approved is False else []
    if job.is_paused and job.pause_cause != "START_APPROVAL":
        found.append(("RESUME", 0, 0, 0))
    if not job.has_started:
        found.append(("START", 0, 0, 0))
    if job.target is not None and job.joins_stopped and job.pause_cause != "JOINS":
        found.append(("JOINS_LIMIT", 0, 0, 0))
    return [*found, *_gate_waits(job)]


def _gate_waits(job: Job) -> Iterator[Wait]:
    rollout = job.rollout
    if rollout is None or rollout.is_last or job.has_expired:
        return
    stage = rollout.stage
    if not job.awaiting_approval:
        if not rollout.is_successful(job.statuses):
            statuses = [job.statuses[rank - 1] for rank in rollout.ranks]
            have, need = statuses.count("SUCCEEDED"), len(statuses)
            if stage.min_succeeded_percent is None:
                have = sum(status in ("SUCCEEDED", *FAILURES) for status in statuses)
            else:
                need = ceil(need * stage.min_succeeded_percent / 100)
            yield "DEVICES", rollout.open_stage, have, need
            if stage.advance_after is not None:
                yield "ADVANCE_AFTER", rollout.open_stage, 0, 0
        elif stage.bake and rollout.ranks:
            yield "BAKE_TIME", rollout.open_stage, 0, 0
    if rollout.needs_approval:
        yield "APPROVAL", rollout.open_stage, 0, 0
